"""Make tables of results from the records when the site is built."""

from __future__ import annotations

import json
import os
import re
from typing import Any

from benchmarks.memorisation import tables as canaries
from benchmarks.report.frame import results_of
from benchmarks.report.tables import metric
from benchmarks.tasks.tables import table, tasks_table
from scripts.build_docs.pages import ROOT, linked
from scripts.build_docs.records import RESULTS, TASKS, grids, runs, shipped, speeds, swept
from softprompts.errors import listed
from softprompts.methods.catalog import METHODS
from softprompts.reports.pages.frame import metrics_of
from softprompts.reports.tables import markdown_table, size
from softprompts.runs.record import Result, load_result

import pandas
import yaml

REPORT = "results/report"
NOT_MEASURED = "No record yet: `make memorisation` makes it."
SPEED_NAMES = {  # names of the training benchmark's records
    "prompt20": "prompt tuning, 20 virtual tokens",
    "prompt100": "prompt tuning, 100 virtual tokens",
    "prefix20": "prefix tuning, 20 virtual tokens",
    "prefix100": "prefix tuning, 100 virtual tokens",
    "p_tuning20": "P-tuning, 20 virtual tokens",
    "lora": "LoRA, rank 8",
    "full": "full fine-tuning",
}


def demo() -> str:
    """Return the table of `make demo`: the best hard prompt and the soft prompt."""
    folder = RESULTS / "tasks" / "demo"
    return table(*(load_result(folder / f"{recipe}.json") for recipe in ("hard_prompt", "prompt_tuning")))


def tasks() -> str:
    """Return a table for each task: the shipped config of every recipe."""
    return tasks_table([list(shipped(task).values()) for task in TASKS])


def tuned() -> str:
    """Return a list of the methods of each task whose shipped settings a sweep of the study chose."""
    lines = []
    for task in TASKS:
        trained = [name for name in shipped(task) if METHODS[name].what != "written"]
        chosen = [METHODS[name].label for name in trained if swept(task, name)]
        others = [METHODS[name].label for name in trained if not swept(task, name)]
        said = f"chosen by sweeps: {listed(chosen) or 'none'}; not swept at full length: {listed(others) or 'none'}"
        lines.append(f"- {task}: {said}.")
    return "\n".join(lines)


def overview() -> str:
    """Return one table: methods and tasks, mean ± deviation at the benchmark's budget / the shipped config's run.

    Each number is the task's first metric on its test rows, in per cent.
    """
    names = list(dict.fromkeys(method for benchmark in grids().values() for method in benchmark.cells))
    alone = [name for name in METHODS if name not in names and name != "hard_prompt" and _recorded(name)]
    head = ["method", *(f"{task}, {metrics_of(results_of(benchmark))[0]}" for task, benchmark in grids().items())]
    rows = [[_label(name), *(_both(task, name) for task in grids())] for name in [*names, *alone]]
    return markdown_table(head, rows)


def _recorded(name: str) -> bool:
    return any(name in shipped(task) for task in TASKS)


def _label(name: str) -> str:
    for benchmark in grids().values():
        if name in benchmark.cells:
            return benchmark.label(name).replace("8-shot", "few-shot").replace("4-shot", "few-shot")
    return METHODS[name].label


def _both(task: str, name: str) -> str:
    benchmark = grids()[task]
    first = metrics_of(results_of(benchmark))[0]
    seeds = metric(first).spread(runs().loc[task].loc[[name]]) if name in benchmark.cells else "–"
    single = shipped_run(task, name)
    return f"{seeds} / {_score(single, first)}" if single else f"{seeds} / –"


def shipped_run(task: str, name: str) -> Result | None:
    """Return the record of the shipped config for a row of the benchmark. A hard prompt is found by its shots."""
    if name not in ("zero_shot", "few_shot"):
        return shipped(task).get(name)
    found = shipped(task).get("hard_prompt")
    return found if found and bool(found.settings["hard"]["shots"]) == (name == "few_shot") else None


def _score(result: Result, name: str) -> str:
    """Return a metric in per cent; for a record of several tasks, on the rows of all other records."""
    chosen = [v for values in _rows_of(result.task).values() for v in values]
    tasks = result.notes.get("tasks", {})
    value = tasks[chosen[0]][name] if len(chosen) == 1 and chosen[0] in tasks else result.metrics[name].value
    return f"{100 * value:.1f}"


