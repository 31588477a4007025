"""Digest the weights of a model in memory or in files: SHA-256 of names, shapes and evenly spread numbers.

An engine imports this module in its own environment, so it requires neither PEFT nor transformers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from softprompts.models.sharding.tensors import whole

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open

# Numbers of each tensor in the digest: all of a small tensor, evenly spread ones of a large tensor. A model of 135
# million parameters takes a tenth of a second, and so does one of 7 billion.
SAMPLE = 16_384
HALVES = {torch.bfloat16: "bfloat16", torch.float16: "float16"}
TYPES = {"float32": torch.float32} | {name: dtype for dtype, name in HALVES.items()}


def sample_of(parameter: torch.Tensor) -> torch.Tensor:
    """Return evenly spread numbers of a weight, on the CPU: all of a small one."""
    flat = whole(parameter).reshape(-1)
    # The step is odd, because a step that divides a row would only read the same few columns.
    return flat[:: -(-len(flat) // SAMPLE) | 1].cpu()


def digests_of(weights: Iterable[tuple[str, torch.Tensor]], held: Mapping[str, torch.dtype | None]) -> dict[str, str]:
    """Return digests of named weights, converted to each data type, by its name; None means no conversion."""
    digests = {kind: hashlib.sha256() for kind in held}
    for name, parameter in weights:
        numbers = sample_of(parameter)
        for kind, digest in digests.items():
            digest.update(f"{name} {tuple(parameter.shape)}\0".encode())
            digest.update(numbers.to(held[kind] or numbers.dtype).contiguous().view(torch.uint8).numpy().tobytes())
    return {kind: digest.hexdigest() for kind, digest in digests.items()}


def files_agree(model: str, revision: str | None, names: Sequence[str], recorded: Mapping[str, str]) -> bool | str:
    """Return whether a model's files have the weights of these digests, or the reason why this is unknown.

    Files in 16 bits may have rounded 32-bit weights, so the digest for the files' type decides.

    Args:
        model: folder, or a Hub id whose files are in the cache.
        revision: revision of a Hub id.
        names: names of the weights, in the order of the digests; empty if unknown.
        recorded: digests by type, from `weights_digests`.
    """
    if not names or not recorded.keys() & TYPES.keys():
        return "their digests were not recorded"
    try:
        place = Path(model) if Path(model).is_dir() else Path(_downloaded(model, revision))
        kind, digest = _file_digest(place, tuple(names), tuple(key for key in TYPES if key in recorded))
    except (OSError, ValueError, LookupError, SafetensorError) as error:
        return str(error).splitlines()[0]
    return digest == recorded[kind]


def _downloaded(model: str, revision: str | None) -> str:
    return snapshot_download(model, revision=revision, local_files_only=True, allow_patterns=["*.safetensors"])


@lru_cache
def _file_digest(folder: Path, names: tuple[str, ...], kinds: tuple[str, ...]) -> tuple[str, str]:
    """Return the data type for comparing a model's files, and the files' digest in this type.

    Raises:
        LookupError: a weight is not in the files; the files' type is not among `kinds`.
    """
    places = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            places.update(dict.fromkeys(opened.keys(), file))
    if missing := next((name for name in names if name not in places), None):
        raise LookupError(f"no safetensors file in {folder} has {missing}")
    types: set[torch.dtype] = set()

    def read() -> Iterable[tuple[str, torch.Tensor]]:
        for name in names:
            with safe_open(places[name], framework="pt") as opened:
                tensor = opened.get_tensor(name)
            types.add(tensor.dtype)
            yield name, tensor

    digests = digests_of(read(), {kind: TYPES[kind] for kind in kinds})
    smaller = types - {torch.float32}
    kind = kinds[0] if not smaller else HALVES.get(smaller.pop(), "") if len(smaller) == 1 else ""
    if kind not in digests:
        found = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in types))
        raise LookupError(f"the files have {found}, but the digests are of {', '.join(kinds)}")
    return kind, digests[kind]
