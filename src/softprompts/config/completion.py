"""`--print_completion bash`: what completes the flags of a recipe that runs as `python recipes/NAME.py`."""

from __future__ import annotations

from collections.abc import Iterable

KINDS = ("bash", "jsonschema")  # the other is for editors, and jsonargparse's

# Completion in a shell is by the name of a command, which is python's here: the recipe is found among the words.
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


def completion_script(name: str, keys: Iterable[str]) -> str:
    """Return a script for bash that completes the flags of `NAME.py`; those of several recipes may be read in turn.

    Args:
        name: of the recipe's file, without `.py`.
        keys: its settings, as dotted keys; those without a dot are sections, and no flags.
    """
    flags = sorted(f"--{key}" for key in keys if "." in key)
    return SCRIPT.format(name=name, flags=" ".join(["--config", "--resume", "--help", "--print_config", *flags]))
