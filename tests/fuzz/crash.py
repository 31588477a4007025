"""Crashes: run every recipe with valid settings for tiny models and data, after some damage.

What must come of it: exit code 0 and a sound result, or exit code 2 and one line; nothing of the user's is changed, and
no damaged adapter or checkpoint gives another score without a word.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mutations
from damages import Case, damage
from isolation import Finished
from subjects import CHECKPOINTED, RECIPES, SUFFIXES, TRAINED, WITH_ADAPTER, settings_of

LONGEST = 500  # characters of an error's line
# Numbers of cases of each kind.
AREAS = {"nothing": 2, "settings": 4, "yaml": 2, "flags": 2, "data": 8, "adapter": 6, "checkpoint": 4, "folder": 2}
AREAS |= {"launch": 4}
RECIPES_OF = {"adapter": WITH_ADAPTER, "checkpoint": CHECKPOINTED}


def run(number: int, seed: int, folder: Path, stock: Path) -> list[str]:
    """Return the faults of a case: each is its kind, a colon, and its description."""
    rng = random.Random(f"crash {seed} {number}")
    (area,) = rng.choices(list(AREAS), list(AREAS.values()))
    whole, damaged = folder / "whole", folder / "damaged"
    case = prepare(rng, area, whole, stock)
    shutil.copytree(whole, damaged)
    flags, stdin = list(case.flags), case.stdin
    for _ in range(rng.choice([1, 1, 2, 3]) if area != "nothing" else 0):
        damage(case, area, damaged)
    before = fingerprints(damaged)
    said = [f"{area}, {case.verdict}: {' '.join(case.command)}", *case.done]
    (folder / "case.txt").write_text("\n".join(said) + "\n", encoding="utf-8", errors="backslashreplace")
    finished = case.run(damaged)
    faults = [*ending(case, finished), *files_kept(case, before, damaged), *records(case, finished, before, damaged)]
    if finished.code == 0 and not faults and case.verdict in ("same", "near"):
        found = observed(finished, damaged)
        case.flags, case.stdin = flags, stdin
        expected = observed(case.run(whole), whole)
        if not alike(found, expected, 1e-4 if case.verdict == "same" else 0.2):
            faults.append(f"another result: {case.recipe}: {case.what}: {found[:6]} instead of {expected[:6]}")
    return faults


def prepare(rng: random.Random, area: str, folder: Path, stock: Path) -> Case:
    """Return a case without damage, in `folder`."""
    recipe = rng.choice(RECIPES_OF.get(area, RECIPES))
    case = Case(rng, recipe, settings_of(recipe, rng, rng.choice([".jsonl", *SUFFIXES])))
    shutil.copytree(stock / "base", folder / "base")
    shutil.copytree(stock / "task", folder / "task")
    if recipe in WITH_ADAPTER:
        for name in (*TRAINED, "second"):
            shutil.copytree(stock / "runs" / name, folder / "runs" / name)
    if area == "checkpoint":
        case.tree = settings_of(recipe, random.Random(1))  # the settings of the stopped run
        shutil.copytree(stock / "runs" / f"stopped_{recipe}", folder / "out")
        case.flags, case.owned = ["--resume"], "out/"
    elif recipe in ("lora", "full_finetuning", "prompt_tuning") and rng.random() < 0.3:
        encoder = case.tree["task"]["choices"] is not None and recipe != "prompt_tuning"  # which refuses encoders
        case.tree["model"]["name_or_path"] = rng.choice(["base/t5", "base/bert"] if encoder else ["base/t5"])
    if recipe == "generate":
        case.encoding = rng.choice(["utf-8", "utf-8", "ascii", "latin-1"])
        if rng.random() < 0.5:
            del case.tree["input"]
            case.stdin = "the film was good\na naïve 👍 plot\n".encode()
    elif "run" in case.tree and rng.random() < 0.5:
        case.flags += ["--run.seed", "0"]
    mutations.write_yaml(case.tree, folder / "config.yaml")
    return case


def fingerprints(folder: Path) -> dict[str, str]:
    """Return the checksum of every file below a folder."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def ending(case: Case, finished: Finished) -> Iterator[str]:
    """Check the exit code and the error."""
    if finished.code is None:
        yield f"hang: {case.recipe}: {case.what}"
    elif finished.code not in (0, 2) or "Traceback (most recent" in finished.err:
        last = [line for line in finished.err.split("\n") if line.strip()][-1:]
        ours = re.findall(r'File "[^"]*/(?:softprompts|recipes)/([\w/]+\.py)", line (\d+)', finished.err)
        yield f"exit code {finished.code} at {':'.join(ours[-1]) if ours else '?'}: {''.join(last)[:300]}"
    elif finished.code == 2:
        # A progress bar may precede it; no text may follow it.
        errors = re.findall(r"(?:^|[\r\n])error: ?([^\r\n]*)", finished.err)
        lines = finished.err.rpartition("error: ")[2].strip().split("\n")
        if len(errors) != 1 or not errors[0].strip() or len(lines) != 1:
            yield f"not one line: {finished.err[-600:]!r}"
        elif len(errors[0]) > LONGEST:
            yield f"long line: {len(errors[0])} characters: {errors[0][:200]}"
        elif case.verdict == "runs":
            yield f"needless refusal: {errors[0]}"
    elif case.verdict == "refused":
        yield f"accepted: {case.recipe}: {case.what}"


