"""Judge the targets of `targets.yaml` by the records of the final runs. Without a record there is no verdict."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.report.claims import missing_runs
from benchmarks.report.frame import Records
from benchmarks.report.tables import read_config
from benchmarks.time_to_quality.goals import asked
from benchmarks.time_to_quality.ratio import ratio_of
from softprompts.metrics.significance import LEVEL, holm
from softprompts.reports.pages.frame import by_method, numbers
from softprompts.reports.pages.tables import markdown, metric, percent, points, probability

from pandas import DataFrame

REACHED, MISSED, NO_RECORD = "reached", "missed", "no record"
Found = tuple[str, bool | None]  # the number that was reached, and whether it is enough

HEAD = """# Targets

The [targets](../../configs/benchmarks/report/targets.yaml) were fixed before the final runs. Numbers are means over the
seeds of test scores. If a target is missed, the [lab log](../../docs/lab-log.md) has the attempts.
"""


NAMES = {
    "score": "score",
    "bytes": "saved bytes",
    "spread": "deviation over seeds",
    "half": "score after half the steps",
    "shown": "difference",
    "time": "time to quality",
}


def targets_table(records: Records, times: Path) -> DataFrame:
    """Return a row per target and benchmark; `times` is the folder of the records of time to quality."""
    rows = []
    for target in read_config("targets")["targets"]:
        for name, metrics in target["records"].items():
            found, held = _judged(records, times, target, name, metrics)
            of = f"{NAMES[target['kind']]}, {target['method'].replace('_', ' ')}"
            rows.append({
                "benchmark": name,
                "target": f"{of}: {', '.join(metrics)}" if metrics else of,
                "asked": _asked(target),
                "found": found,
                "verdict": NO_RECORD if held is None else REACHED if held else MISSED,
            })  # fmt: skip
    return DataFrame(rows)


def _asked(target: Mapping[str, Any]) -> str:
    other = {"lora": "LoRA", "few_shot": "few-shot examples"}.get(target.get("of", ""), "")
    match target["kind"]:
        case "score":
            return f"at least {100 * target['at_least']:.0f} % of {other}"
        case "bytes":
            return f"at most 1/{1 / target['at_most']:.0f} of {other} with rank {target['rank']}"
        case "spread":
            return f"below {target['below']} points"
        case "half":
            return f"at least {100 * target['at_least']:.0f} % of the score at full length"
        case "shown":
            return f"above {other}, shown"
        case _:
            return f"stock PEFT, with the settings of its guide, takes at least {target['at_least']:g} times as long"


def _judged(records: Records, times: Path, target: Mapping[str, Any], name: str, metrics: list[str]) -> Found:
    kind = target["kind"]
    if kind == "time":
        return _time(times / f"{name}.json", target, metrics)
    measures = [metric(name) for name in metrics]
    missing = missing_runs(records, name, [target["method"], *([target["of"]] if "of" in target else [])], measures)
    if kind == "half":
        missing += missing_runs(records, _half(target, name), [target["method"]], measures)
        missing = missing or _unlike(records, target, name)
    return ("; ".join(missing), None) if missing else KINDS[kind](records, target, name, metrics)


def _mean(records: Records, name: str, method: str, column: str) -> float:
    return float(numbers(by_method(records.of(name))[method], column).mean())


def _percent(share: float) -> str:
    return f"{percent(share)} %"


def _share(part: float, whole: float) -> str:
    return _percent(part / whole) if whole else "no share of 0"


def _score(records: Records, target: Mapping[str, Any], name: str, metrics: list[str]) -> Found:
    (judged,) = metrics
    own, other = (_mean(records, name, m, f"metric.{judged}") for m in (target["method"], target["of"]))
    said = f"{_share(own, other)} ({_percent(own)} of {_percent(other)}"
    if c := records.compared(name, judged, target["method"], target["of"]):
        said += f"; difference {points(c.difference)}, {points(c.low)} to {points(c.high)} points"
    return f"{said})", own >= target["at_least"] * other


def _bytes(records: Records, target: Mapping[str, Any], name: str, _: list[str]) -> Found:
    """Judge the bytes against LoRA of the target's rank: those of another rank are in proportion."""
    own, other = (_mean(records, name, m, "cost.adapter_bytes") for m in (target["method"], target["of"]))
    ranks = {cell.result.settings["lora"]["r"] for cell in records.benchmarks[name].cells[target["of"]].values()}
    other *= target["rank"] / fmean(ranks)
    return f"1/{other / own:.0f} ({own:,.0f} of {other:,.0f})", own <= target["at_most"] * other


