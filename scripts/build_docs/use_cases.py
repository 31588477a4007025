"""Make the results part of a use case's guide: scores, the target of its plan, differences, pictures, filed records."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.report.frame import Records
from benchmarks.report.tables import comparisons_table, results_markdown
from scripts.build_docs.pages import ROOT
from scripts.build_docs.records import use_case as records_of
from softprompts.metrics.scoring import shares_of_right_answers
from softprompts.metrics.significance import Comparison, verdict
from softprompts.readiness.plan import read_plan
from softprompts.readiness.settings import read_recipe
from softprompts.readiness.worth import metric_name
from softprompts.reports.pages.frame import numbers
from softprompts.reports.pages.tables import markdown, percent
from softprompts.reports.tables import markdown_table
from softprompts.runs.record import Result, load_result, spoken
from softprompts.tasks.task import load_task

NOT_MEASURED = "Not measured yet: `make bench GRID=support` and `make bench GRID=product` measure it."
SOFT = ("prompt_tuning", "prefix_tuning", "p_tuning", "context_tuning")
PICTURES = {
    "parameters": "score and trained parameters of each method, one mark per seed",
    "curves": "loss on validation rows during training",
}


def results(task: str) -> str:
    """Return the results of a use case, or that none is recorded yet."""
    records = records_of(task)
    if not records:
        return f"No run is recorded yet: `make bench GRID={task}` makes them."
    return "\n\n".join(
        [
            results_markdown(records, task),
            *decided(records, task),
            *_decision(records, task),
            *_pictures(task),
            *_filed(task),
        ]
    )


def further(name: str) -> str:
    """Return the results of a further benchmark on a use case's data, which has no plan of its own."""
    records = records_of(name)
    if not records:
        return f"No run is recorded yet: `make bench GRID={name}` makes them."
    first = records.metrics(name)[0]
    return "\n\n".join([results_markdown(records, name), *_differences(records, name, first)])


def decide(task: str, recipe: str) -> str:
    """Return the steps from a finished run of a use case to a decision; `recipe` is the one that its guide runs."""
    case = (
        "cp configs/business/support.yaml configs/business/mine.yaml  # then write your own numbers into mine.yaml\n"
        "make business-case CASE=configs/business/mine.yaml\n"
    )
    costed = has_business_case(task)
    last = "write the records for your compliance team" + (", and compute cost and return" if costed else "")
    return f"""```bash
python recipes/hard_prompt.py --config configs/{task}/hard_prompt.yaml  # the baseline
python recipes/report.py --report.runs '[runs/{task}]'                   # each difference, with its interval
```

Continue if two things hold. The score reaches `kpi.target` of the [plan](configs/{task}/readiness.yaml), and the
interval of the difference from the hard prompt excludes 0. Otherwise use the hard prompt, or collect more rows. Then
{last}:

```bash
make governance RUN=runs/{task}/{recipe} PLAN=configs/{task}/readiness.yaml
{case if costed else ""}```"""


def has_business_case(task: str) -> bool:
    """Return whether a task's records have latencies, and a first score that is the share of right answers."""
    for probes in (ROOT / "results" / "benchmarks" / task).glob("*/seed*.probes.json"):
        run = load_result(probes.with_name(probes.name.replace(".probes", "")))
        return next(iter(run.metrics)) in shares_of_right_answers(run.settings["task"]["metrics"])
    return False


def often_claimed() -> str:
    """Return what the records of support and of product have on tickets that nobody touches, and on hours."""
    tickets, prototype = records_of("support"), records_of("product")
    if not tickets or not prototype:
        return NOT_MEASURED
    scores = tickets.of("support").groupby(level="method", sort=False)[["metric.exact_match", "metric.queue_accuracy"]]
    rows = [
        [
            tickets.label("support", str(method)),
            percent(row["metric.exact_match"]),
            percent(row["metric.queue_accuracy"]),
        ]
        for method, row in scores.mean().iterrows()
    ]
    head = ["method", "queue, priority and answer right, %", "queue right, %"]
    seconds = numbers(prototype.of("product"), "cost.seconds_total")
    soft = seconds[seconds.index.isin(SOFT, level="method")]
    if not len(soft):
        return NOT_MEASURED
    return (
        f"{markdown_table(head, rows)}\n\nOnly a ticket of the first column could go out without a person, and nothing "
        "in the answer says which one that is. From 50 rows of train and 50 of validation to a tested soft prompt, a "
        f"run took {spoken(float(soft.min()))} to {spoken(float(soft.max()))} of one core, without the labelling and "
        "the choice of settings."
    )


