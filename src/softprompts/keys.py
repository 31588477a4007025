"""Say what is wrong with a key or a value of the settings, in one line that names key, value and the valid ones."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from softprompts.errors import UserError, nearest, short
from softprompts.files import expanded, is_file, read_bytes

import yaml

# Fields of PEFT's configs that follow from the base model or that the library sets: a value for them in a YAML
# file would be overwritten, so they are not keys at all.
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

# Settings that are paths, or may be: `~` and variables of the environment are expanded in them.
PATHS = (
    "adapter.path",
    "ensemble.adapters",
    "first.path",
    "launch.records",
    "launch.runs",
    "model.name_or_path",
    "neighbours.record",
    "probe.record",
    "probe.run",
    "prompt.tokenizer_name_or_path",
    "report.ensemble",
    "report.figures",
    "report.neighbours",
    "report.page",
    "report.records",
    "run.output_dir",
    "second.path",
    "task.metrics",
    "task.schema",
    "task.test",
    "task.train",
    "task.validation",
)


def expand_paths(settings: Any) -> None:
    """Expand the paths among parsed settings in place: what is recorded is where data really came from.

    Raises:
        UserError: a path that cannot be expanded; a text that is not UTF-8, which no record could hold.
    """
    for key in PATHS:
        value = settings.get(key)
        if isinstance(value, str):
            settings[key] = expanded(key, value)
        elif isinstance(value, list):
            settings[key] = [expanded(key, v) if isinstance(v, str) else v for v in value]
    for key, value in settings.as_flat().__dict__.items():
        check_utf8(key, str(value))


def check_utf8(key: str, text: str) -> None:
    """Raise `UserError` for bytes of the command line that are not text, or half a character (\\ud83d) of a file."""
    try:
        text.encode()
    except UnicodeEncodeError:
        encoding = sys.getfilesystemencoding()
        advice = "" if encoding == "utf-8" else f"; Python reads arguments as {encoding}, PYTHONUTF8=1 makes it UTF-8"
        raise UserError(f"{key}: not UTF-8: {text!a}{advice}") from None


def flatten(tree: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of a nested mapping, inner keys as well as leaves."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield f"{prefix}{key}"
            yield from flatten(value, f"{prefix}{key}.")


def check_yaml(path: str, valid: set[str]) -> None:
    """Raise `UserError` for a missing, empty or malformed YAML file, or one with a key that nothing reads."""
    file = Path(path)
    if not is_file(file):
        others = sorted(str(p) for p in Path("configs").glob("*/*.yaml") if p.parent.name != "accelerate")
        raise UserError(f"no such config file: {path}{nearest(path, others)}")
    try:
        tree = yaml.load(read_bytes(file).decode("utf-8-sig"), Loader=_StrictLoader)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start})") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except RecursionError:
        raise UserError(f"{path}: is nested too deeply") from None
    except yaml.YAMLError as error:  # a character that YAML forbids
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    # What PyYAML lets through if a tag, such as !!float, does not fit its value.
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise UserError(f"{path}: not valid YAML: a tag does not fit its value: {short(error)}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: is empty" if tree is None else f"{path}: is no mapping of keys to values")
    try:
        json.dumps(tree, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{path}: holds half a character, {error.object[error.start]!a}") from None
    except RecursionError:
        raise UserError(f"{path}: is nested too deeply") from None
    except ValueError:  # an alias inside what it stands for
        raise UserError(f"{path}: holds a value that refers to itself; write it out without & and *") from None
    except TypeError:  # a date, or a list
        raise UserError(f"{path}: holds a key that is no text; quote it") from None
    for key in flatten(tree):
        if not known(key, valid):
            raise UserError(f'{path}: unknown key "{short(key)}"{nearest_key(key, valid)}')
    for key, value in tree.items():
        if "." not in key and not isinstance(value, dict):
            raise UserError(
                f"{path}: {key}: expected keys below it, found {'nothing' if value is None else short(value)}"
            )


MERGE = "tag:yaml.org,2002:merge"  # the key <<


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping: plain YAML drops the first without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, str] = {}
        for key in (k for k, _ in node.value if isinstance(k, yaml.ScalarNode)):
            # yes and true, or 1 and 1.0, are one value in other words.
            value = key.value if key.tag == MERGE else self.construct_object(key)
            if value in seen:
                said = "" if seen[value] == key.value else f', first as "{seen[value]}"; quote both'
                raise yaml.constructor.ConstructorError(
                    None, None, f'key "{key.value}" stands twice{said}', key.start_mark
                )
            seen[value] = key.value
        return super().construct_mapping(node, deep)


def known(key: str, valid: set[str]) -> bool:
    """Say whether something reads `key`: it is valid, or stands below a field, as `task.where.domain` does."""
    return key in valid or (key.count(".") > 1 and ".".join(key.split(".")[:2]) in valid)


def nearest_key(key: str, valid: set[str]) -> str:
    """Return what to put behind an unknown key: the key it may have meant, or those of its section."""
    section, _, name = key.rpartition(".")
    same = {v for v in valid if v.rpartition(".")[2] == name}
    inside = {v.removeprefix(f"{section}.") for v in valid if v.startswith(f"{section}.")}
    if same:
        return nearest(key, same)
    if name in PEFT_INTERNAL_FIELDS:
        return ": the library sets this field of PEFT's from the base model"
    if inside:
        return nearest(name, inside, f"{section}.")
    return nearest(key.partition(".")[0], {v for v in valid if "." not in v})


def explain(message: str, sections: dict[str, Any]) -> str:
    """Put jsonargparse's message for a value of the wrong type into one line; leave other messages."""
    keys = re.findall(r'Parser key "(\w+)\.(\w+)', message)
    found = re.search(r".*(?:Got|Given) value: (.*)", message, re.DOTALL)
    if not keys or not found:
        return short(" ".join(message.split()), 300)
    section, name = keys[-1]
    return wrong_value(f"{section}.{name}", get_type_hints(sections[section])[name], found[1].strip())


