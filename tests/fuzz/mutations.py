"""Ways to damage a user's input: bytes, settings, flags, data files, adapters, checkpoints.

Each returns what must come of it: `any` (a result or one line), `runs` (a result), `refused` (one line), `same` (one
line, or the result of the undamaged), `near` (the same up to the rounding of 16 bits).
"""

from __future__ import annotations

import json
import math
import random
import re
from pathlib import Path
from typing import Any

import yaml

Tree = dict[str, Any]
HUGE = [10**6, 10**18, 10**30, 1e308]
NUMBERS = [-1, 0, 0.5, 1.5, -0.0, math.nan, math.inf, -math.inf, *HUGE]
TEXTS = [
    "",
    " ",
    "é👍\u200b",
    "x" * 1000,
    "null",
    "1e3",
    "1_000",
    "~",
    "..",
    "a\x00b",
    "{",
    "{0}",
    "{}",
    "{text!x}",
    "%s",
    "a\nb",
]
TEXTS += ["{text[0]}", "{text.x}", "{missing}", "{text:>9999}", "\u202e", "\ud83d", "${HOME}", "bundled:", "embedded:x"]
OTHERS = [None, True, False, [], {}, [1, 2], {"a": "b"}, [["x"]], [None], {"a": {"b": 1}}, {1: 2}]
ODD = [*NUMBERS, *TEXTS, *OTHERS]
# Settings that rightly take long if they are large.
WORK = ("steps", "factor_steps", "bootstrap_resamples", "max_new_tokens")
YAML_TRICKS = [
    "!!python/object/apply:os.system [touch made_by_yaml]",
    "!!binary aGk=",
    "&a [*a]",
    "*unknown",
    "!!set {a, b}",
]
YAML_TRICKS += [
    "!x y",
    "&a {b: *a}",
    "2001-01-01",
    "0o17",
    "1:30",
    "yes",
    "@",
    "`",
    "%",
    "? a",
    "|",
    "[",
    "'",
    "- - -",
    "!!float x",
]


def odd(rng: random.Random, key: str, of: list[Any] = ODD) -> Any:
    """Return an unexpected value, except values that would rightly run for ever."""
    value = rng.choice(of)
    return 0 if key.split(".")[-1] in WORK and isinstance(value, (int, float)) and value > 100 else value


def misspelt(rng: random.Random, word: str) -> str:
    """Return a word with one letter added, removed or changed."""
    at = rng.randrange(len(word))
    return word[:at] + rng.choice(["q", "qq", "Q" + word[at], "é"]) + word[at + rng.randrange(2) :]


def damage(rng: random.Random, data: bytes, start: int = 0) -> bytes:
    """Return bytes that are flipped, removed, inserted, doubled, cut or missing, from `start` on."""
    head, body = data[:start], bytearray(data[start:])
    for _ in range(rng.choice([1, 1, 3, 10])):
        at = rng.randrange(len(body) + 1)
        end = min(len(body), at + rng.choice([1, 1, 2, 8, 100]))
        how = rng.randrange(6)
        if how == 0 and at < len(body):
            body[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            del body[at:end]
        elif how == 2:
            body[at:at] = rng.choice(
                [b"\0", b"\xff", b"\n", b'"', b"{", b"9" * 30, "é".encode(), b"\t", rng.randbytes(4)]
            )
        elif how == 3:
            body[at:at] = body[at:end]
        elif how == 4 and rng.random() < 0.3:
            del body[at:]
        elif at < end:
            body[at:end] = bytes(reversed(body[at:end]))
    return b"" if rng.random() < 0.03 else head + bytes(body)


def damage_file(rng: random.Random, file: Path) -> str:
    """Damage the bytes of a file."""
    before = file.read_bytes()
    file.write_bytes(damage(rng, before))
    return "any"


def leaves(tree: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all keys below the sections."""
    paths = [(*prefix, key) for key in tree]
    return paths + [p for key in tree if isinstance(tree[key], dict) for p in leaves(tree[key], (*prefix, key))]


def change_tree(rng: random.Random, tree: Tree) -> str:
    """Change a key or a value of the settings, or of any JSON object."""
    path = rng.choice([p for p in leaves(tree) if len(p) > 1] or leaves(tree))
    place = tree
    for key in path[:-1]:
        place = place[key]
    key = path[-1]
    how = rng.randrange(6)
    if how == 0:
        new = misspelt(rng, str(key))
        place[new] = place.pop(key)
        return "refused" if len(path) == 2 else "any"
    if how == 1:
        del place[key]
    elif how == 2:
        tree[rng.choice(["", "modell", "training.steps", "1", "task.x"])] = {"a": 1}
    elif how == 3:
        value = place[key]
        place[key] = rng.choice([str(value), [value], {"a": value}, f"{value}x", [value, value]])
    else:
        place[key] = odd(rng, str(key))
    return "any"


def write_yaml(tree: Tree, file: Path) -> None:
    """Write settings; a value that YAML does not support becomes text."""
    file.write_text(yaml.safe_dump(tree, allow_unicode=False, sort_keys=False), encoding="utf-8")


def change_yaml(rng: random.Random, file: Path) -> str:
    """Double a key, or write a value in one of YAML's rarer forms."""
    lines = file.read_text(encoding="utf-8").split("\n")
    keyed = [i for i, line in enumerate(lines) if re.match(r" *\w+:( [^|>&*'\"\[{]|$)", line)]
    i = rng.choice(keyed)
    if rng.random() < 0.3:
        lines.insert(i, f"{lines[i].partition(':')[0]}: 1")
        expected = "refused"
    else:
        lines[i] = f"{lines[i].partition(':')[0]}: {rng.choice(YAML_TRICKS)}"
        expected = "any"
    file.write_text("\n".join(lines), encoding="utf-8")
    return expected


def change_flags(rng: random.Random, flags: list[str]) -> str:
    """Change the command line."""
    at = rng.randrange(0, len(flags) + 1, 2)
    named = [f for f in flags[::2] if f.startswith("--") and f != "--config"]
    name = rng.choice(named) if named else "--run.seed"
    how = rng.randrange(9)
    if how == 0:
        flags[at:at] = [misspelt(rng, name), "1"]
        return "refused"
    if how == 1:
        flags.append(name)
        return "refused"
    if how == 2:
        flags += [name, "1", name, "2"]
    elif how == 3:
        flags.append(
            rng.choice(
                ["--run.resume", "--resume", "-r", "--", "x", "", "--run", "--config", "--task={}", "--run.seed="]
            )
        )
    elif how == 4:
        flags += [name.rsplit(".", 1)[0], rng.choice(["{}", "null", "[]", "{x: 1}", "1"])]
    elif how == 5:
        flags += [name[: rng.randrange(3, len(name))], "1"]
        return "any"
    elif how == 6:
        flags += ["--config", rng.choice(["missing.yaml", ".", "task/train.jsonl", "/dev/null", "", "config.yaml"])]
    elif how == 7:
        flags += [f"{name}+", "1"]
    else:
        value = odd(rng, name)
        text = value if isinstance(value, str) else json.dumps(value)
        flags += [name, text.replace("\0", "").replace("\ud83d", "\udcff")]
    return "any"