def _rows_of(task: str) -> dict[str, list[str]]:
    single = next(r for r in shipped(task).values() if "tasks" not in r.notes)
    found: dict[str, list[str]] = single.settings["task"]["where"]
    return found


def decision() -> str:
    """Return each method's cost and score on each task, for the page about choosing a method."""
    rows = []
    for task, benchmark in grids().items():
        first = metrics_of(results_of(benchmark))[0]
        for name in benchmark.cells:
            own = runs().loc[task].loc[[name]]
            cost = own.mean(numeric_only=True)
            trained = cost["parameters.trainable"]
            rows.append(
                {
                    "task": task,
                    "method": benchmark.label(name),
                    "test, %, mean ± deviation": f"{metric(first).spread(own)} {first}",
                    "trained parameters": f"{trained:,.0f}" if trained else "0",
                    "saved for each task": size(cost["cost.adapter_bytes"]) if trained else "0",
                    "training": f"{cost['cost.seconds_training']:.0f} s" if trained else "none",
                    "memory": f"{cost['cost.peak_memory_gib']:.1f} GiB",
                }
            )
    frame = pandas.DataFrame(rows)
    return markdown_table([*frame.columns], frame.itertuples(index=False))


def report(name: str) -> str:
    """Return a part of the benchmark's report, without its title."""
    text = (ROOT / REPORT / f"{name}.md").read_text(encoding="utf-8")
    text = re.sub(r"\A# .*\n", "", text).strip()
    return linked(text, lambda target: os.path.normpath(f"{REPORT}/{target}"))


def benchmark() -> str:
    """Return the summary of the benchmark, with a heading for each task and for the claims."""
    text = re.sub(r"^(?=\| (\w+), \d+ test rows )", r"## \1\n\n", report("summary"), flags=re.MULTILINE)
    return re.sub(r"^(?=\| claim )", "## Claims\n\n", text, flags=re.MULTILINE)


def papers() -> str:
    """Return the papers' experiments, each with its figures."""

    def with_figures(found: re.Match[str]) -> str:
        files = [f"docs/figures/{found[1]}{kind}.png" for kind in ("_variants", "")]
        shown = [f"![{found[1]}]({file})" for file in files if (ROOT / file).is_file()]
        return "\n\n".join([found[0], *shown])

    return re.sub(r"^## (\w+)$", with_figures, report("papers"), flags=re.MULTILINE)


def claims() -> str:
    """Return the table of the claims, and the records' verdict for each method."""
    return report("summary").rpartition("\n\n")[2]


def sweep() -> str:
    """Return the candidates of the recorded sweep on sentiment, the best first."""
    candidates = load_result(RESULTS / "sweep" / "sentiment.json").notes["candidates"]
    ranked = sorted((c for c in candidates if c["value"] is not None), key=lambda c: -c["value"])
    head = [*(key.removeprefix("training.") for key in ranked[0]["values"]), "best validation accuracy", "step"]
    return markdown_table(
        head, [[*map(str, c["values"].values()), f"{c['value']:.4f}", str(c["best_step"])] for c in ranked]
    )


def throughput() -> str:
    """Return the seconds per step of this engine, PEFT under `Trainer`, and TRL, and their memory."""
    head = ["method", "this engine", "PEFT", "TRL", "faster than PEFT", "faster than TRL", "memory", "PEFT's"]
    return markdown_table(head, [_speed_row(record) for record in speeds()])


def _speed_row(record: dict[str, Any]) -> list[str]:
    seconds = [f"{record['seconds_an_update'][side]['median']:.2f} s" for side in ("engine", "peft", "trl")]
    ratios = [f"{record['ratio'][side]:.1f} times" for side in ("peft", "trl")]
    memory = [f"{record['peak_memory_gib'][side]:.1f} GiB" for side in ("engine", "peft")]
    return [SPEED_NAMES.get(record["method"], record["method"]), *seconds, *ratios, *memory]


def bench_data() -> str:
    """Return the time until data of several sizes is ready for training, for the first and the second time."""
    record = json.loads((RESULTS / "bench_data.json").read_text(encoding="utf-8"))
    rows = [
        [f"{int(count):,}", f"{found['megabytes']:.0f} MB", *(_ready(found[which]) for which in ("first", "second"))]
        for count, found in record["rows"].items()
    ]
    return markdown_table(["rows", "file", "the first time", "the second time"], rows)