def check_values(section: str, settings: Any) -> None:
    """Refuse what jsonargparse lets pass: null for a field that has no null, and any text for an enum of PEFT's."""
    hints = get_type_hints(type(settings))
    for item in fields(settings):
        hint, value = hints[item.name], getattr(settings, item.name)
        enums = [h for h in get_args(hint) if isinstance(h, type) and issubclass(h, Enum)]
        # PEFT's own default for the number of virtual tokens is null, and means nothing.
        needed = item.default is not None or item.name == "num_virtual_tokens"
        if value is None and needed and type(None) not in get_args(hint):
            raise UserError(wrong_value(f"{section}.{item.name}", hint, "null"))
        if value is not None and enums and value not in [e.value for enum in enums for e in enum]:
            raise UserError(wrong_value(f"{section}.{item.name}", hint, str(value)))


def wrong_value(key: str, hint: Any, found: str) -> str:
    """Return the message for a value that does not fit the type of its key."""
    text = describe(hint)
    close = nearest(found, [w for w in text.split(" | ") if re.fullmatch(r"\w+", w) and w not in ("text", "number")])
    advice = close if "did you mean" in close else ""
    if "text" in text and re.match(r"\[?(True|False|\d)|\{", found):
        advice = "; quote a text that YAML reads as something else"
    return f"{key}: expected {text}, found {short(found)}{advice}"


def describe(hint: Any) -> str:
    """Return a type in words: `[text, ...] | null` for `list[str] | None`, the values of a Literal or an Enum."""
    names: dict[Any, str] = {
        int: "whole number",
        float: "number",
        str: "text",
        bool: "true | false",
        type(None): "null",
    }
    arguments = get_args(hint)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " | ".join(str(e.value) for e in hint)
    if get_origin(hint) is Literal:
        return " | ".join(map(str, arguments))
    if get_origin(hint) is list:
        return f"[{describe(arguments[0])}, ...]"
    if get_origin(hint) is dict:
        return f"{{{describe(arguments[0])}: {describe(arguments[1])}, ...}}"
    if arguments:
        enums = any(isinstance(a, type) and issubclass(a, Enum) for a in arguments)
        return " | ".join(describe(a) for a in arguments if not (enums and a is str))
    return names.get(hint, getattr(hint, "__name__", str(hint)))
