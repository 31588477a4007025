"""Make tables from records: one per embedded task with a row per recipe, and the table of the demo."""

from __future__ import annotations

from collections.abc import Sequence

from softprompts.methods.catalog import METHODS
from softprompts.metrics.scoring import Interval
from softprompts.reports.tables import markdown_table, size
from softprompts.runs.record import Result


def tasks_table(tasks: Sequence[Sequence[Result]]) -> str:
    """Return Markdown tables, one for each task that has records, with 95 % intervals.

    A multitask record covers more rows than the others. Its table row shows the metrics on the common rows, which the
    record has without intervals.
    """
    return "\n\n".join(_table(results) for results in tasks if results)


def _table(results: Sequence[Result]) -> str:
    single = [r for r in results if "tasks" not in r.notes] or list(results)
    chosen = next(iter(single[0].settings["task"]["where"].values()), None)
    metrics = list(single[0].metrics)
    rows = single[0].metrics[metrics[0]].rows
    part = f" ({', '.join(chosen)})" if chosen else ""
    header = [
        f"{single[0].task}{part}, {rows} test rows",
        *metrics,
        "trained",
        "saved",
        "training (threads)",
        "tokens/s",
        "memory",
    ]
    lines = [[_name(r), *_metrics(r, metrics, chosen), *_cost(r)] for r in results]
    if majority := single[0].baselines.get("majority_class"):
        lines.insert(0, ["majority class", *(_interval(majority[m]) for m in metrics), "0", "", "", "", ""])
    return markdown_table(header, lines)


def _name(result: Result) -> str:
    name = METHODS[result.recipe].label
    if result.recipe == "hard_prompt":
        shots = result.settings["hard"]["shots"]
        return f"{name}, {f'{shots}-shot' if shots else 'zero-shot'}, best of {len(result.notes['wordings'])}"
    return f"{name}, {len(result.notes['tasks'])} tasks" if "tasks" in result.notes else name


def _metrics(result: Result, metrics: Sequence[str], chosen: Sequence[str] | None) -> list[str]:
    """Return the metrics on the rows that all recipes were tested on."""
    if "tasks" in result.notes and chosen and len(chosen) == 1:
        return [f"{100 * result.notes['tasks'][chosen[0]][m]:.1f}" for m in metrics]
    return [_interval(result.metrics[m]) for m in metrics]


def _interval(x: Interval) -> str:
    return f"{100 * x.value:.1f} ({100 * x.low:.1f} to {100 * x.high:.1f})"


def _cost(result: Result) -> list[str]:
    """Return trained parameters, saved size, seconds of training with the number of threads, tokens per second, and
    peak
    memory."""
    cost = result.cost
    if not result.training:
        return ["0", "", "", "", f"{cost['peak_memory_gib']:.1f} GiB"]
    return [
        f"{result.parameters['trainable']:,}",
        size(cost["adapter_bytes"]),
        f"{result.cost['seconds_training']:.0f} s ({result.environment['hardware']['threads']})",
        f"{cost['training_tokens_per_second']:.0f}" if "training_tokens_per_second" in cost else "",  # none of a sweep
        f"{cost['peak_memory_gib']:.1f} GiB",
    ]


def table(hard: Result, soft: Result) -> str:
    """Return a Markdown table: majority class, best hard prompt, soft prompt, with 95 % intervals."""
    wordings = len(hard.notes["wordings"])
    shots = hard.settings["hard"]["shots"]
    written = f"hard prompt, {'zero-shot' if shots == 0 else f'{shots}-shot'}, best of {wordings} wordings"
    rows = [
        ("majority class", soft.baselines["majority_class"]["accuracy"], None),
        (written, hard.metrics["accuracy"], hard),
        (
            f"soft prompt, {soft.settings['prompt']['num_virtual_tokens']} virtual tokens",
            soft.metrics["accuracy"],
            soft,
        ),
    ]
    head = [_tested(soft), "accuracy", "95 % interval", "trained parameters", "adapter", "seconds"]
    return markdown_table(head, [_row(*row) for row in rows])


def _tested(result: Result) -> str:
    """Return the task, its filter of rows, and the number of test rows."""
    where = "; ".join(", ".join(values) for values in result.settings["task"]["where"].values())
    rows = result.metrics["accuracy"].rows
    return f"{result.task}{f' ({where})' if where else ''}, {rows} test rows"


def _row(name: str, accuracy: Interval, result: Result | None) -> list[str]:
    cells = [name, f"{100 * accuracy.value:.1f} %", f"{100 * accuracy.low:.1f} to {100 * accuracy.high:.1f}"]
    if result is None:
        return [*cells, "0", "none", "0"]
    saved = result.cost["adapter_bytes"]
    return [
        *cells,
        f"{result.parameters['trainable']:,}" if result.parameters["saved"] else "0",
        size(saved) if saved else "none",
        f"{result.cost['seconds_total']:.0f}",
    ]