def files_kept(case: Case, before: dict[str, str], folder: Path) -> Iterator[str]:
    """Check that files from before still exist unchanged."""
    after = fingerprints(folder)
    for name, digest in before.items():
        free = case.owned and name.startswith(case.owned) and not name.startswith(tuple(case.mine))
        if after.get(name) != digest and not free:
            yield f"{'changed' if name in after else 'deleted'} a file: {name}"


def records(case: Case, finished: Finished, before: dict[str, str], folder: Path) -> Iterator[str]:
    """Check a run's records: JSON without NaN, and shares between 0 and 1."""
    written = [name for name, digest in fingerprints(folder).items() if before.get(name) != digest]
    found = [name for name in written if Path(name).name in ("result.json", "compare.json")]
    if finished.code == 0 and case.verdict == "runs" and "run" in case.tree and not found:
        yield "no record: exit code 0, and no result.json"
    for name in found:
        try:
            tree = json.loads((folder / name).read_text(encoding="utf-8"), parse_constant=_refuse)
        except ValueError as error:
            yield f"broken record: {name}: {error}"
            continue
        intervals = [value for value in _objects(tree) if value.keys() >= {"value", "low", "high", "rows"}]
        for interval in intervals:
            if not 0 <= interval["low"] <= interval["value"] <= interval["high"] <= 1:
                yield f"broken record: {name}: {interval}"
        if not intervals:
            yield f"broken record: {name}: no metric in it"


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} in it")


def _objects(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield every object inside a JSON value."""
    if isinstance(tree, dict):
        yield tree
    for value in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _objects(value)


def observed(finished: Finished, folder: Path) -> list[Any]:
    """Return the result of a command: the scores or answers of its rows, or its output."""
    out = folder / "out"
    if (out / "compare.json").is_file():
        tree = json.loads((out / "compare.json").read_text(encoding="utf-8"))
        return [value for found in _objects(tree) if "low" in found for value in found.values()]
    if (out / "predictions.jsonl").is_file():
        rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
        loss = json.loads((out / "result.json").read_text(encoding="utf-8"))["test_loss"]
        return [loss, *(value for row in rows for value in row["scores"] or [row["prediction"]])]
    return finished.out.split("\n")


def alike(found: list[Any], expected: list[Any], bound: float) -> bool:
    """Return whether two commands have the same result; generated answers may differ if the bound is for 16 bits."""

    def near(a: Any, b: Any) -> bool:
        if isinstance(a, float) and isinstance(b, float):
            return abs(a - b) <= bound * max(1.0, abs(b))
        return bool(a == b) or bound > 0.1

    return len(found) == len(expected) and all(map(near, found, expected))