def voices() -> str:
    """Return the scores of both voices of campaign on the rows of the first, and the verdict."""
    file = ROOT / "results" / "use_cases" / "campaign" / "compare.json"
    if not file.is_file():
        return "Not measured yet: `make voices` measures it."
    record = json.loads(file.read_text(encoding="utf-8"))
    names = list(record["contestants"][0]["metrics"])
    rows = [
        [Path(side["name"]).name, *(percent(side["metrics"][name]["value"]) for name in names)]
        for side in record["contestants"]
    ]
    said = verdict(Comparison(**record["comparisons"][0]))
    table = markdown_table(["adapter", *(f"{name}, %" for name in names)], rows)
    return f"{table}\n\nVerdict: {said}. `make voices` makes [the record](results/use_cases/campaign/compare.json)."


def decided(records: Records, task: str) -> Iterator[str]:
    """Yield the scores without abstention, if models may abstain, and those of a person who decides every row."""
    cells = records.benchmarks[task].cells
    runs = {method: [cell.result for cell in found.values()] for method, found in cells.items() if found}
    if not all("all_decided" in run.baselines for found in runs.values() for run in found):
        return
    names = records.metrics(task)

    def means(found: Sequence[Result], baseline: str) -> list[str]:
        return [percent(statistics.fmean(run.baselines[baseline][name].value for run in found)) for name in names]

    rows = [[records.label(task, method), *means(found, "all_decided")] for method, found in runs.items()]
    one = next(iter(runs.values()))
    rows += [["the most frequent answer", *means(one, "majority_class")]]
    rows += [["a person decides every row", *means(one, "all_abstained")]]
    yield "The same models without abstention, as means over seeds:"
    yield markdown_table(["method", *(f"{name}, %" for name in names)], rows)


def _decision(records: Records, task: str) -> Iterator[str]:
    """Yield the methods that reach the plan's target, and the differences between soft prompts and the others."""
    folder = ROOT / "configs" / task
    config = str(folder / "prefix_tuning.yaml")
    plan = read_plan(str(folder / "readiness.yaml"))
    name = metric_name(plan, load_task(read_recipe(config).task), config)
    scores = numbers(records.of(task), f"metric.{name}").groupby(level="method", sort=False).mean()
    reached = ", ".join(
        f"{records.label(task, method)} ({100 * value:.1f} %)"
        for method, value in scores.items()
        if value >= plan.target
    )
    yield (
        f"The target in [readiness.yaml](configs/{task}/readiness.yaml) is {100 * plan.target:.1f} % for {name}. "
        + (f"These methods reach it, as means over seeds: {reached}." if reached else "No method reaches it here.")
    )
    yield from _differences(records, task, name)


def _differences(records: Records, name: str, metric: str) -> Iterator[str]:
    methods = records.benchmarks[name].cells
    pairs = [(soft, other) for soft in methods if soft in SOFT for other in methods if other not in SOFT]
    if found := [c for first, second in pairs if (c := records.compared(name, metric, first, second))]:
        yield f"Soft prompts minus the other methods, by {metric}:"
        yield markdown(comparisons_table(records.benchmarks[name], found))


def _pictures(task: str) -> Iterator[str]:
    for kind, said in PICTURES.items():
        file = f"docs/figures/{task}_{kind}.png"
        if (ROOT / file).is_file():
            yield f"![{task}: {said}]({file})"


def _filed(task: str) -> Iterator[str]:
    kept = f"results/use_cases/{task}"
    if (ROOT / kept / "governance").is_dir():
        yield f"Its records: [readiness]({kept}/readiness.html) and [governance]({kept}/governance)."