def _spread(records: Records, target: Mapping[str, Any], name: str, metrics: list[str]) -> Found:
    (judged,) = metrics
    values = numbers(by_method(records.of(name))[target["method"]], f"metric.{judged}")
    if len(values) < 2:
        return "one seed has no deviation", None
    points = 100 * float(values.std())
    return f"{points:.1f} points ({len(values)} seeds)", points < target["below"]


def _half_score(records: Records, target: Mapping[str, Any], name: str, metrics: list[str]) -> Found:
    (judged,) = metrics
    column = f"metric.{judged}"
    halves, wholes = (numbers(by_method(records.of(n))[target["method"]], column) for n in (_half(target, name), name))
    common = halves.index.intersection(wholes.index)
    if common.empty:
        return "a seed of both", None
    short, whole = float(halves[common].mean()), float(wholes[common].mean())
    return f"{_share(short, whole)} ({_percent(short)} of {_percent(whole)})", short >= target["at_least"] * whole


def _unlike(records: Records, target: Mapping[str, Any], name: str) -> list[str]:
    """Return why the runs with half the steps are not those at full length, but for their steps: a line, or none."""
    halves, wholes = (records.benchmarks[n].cells[target["method"]] for n in (_half(target, name), name))
    for seed in halves.keys() & wholes.keys():
        half, whole = (_plain(cells[seed].result.settings) for cells in (halves, wholes))
        if half != whole:
            return [f"{_half(target, name)} with the settings of {name}"]
        if 2 * halves[seed].result.settings["training"]["steps"] != wholes[seed].result.settings["training"]["steps"]:
            return [f"{_half(target, name)} with half the steps of {name}"]
    return []


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run without its place and those that depend on its number of steps."""
    training = {k: v for k, v in settings["training"].items() if k not in ("steps", "eval_every", "energy")}
    return {**{section: values for section, values in settings.items() if section != "run"}, "training": training}


def _half(target: Mapping[str, Any], name: str) -> str:
    """Return the benchmark with half the steps."""
    return f"{target['with']}_{name.partition('_')[2]}"


def _shown(records: Records, target: Mapping[str, Any], name: str, metrics: list[str]) -> Found:
    found = [records.compared(name, metric, target["method"], target["of"]) for metric in metrics]
    compared = [c for c in found if c is not None]
    if len(compared) < len(metrics):
        return "a comparison is missing", None
    adjusted = holm([c.p for c in compared])
    said = "; ".join(
        f"{c.metric} {100 * c.difference:+.1f} points, adjusted p {probability(p)}"
        for c, p in zip(compared, adjusted, strict=True)
    )
    return said, all(c.difference > 0 and p < LEVEL for c, p in zip(compared, adjusted, strict=True))


def _time(file: Path, target: Mapping[str, Any], metrics: list[str]) -> Found:
    record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    found = ratio_of(record) if record else None
    if record is None or found is None:
        return f"every record of {file.name}", None
    if any(record[key] != value for key, value in asked(file.stem).items()):
        return f"{file.name} with the shipped config", None
    if (record["goal"]["recipe"], [record["goal"]["metric"]]) != (target["method"], metrics):
        return f"{file.name} of {target['method'].replace('_', ' ')}", None
    recipe, stock = found.recipe, found.stock
    reached = f"reached by {recipe.reached} of {recipe.of} and {stock.reached} of {stock.of} runs"
    return f"{found.in_words} ({reached})", found.value is not None and found.value >= target["at_least"]


KINDS: dict[str, Callable[[Records, Mapping[str, Any], str, list[str]], Found]] = {
    "score": _score,
    "bytes": _bytes,
    "spread": _spread,
    "half": _half_score,
    "shown": _shown,
}


def targets_markdown(table: DataFrame) -> str:
    """Return the page of the targets."""
    counts = table["verdict"].value_counts()
    said = ", ".join(f"{counts.get(word, 0)} {word}" for word in (REACHED, MISSED, NO_RECORD))
    return f"{HEAD}\n{said[0].upper()}{said[1:]}.\n\n{markdown(table)}\n"
