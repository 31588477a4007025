"""Make the texts of `--help`, `--help all`, `--help SECTION` and `--print_completion bash`."""

from __future__ import annotations

import inspect
import re
import shutil
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, get_type_hints

from softprompts.config.messages import describe
from softprompts.errors import UserError, listed

import yaml
from docstring_parser import parse

# The keys that `--help` shows of shared sections. A method's own section is short: its first `MOST` keys are shown.
FIRST = {
    "model": ("name_or_path", "dtype", "quantization"),
    "task": ("train", "validation", "test", "dataset", "prompt", "target", "choices", "metrics", "max_length"),
    "training": ("steps", "learning_rate", "batch_size", "eval_every", "best_by", "patience"),
    "evaluation": ("batch_size", "max_new_tokens", "split"),
    "run": ("output_dir", "seed", "resume", "trackers"),
}
MOST = 6
INDENT = 6

KINDS = ("bash", "jsonschema")  # jsonargparse makes the other one, for editors

# A shell completes by the name of the command, here python. The script finds the recipe among the words.
SCRIPT = """\
_softprompts_{name}="{flags}"
_softprompts() {{
    local word flags current="${{COMP_WORDS[COMP_CWORD]}}"
    COMPREPLY=()
    for word in "${{COMP_WORDS[@]}}"; do
        word="${{word##*/}}"
        flags="_softprompts_${{word%.py}}"
        if [[ $word == *.py && $flags =~ ^[A-Za-z0-9_]+$ && -n ${{!flags}} && $current == -* ]]; then
            COMPREPLY=($(compgen -W "${{!flags}}" -- "$current"))
        fi
    done
}}
complete -o default -F _softprompts python python3 accelerate
"""


def help_of(main: Callable[..., None], asked: str = "") -> str:
    """Return the help of a recipe: its purpose, an example, and the first keys of each section with defaults.

    Args:
        main: the recipe's `main`.
        asked: `all` for every key, a section for all of its keys, or an empty text.

    Raises:
        UserError: the section is unknown.
    """
    sections = {name: hint for name, hint in get_type_hints(main).items() if name != "return"}
    if asked in sections:
        return _section(asked, sections[asked], whole=True) + "\n"
    if asked not in ("", "all"):
        raise UserError(f'--help: no section "{asked}" (valid: {listed(["all", *sections])})')
    document = (inspect.getdoc(inspect.getmodule(main)) or "").strip()
    summary, _, rest = document.partition("\n\n")
    example = next((part for part in rest.split("\n\n") if part.startswith("    ")), "")
    script = f"recipes/{Path(inspect.getfile(main)).name}"
    parts = [f"usage: python {script} --config FILE.yaml [--SECTION.KEY VALUE ...] [--resume]", summary]
    parts += [f"Example:\n{example}"] if example else []
    parts += [_section(name, section, whole=asked == "all") for name, section in sections.items()]
    parts.append(
        "All keys: --help all. Keys of a section: --help SECTION. All keys with values, as YAML: --print_config.\n"
        "Completion of flags in bash: --print_completion bash. A schema for editors: --print_completion jsonschema."
    )
    return "\n\n".join(parts) + "\n"


def _section(name: str, section: type, whole: bool) -> str:
    document = parse(section.__doc__ or "")
    descriptions = {item.arg_name: item.description or "" for item in document.params}
    items = [item for item in fields(section) if item.init]
    first = [item for item in items if item.name in FIRST[name]] if name in FIRST else items[:MOST]
    shown = items if whole else first
    more = len(items) - len(shown)
    lines = [f"{name}: {document.short_description}"]
    hints = get_type_hints(section)
    width = min(100, shutil.get_terminal_size().columns) - INDENT
    for item in shown:
        lines.append(f"  --{name}.{item.name} {_kind(hints[item.name])}{_default(item)}")
        text = " ".join(descriptions.get(item.name, "").split())
        lines += textwrap.wrap(text, width, initial_indent=" " * INDENT, subsequent_indent=" " * INDENT)
    return "\n".join([*lines, *([f"  and {more} more: --help {name}"] if more else [])])


def _kind(hint: Any) -> str:
    text = describe(hint).removesuffix(" | null").replace("whole number", "N")
    return re.sub(r"\bnumber\b", "X", re.sub(r"\btext\b", "TEXT", text))


def default_of(item: Field[Any]) -> str | None:
    """Return a key's default as YAML; None if the key is required."""
    value = item.default if item.default_factory is MISSING else item.default_factory()
    if value is MISSING:
        return None
    return str(yaml.safe_dump(value, default_flow_style=True, width=1000)).removesuffix("\n...\n").strip()


def _default(item: Field[Any]) -> str:
    text = default_of(item)
    return "  (required)" if text is None else f"  (default: {text})"


def completion_script(name: str, keys: Iterable[str]) -> str:
    """Return a script for bash that completes the flags of `NAME.py`. Scripts of several recipes may be combined.

    Args:
        name: name of the recipe's file, without `.py`.
        keys: the recipe's settings as dotted keys. Keys without a dot are sections, not flags.
    """
    flags = sorted(f"--{key}" for key in keys if "." in key)
    return SCRIPT.format(name=name, flags=" ".join(["--config", "--resume", "--help", "--print_config", *flags]))
