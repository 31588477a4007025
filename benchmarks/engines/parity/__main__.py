"""Compare greedy answers with trained adapters, in each form and engine, with stock PEFT's, row by row.

    python -m benchmarks.engines.parity FOLDER VLLM_PYTHON LLAMA_PYTHON [bfloat16] TASK/METHOD=ADAPTER ...

FOLDER keeps each side's answers, which are not requested again. The record goes to
results/engines/parity.json, and its tables into docs/engines.md. The exit code is 1 if an answer in float32 differs
from PEFT's, or if a text reaches another task's prompt in spite of the helpers. With bfloat16 vLLM and PEFT answer in
that type as well; the share of PEFT's own answers that are equal in both types shows the effect of rounding.
"""

from __future__ import annotations

import json
import operator
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.engines.parity import local, rows, vllm_server
from benchmarks.engines.parity.engine import environment as vllm_environment
from benchmarks.engines.parity.table import compared, cut, table
from benchmarks.text import put
from softprompts.runs.environment import environment
from softprompts.system.files import write_atomically

from transformers import AutoTokenizer

RECORD = Path("results/engines/parity.json")
PAGE = Path("docs/engines.md")
HALF = "bfloat16"
OWN = "peft, both types"
HALF_HEAD = """In bfloat16, compared with PEFT in bfloat16. Engines round differently, so tokens with almost equal
logits can differ. The margin is the largest lead of PEFT's token, in logits, at the first different token of an answer.
The last column compares PEFT's own answers in both types."""


def main(folder: Path, python: str, llama: str, half: bool, adapters: dict[str, str]) -> int:
    """Compare all sides, record and print the results; return the exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    record = rows.prepare(folder, adapters)
    rows.export_all(folder, adapters)
    rows.build_requests(folder, record)
    sides = ask_all(folder, python, llama, half, record)
    result = in_record(record, sides)
    write_atomically(RECORD, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    made = table(result["float32"]) + (f"\n\n{HALF_HEAD}\n\n{half_table(result)}" if half else "")
    put(PAGE, "parity", f"\n{made}\n")
    print(made)
    print("tokens of another task that a text reaches:", result["crossings"])
    return int(not passes(result))


def ask_all(folder: Path, python: str, llama: str, half: bool, record: dict[str, Any]) -> dict[str, Any]:
    """Return the answers of all sides, with 16 bits last."""
    asked: dict[str, Callable[[], Any]] = {
        "peft": lambda: local.peft(record, "float32"),
        "transformers": lambda: local.transformers(folder, record),
        "own server, HTTP": lambda: local.own_server(folder, record),
    }
    script = str(Path(__file__).with_name("llama.py"))
    asked["llama.cpp"] = lambda: elsewhere(folder, "llama", [llama, script, str(folder)])
    for form in rows.FORMS:
        asked[f"vllm {form}"] = partial(offline, folder, python, form, "float32")
        asked[f"server {form}"] = partial(served, folder, python, form)
    if half:
        asked[f"peft, {HALF}"] = lambda: local.peft(record, HALF)
    for form in rows.FORMS if half else ():
        asked[f"vllm {form}, {HALF}"] = partial(offline, folder, python, form, HALF)
    return {name: kept(folder / "answers" / f"{name}.json", ask) for name, ask in asked.items()}


def kept(file: Path, ask: Callable[[], Any]) -> Any:
    """Return a side's answers, from its file if it exists."""
    if not file.is_file():
        answers = ask()
        file.parent.mkdir(exist_ok=True)
        write_atomically(file, json.dumps(answers) + "\n")
        print(f"{file.stem} has answered", flush=True)
    return json.loads(file.read_text(encoding="utf-8"))


def offline(folder: Path, python: str, form: str, dtype: str) -> Any:
    """Return the answers of vLLM's offline engine, from a separate process."""
    command = [python, "-m", "benchmarks.engines.parity.vllm_offline", str(folder), form, dtype]
    return elsewhere(folder, f"offline_{form}_{dtype}", command)


def elsewhere(folder: Path, name: str, command: list[str]) -> Any:
    """Run a program in another environment; return the content of the file that its last argument names."""
    out = folder / f"{name}.json"
    with (folder / f"{name}.log").open("w", encoding="utf-8") as log:
        alone = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        subprocess.run([*command, str(out)], env=vllm_environment() | alone, stdout=log, stderr=log, check=True)
    return json.loads(out.read_text(encoding="utf-8"))


def served(folder: Path, python: str, form: str) -> Any:
    """Return the answers of vLLM's server; for the baked model also the effect of another task's tokens in a text."""
    with vllm_server.serving(folder, form, python) as url:
        result: dict[str, Any] = {"first": vllm_server.server_answers(folder, form, url)}
        if form == "vocabulary":
            result["crossings"] = vllm_server.crossings(folder, url)
    return result


def in_record(record: dict[str, Any], sides: dict[str, Any]) -> dict[str, Any]:
    """Return the record of all comparisons."""
    ends = [AutoTokenizer.from_pretrained(record["model"]).eos_token_id]
    about = ("folder", "steps", "virtual_tokens")
    result: dict[str, Any] = {
        "command": "make parity" + (f" HALF={HALF}" if f"peft, {HALF}" in sides else ""),
        "environment": environment(),
        "engines": sides["vllm vocabulary"]["versions"] | sides["llama.cpp"]["versions"],
        "rows": rows.ROWS,
        "new_tokens": record["new_tokens"],
        "adapters": {name: {key: one[key] for key in about} for name, one in record["adapters"].items()},
        "float32": {},
        HALF: {},
        "crossings": sides["server vocabulary"]["crossings"],
    }
    for name in record["adapters"]:
        cells = result["float32"][name] = {}
        half = result[HALF][name] = {}
        for side, found in sides.items():
            for time, given in times(found).items():
                if name not in given or side.startswith("peft"):
                    continue
                key = side if time == "first" else f"{side}, again"
                if side.endswith(HALF):
                    half[key] = compared(sides[f"peft, {HALF}"][name], given[name], ends)
                else:
                    cells[key] = compared(sides["peft"][name], given[name], ends)
        if f"peft, {HALF}" in sides:
            both = [[cut(row["answer"], ends) for row in sides[side][name]] for side in ("peft", f"peft, {HALF}")]
            equal = sum(map(operator.eq, *both))
            half[OWN] = {"of": len(both[0]), "equal": equal, "differ": []}
    return result


def times(found: dict[str, Any]) -> dict[str, Any]:
    """Return a side's answers: those of the first time, and those to the repeated requests, `again`, if any."""
    return {key: found[key] for key in ("first", "again") if key in found} or {"first": found}


def half_table(result: dict[str, Any]) -> str:
    """Return the table of 16 bits: vLLM's answers against PEFT's in the same type, and PEFT's own in both types."""
    names = {f"vllm {form}, {HALF}": f"{form}, vLLM" for form in rows.FORMS}
    return table(result[HALF], names | {OWN: "PEFT's own equal to float32"})


def passes(result: dict[str, Any]) -> bool:
    """Return whether all answers in float32 are PEFT's, and the helpers keep texts from other tasks' prompts."""
    equal = all(one["equal"] == one["of"] for cells in result["float32"].values() for one in cells.values())
    return equal and not any(count for name, count in result["crossings"].items() if name != "no helper")


if __name__ == "__main__":
    named = dict(argument.split("=", 1) for argument in sys.argv[4:] if argument != HALF)
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], HALF in sys.argv, named))
