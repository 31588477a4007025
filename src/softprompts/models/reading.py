"""Read a model's folder with transformers, and turn errors into one line with the file and its key."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from softprompts.errors import UserError, short
from softprompts.models.bundled import BUNDLED, PREFIX
from softprompts.system.files import is_file, read_bytes
from softprompts.system.memory import one_line_if_memory_is_full

from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PretrainedConfig
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

CONFIG, GENERATION, TOKENIZER = "config.json", "generation_config.json", "tokenizer.json"
TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TEMPLATE = "chat_template.jinja"
# Buffers that older versions of transformers saved and newer ones compute.
BUFFERS = re.compile(r"(inv_freq|position_ids|masked_bias|attn\.bias|attention\.bias)$")

# Errors whose first line names the problem.
PLAIN = (OSError, SafetensorError, ImportError)

Load = Callable[[str], Any]  # a function that reads a folder, and may raise any error of a library


def _check_files(path: str) -> None:
    """Raise `UserError` for a settings file in a model's folder that is not a JSON object; Hub ids pass.

    Transformers ignores errors in some of these files, and does not name the file in its errors.
    """
    folder = Path(path)
    if not folder.is_dir():
        return
    for name in (CONFIG, GENERATION, *TOKENIZER_SETTINGS):
        if is_file(folder / name):
            kind = _object(folder / name).get("model_type", "")
            if not isinstance(kind, str):
                raise UserError(
                    f"model.name_or_path: {folder / name}: model_type: expected a text, found {short(kind)}"
                )
    if is_file(folder / INDEX) and not (folder / WEIGHTS).exists():
        _object(folder / INDEX)
    if is_file(folder / TEMPLATE):
        _text(folder / TEMPLATE)


def read_config(path: str, revision: str | None) -> PretrainedConfig:
    """Return a model's own config.

    Raises:
        UserError: a settings file is not a JSON object; transformers does not know the config, or this project does not
            support it.
    """

    def load(place: str) -> PretrainedConfig:
        found: PretrainedConfig = AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=False)
        if not isinstance(found.get_text_config(), PretrainedConfig):
            raise TypeError("expected the settings of a text model")
        return found

    _check_files(path)
    with reading(path, load, [CONFIG]):
        config = load(path)
    _check_config(path, config)
    return config


def read_tokenizer(path: str, revision: str | None) -> PreTrainedTokenizerBase:
    """Return a model's tokenizer; UserError if it cannot be read, or cannot tokenize a text."""

    def load(place: str) -> PreTrainedTokenizerBase:
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            place, revision=revision, trust_remote_code=False
        )
        found("a text")  # some settings are used at the first text
        return found

    with reading(path, load, [TOKENIZER, *TOKENIZER_SETTINGS]):
        return load(path)


def _text(file: Path) -> str:
    try:
        return read_bytes(file).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"model.name_or_path: {file}: not UTF-8 (byte {error.start})") from None


def _object(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(_text(file))
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"model.name_or_path: {file}: not valid JSON: {short(error)}") from None
    except RecursionError:
        raise UserError(f"model.name_or_path: {file}: is nested too deeply") from None
    if not isinstance(value, dict):
        raise UserError(f"model.name_or_path: {file}: expected a JSON object, found {short(json.dumps(value))}")
    return value


def _check_config(path: str, config: Any) -> None:
    """Raise `UserError` for a value of config.json that transformers accepts and this project does not support."""
    where = f"model.name_or_path: {Path(path) / CONFIG}"
    names = config.architectures
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise UserError(f"{where}: architectures: expected a list of texts, found {short(repr(names))}")
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if isinstance(layers, int) and layers < 1:
        raise UserError(f"{where}: num_hidden_layers is {layers}; expected 1 or more")


def check_generation(path: str) -> None:
    """Raise `UserError` for an unreadable generation_config.json, which transformers would ignore."""
    if (Path(path) / GENERATION).is_file():
        with reading(path, GenerationConfig.from_pretrained, [GENERATION]):
            GenerationConfig.from_pretrained(path)


def check_ends(path: str, model: Any) -> None:
    """Raise `UserError` for wrong token ids in the generation settings, which may come from config.json."""
    settings = getattr(model, "generation_config", None)
    name = GENERATION if (Path(path) / GENERATION).exists() else CONFIG
    for key in ("bos_token_id", "pad_token_id", "eos_token_id"):
        value = getattr(settings, key, None)
        ids = value if isinstance(value, list) and key == "eos_token_id" else [value]
        # Some models have -1 in place of a missing padding token.
        least = 0 if key == "eos_token_id" else -1
        if not all(i is None or (type(i) is int and i >= least) for i in ids):
            what = "a token's number, or a list of them" if key == "eos_token_id" else "a token's number"
            raise UserError(f"model.name_or_path: {Path(path) / name}: {key}: expected {what}, found {value!r}")