def chaos() -> str:
    """Return the number of trials of each fault, and their outcomes."""
    file = RESULTS / "chaos.json"
    if not file.is_file():
        return "No record yet: `make chaos` makes it."
    rows = []
    for fault in json.loads(file.read_text(encoding="utf-8"))["faults"]:
        outcomes = [f"{count} x {outcome}" for outcome, count in sorted(fault["outcomes"].items(), key=lambda o: -o[1])]
        rows.append([fault["name"], str(fault["times"]), "; ".join(outcomes)])
    return markdown_table(["fault", "times", "outcome"], rows)


def soak() -> str:
    """Return what the soak test of the server found."""
    file = RESULTS / "soak.json"
    if not file.is_file():
        return "No record yet: `make soak` makes it."
    record = json.loads(file.read_text(encoding="utf-8"))
    count, memory, asked = record["requests"], record["memory"], record["settings"]
    return (
        f"{asked['burst']:,} requests came at once, then {asked['clients']} clients sent requests for "
        f"{asked['minutes']:.0f} minutes. {100 * asked['leaving']:.0f} % of the clients left before their reply. "
        f"{count['right']:,} replies were right, {count['different']} differed from the same request alone, and "
        f"{count['crossed']} were those of another task. {count['lost']} requests got no reply, and {count['failed']} "
        f"failed. Memory grew by {max(memory['slope_mib_a_minute'], 0):.1f} MiB per minute, to "
        f"{memory['most_mib']:,.0f} MiB at most ([record](results/soak.json))."
    )


def sharding() -> str:
    """Return the memory of a process that shares out a base model with others."""
    file = RESULTS / "bench_sharding.json"
    if not file.is_file():
        return "No record yet: `make bench-memory` makes it."
    record = json.loads(file.read_text(encoding="utf-8"))
    alone = record["processes"]["1"]["base"]
    rows = [
        [count, f"{found['base']:.2f} GiB", f"{found['base'] / alone:.2f}", f"{found['loss']:.3f}"]
        for count, found in record["processes"].items()
    ]
    head = ["processes", "memory of each for the base model", "share of one process", "loss after three steps"]
    weights = f"{record['weights'] / 1e9:.2f} billion weights"
    return f"{markdown_table(head, rows)}\n\n{weights} ([record](results/bench_sharding.json))."


def fuzz() -> str:
    """Return how many cases of each fuzzer were drawn, and how many failed."""
    file = RESULTS / "fuzz.json"
    if not file.is_file():
        return "No record yet: `make fuzz` makes it."
    record = json.loads(file.read_text(encoding="utf-8"))
    cases = record["cases"]
    drawn = ", ".join(f"{count:,} of `{fuzzer}`" for fuzzer, count in cases.items())
    return (
        f"Of {sum(cases.values()):,} cases with seed {record['seed']} ({drawn}), {len(record['failed']):,} failed "
        "([record](results/fuzz.json))."
    )


def memorisation() -> str:
    """Return the exposure of the canaries after each method, and how many of them it gives away."""
    record = _memorisation_record()
    if not record:
        return NOT_MEASURED
    labels = {m.name: m.label for m in METHODS.values()}
    measured = {run["method"] for run in record["runs"]}
    plan = yaml.safe_load((ROOT / "configs" / "memorisation" / "docstrings.yaml").read_text(encoding="utf-8"))
    missing = [labels[name] for name in plan["memorisation"]["methods"] if name not in measured]
    said = f"\n\nNot measured yet: {listed(missing)}." if missing else ""
    return f"{canaries.table(record, labels)}\n\n{canaries.given_away(record, labels)}{said}"


def memorisation_facts() -> str:
    """Return what the record says of the runs: the learning rate of each, its score and its seconds."""
    record = _memorisation_record()
    return canaries.facts(record, {m.name: m.label for m in METHODS.values()}) if record else NOT_MEASURED


def _memorisation_record() -> Any:
    file = RESULTS / "memorisation.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def _ready(found: dict[str, float]) -> str:
    return f"{found['seconds']:.1f} s, {found['peak_gb']:.2f} GB"
