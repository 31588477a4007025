"""Read a YAML file strictly: an unknown or repeated key is an error with its line."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from softprompts.errors import LONGEST, UserError, listed, nearest, short
from softprompts.system.files import is_file, read_bytes

import yaml

TWICE = "appears twice"
MERGE = "tag:yaml.org,2002:merge"  # the key <<
# Fields of PEFT's configs that the library sets, or that follow from the base model. They are not keys, because a value
# from a YAML file would be overwritten.
PEFT_INTERNAL_FIELDS = {
    "task_type",
    "peft_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "token_dim",
    "num_transformer_submodules",
    "num_attention_heads",
    "num_layers",
    "modules_to_save",
    "tokenizer_name_or_path",
    "tokenizer_kwargs",
}


def flatten(tree: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of a nested mapping, inner keys as well as leaves."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield f"{prefix}{key}"
            yield from flatten(value, f"{prefix}{key}.")


def check_yaml(path: str, valid: set[str]) -> None:
    """Raise `UserError` for a missing, empty or malformed YAML file, or one with an unknown key."""
    file = Path(path)
    if not is_file(file):
        raise UserError(f"no such config file: {path}{_nearest_files(path)}")
    tree = tree_of(file, path)
    if not isinstance(tree, dict):
        raise UserError(f"{path}: is empty" if tree is None else f"{path}: is not a mapping of keys to values")
    if isinstance(tree.get("$schema"), str):  # for editors; jsonargparse ignores it as well
        del tree["$schema"]
    _check_values(path, tree)
    for key in flatten(tree):
        if not is_read(key, valid):
            raise UserError(f'{path}: unknown key "{short(key)}"{nearest_key(key, valid)}')
    _check_twice(path, tree)
    for key, value in tree.items():
        if "." not in key and not isinstance(value, dict):
            raise UserError(
                f"{path}: {key}: expected keys below it, found {'nothing' if value is None else short(value)}"
            )


def check_mapping(key: str, text: str) -> None:
    """Raise `UserError` for a mapping on the command line with a repeated key; all other texts pass."""
    if not text.startswith("{"):
        return
    try:
        yaml.load(text, Loader=_StrictLoader)
    except yaml.constructor.ConstructorError as error:
        if TWICE in str(error.problem):  # otherwise the text is a template with literal braces
            raise UserError(f"{key}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError, ValueError):  # the setting's type decides whether this is an error
        return


def tree_of(file: Path, path: str) -> Any:
    """Return the content of a YAML file. Messages name it as `path`.

    Raises:
        UserError: no such file; it is not UTF-8, or not valid YAML.
    """
    data = read_bytes(file)
    try:
        text = data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 (byte 0x{data[error.start]:02x}); save it as UTF-8") from None
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        number = error.problem_mark.line if error.problem_mark else 0
        hint = _quoting(next(iter(text.splitlines()[number : number + 1]), ""))
        raise UserError(f"{path}:{number + 1}: not valid YAML: {error.problem}{hint}") from None
    except yaml.reader.ReaderError as error:  # a character that YAML forbids
        number = text.count("\n", 0, error.position)
        raise UserError(f"{path}:{number + 1}: not valid YAML: {error.reason}: {text[error.position]!a}") from None
    except RecursionError:
        raise UserError(f"{path}: is nested too deeply") from None
    # PyYAML raises these if a tag, such as !!float, does not fit its value.
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise UserError(f"{path}: not valid YAML: a tag does not fit its value: {short(error)}") from None


def _nearest_files(path: str) -> str:
    """Return the end of a message about a missing config file: the nearest files, and the folder of all."""
    names = [str(p) for p in Path("configs").glob("*/*.yaml") if p.parent.name != "accelerate"]
    close = difflib.get_close_matches(path[:LONGEST], names, n=3, cutoff=0)
    return f" (nearest: {listed(close)}; all are below {Path('configs').resolve()})" if close else ""


def _quoting(line: str) -> str:
    """Return a hint for a malformed YAML line if quotes around its value would fix it; else an empty text."""
    value = re.search(r"(?:^|\s)[\w.-]+:\s+(\S.*)", line)
    if not value or value[1][0] in "\"'#":
        return ""
    if value[1][0] in "@`%&*!|>" or re.match(r"\{[\w\[\]]+\}", value[1]):
        return f"; quote texts that begin with {value[1][0]}"
    return '; quote texts that contain ": "' if ": " in value[1] else ""


def _check_values(path: str, tree: dict[Any, Any]) -> None:
    """Raise `UserError` for keys and values that cannot be settings."""
    try:
        json.dumps(tree, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{path}: contains half of a surrogate pair, {error.object[error.start]!a}") from None
    except RecursionError:
        raise UserError(f"{path}: is nested too deeply") from None
    except ValueError:  # an alias inside its own value
        raise UserError(f"{path}: contains a value that refers to itself; write it without & and *") from None
    except TypeError:  # a date, or a list
        raise UserError(f"{path}: contains a key that is not a text; quote it") from None


def _check_twice(path: str, tree: dict[str, Any]) -> None:
    """Raise `UserError` if a setting has a dotted key and a nested one; YAML would silently use the last."""
    seen: dict[str, str] = {}
    for key, value in tree.items():
        inner = value if "." not in key and isinstance(value, dict) else {}
        spelled = [(f"{key}.{name}", f"{key}: {{{name}: ...}}") for name in inner] or [(key, key)]
        for dotted, spelling in spelled:
            setting = ".".join(dotted.split(".")[:2])
            if setting in seen:
                raise UserError(
                    f"{path}: {short(setting)} appears twice: as {short(seen[setting])} and as {short(spelling)}"
                )
            seen[setting] = spelling


class _StrictLoader(yaml.SafeLoader):
    """Refuses a repeated key in a mapping; plain YAML silently drops the first one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, str] = {}
        for key in (k for k, _ in node.value if isinstance(k, yaml.ScalarNode)):
            # For YAML, yes and true are the same value, as are 1 and 1.0.
            value = key.value if key.tag == MERGE else self.construct_object(key)
            if value in seen:
                first = "" if seen[value] == key.value else f', first as "{seen[value]}"; quote both'
                raise yaml.constructor.ConstructorError(None, None, f'key "{key.value}" {TWICE}{first}', key.start_mark)
            seen[value] = key.value
        return super().construct_mapping(node, deep)


def is_read(key: str, valid: set[str]) -> bool:
    """Return whether `key` is valid, or is below a field, as `task.where.domain` is."""
    return key in valid or (key.count(".") > 1 and ".".join(key.split(".")[:2]) in valid)


def nearest_key(key: str, valid: set[str]) -> str:
    """Return the end of a message about an unknown key: the nearest key, or the keys of its section."""
    section, _, name = key.rpartition(".")
    same = {v for v in valid if v.rpartition(".")[2] == name}
    inside = {v.removeprefix(f"{section}.") for v in valid if v.startswith(f"{section}.")}
    if name in PEFT_INTERNAL_FIELDS and section in ("prompt", "prefix", "lora"):
        return ": the library sets this PEFT field from the base model"
    if same:
        return nearest(key, same)
    if inside:
        return nearest(name, inside, f"{section}.")
    return nearest(key.partition(".")[0], {v for v in valid if "." not in v})