def idle_weights(unexpected: Sequence[str], encoder: bool) -> list[str]:
    """Return the names of a file's weights that its model has no place for, except known leftovers.

    An encoder has a head from pretraining, which the classifier replaces, so only its layers count.
    """
    return sorted(
        name for name in unexpected if not BUFFERS.search(name) and (not encoder or re.search(r"\.\d+\.", name))
    )


@contextmanager
def reading(path: str, load: Load | None = None, files: Sequence[str] = ()) -> Iterator[None]:
    """Turn any error of a library within this context into one line.

    Args:
        path: the model's folder or Hub id.
        load: function that reads a folder as the context does. After a failure it is tried without each key of `files`
            in turn, to find the key that causes the error.
        files: settings files of the folder that it reads.

    Raises:
        UserError: in place of any exception.
    """
    try:
        with one_line_if_memory_is_full(f"while {short(path)} is read", "provide more memory"):
            yield
    except UserError:
        raise
    except Exception as error:  # transformers, tokenizers, huggingface_hub and torch raise many types
        raise _cannot_load(path, error, load, files) from error


def _cannot_load(path: str, error: Exception, load: Load | None, files: Sequence[str]) -> UserError:
    what = f"model.name_or_path: cannot load {short(path)}"
    if "trust_remote_code" in str(error):
        return UserError(
            f"model.name_or_path: {path} has its own code (auto_map in its config), and this project does not run code "
            "from model folders; use a model whose architecture is in transformers"
        )
    lines = str(error).strip().splitlines()
    # Transformers explains these in a printed table, or with advice for other forms of the files.
    if "ignore_mismatched_sizes" in str(error):
        return UserError(f"{what}: its weights have other shapes than its config.json, or the choices, require")
    if lines and "backend tokenizer" in lines[0]:
        return UserError(f"{what}: no readable tokenizer files, such as {TOKENIZER}")
    plain, why = isinstance(error, PLAIN), _why(error)
    if isinstance(error, SafetensorError):
        damaged = (file for file in sorted(Path(path).glob("*.safetensors")) if not _reads(_open, str(file)))
        if file := next(damaged, None):
            return UserError(f"{what}: {file.name}: {why}")
    if load is not None and files and not plain and Path(path).is_dir() and not _reads(load, path):
        return _settings_to_blame(Path(path), files, load, why) or UserError(
            f"{what}: {' or '.join(name for name in files if (Path(path) / name).is_file())}: {why}"
        )
    hint = f'; bundled models: "{PREFIX}{next(iter(BUNDLED))}"' if not Path(path).exists() else ""
    return UserError(f"{what}: {why}{hint}")


def _why(error: Exception) -> str:
    """Return the text of an error in one line, with its type's name if the text alone is not clear."""
    lines = str(error).strip().splitlines()
    said = lines[0] if isinstance(error, PLAIN) and lines else " ".join(" ".join(lines).split())
    said = re.sub(r"^(Class v|V)alidation error for .*?: (\w+: )?", "", said)  # huggingface_hub's
    named = type(error) in (Exception, ValueError, RuntimeError) or "Validation" in type(error).__name__
    named = named or isinstance(error, PLAIN)
    return short(said if named and said else f"{type(error).__name__}: {said}".rstrip(": "), 300)


def _settings_to_blame(folder: Path, files: Sequence[str], load: Load, why: str) -> UserError | None:
    """Return the error with the settings file, and the key, without which the folder can be read."""
    for file in (folder / name for name in files if (folder / name).is_file()):
        if file.name == TOKENIZER:
            _object(file)
            if not _reads(Tokenizer.from_file, str(file)):
                return UserError(f"model.name_or_path: {file}: {why}")
        elif key := _to_blame(folder, file.name, load):
            return UserError(f"model.name_or_path: {file}: {key}: {why}")
    return None


def _open(file: str) -> None:
    with safe_open(file, "pt"):
        pass


def _reads(load: Load, path: str) -> bool:
    try:
        load(path)
    except Exception:  # as in `reading`
        return False
    return True


def _to_blame(folder: Path, name: str, load: Load) -> str:
    """Return the keys of a settings file of which each alone makes a folder unreadable; empty if there are none."""
    settings, found = _object(folder / name), []
    with tempfile.TemporaryDirectory() as place, silent_transformers():
        for file in folder.resolve().iterdir():
            if file.name != name:
                (Path(place) / file.name).symlink_to(file)
        for key in settings:
            rest = {k: v for k, v in settings.items() if k != key}
            (Path(place) / name).write_text(json.dumps(rest), encoding="utf-8")
            if _reads(load, place):
                found.append(key)
    return " or ".join(f"{short(key)} {short(json.dumps(settings[key]), 40)}" for key in found)


@contextmanager
def silent_transformers() -> Iterator[None]:
    """Within this context, transformers prints only errors, without progress bars and tables."""
    transformers_logging.disable_progress_bar()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
