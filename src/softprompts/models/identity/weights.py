"""Digests of weights, of a model in memory and of its files: SHA-256 of names, shapes and evenly spread numbers.

An engine imports this module in an environment of its own: it needs neither PEFT nor transformers.
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

# Numbers of each tensor that go into the digest: all of a small one, evenly spread ones of a large one. A model of 135
# million parameters takes a tenth of a second, one of 7 billion as long.
SAMPLE = 16_384
HALVES = {torch.bfloat16: "bfloat16", torch.float16: "float16"}
TYPES = {"float32": torch.float32} | {name: dtype for dtype, name in HALVES.items()}


def sample_of(parameter: torch.Tensor) -> torch.Tensor:
    """Return evenly spread numbers of a weight, on the CPU: all of a small one."""
    flat = whole(parameter).reshape(-1)
    # An odd step: one that divides a row would look at the same few columns only.
    return flat[:: -(-len(flat) // SAMPLE) | 1].cpu()


def digests_of(weights: Iterable[tuple[str, torch.Tensor]], held: Mapping[str, torch.dtype | None]) -> dict[str, str]:
    """Return a digest of named weights for each type that they may be held in, by its name; None holds them as is."""
    digests = {kind: hashlib.sha256() for kind in held}
    for name, parameter in weights:
        numbers = sample_of(parameter)
        for kind, digest in digests.items():
            digest.update(f"{name} {tuple(parameter.shape)}\0".encode())
            digest.update(numbers.to(held[kind] or numbers.dtype).contiguous().view(torch.uint8).numpy().tobytes())
    return {kind: digest.hexdigest() for kind, digest in digests.items()}


def files_agree(model: str, revision: str | None, names: Sequence[str], recorded: Mapping[str, str]) -> bool | str:
    """Say whether a model's files hold the weights that digests were made of; in words why it cannot be said.

    Files in 16 bits hold what is left of weights in 32 bits, so that the digest for the files' type decides.

    Args:
        model: folder, or a Hub id whose files are in the cache.
        revision: of a Hub id.
        names: of the weights, in the order of the digests; empty if they are not known.
        recorded: digests by type, as `weights_digests` returns them.
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
    """Return the type that a model's files can be compared in, and their digest in it.

    Raises:
        LookupError: a weight that is not in the files; files of a type that none of `kinds` is known for.
    """
    places = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            places.update(dict.fromkeys(opened.keys(), file))
    if missing := next((name for name in names if name not in places), None):
        raise LookupError(f"no safetensors file in {folder} holds {missing}")
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
        raise LookupError(f"the files hold {found}, and the digests are of {', '.join(kinds)}")
    return kind, digests[kind]
