"""Make the study's page: the best settings of each method on each task by validation, and the search's cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.grid.settings import in_words
from benchmarks.study.settings import OF_SEEDS, RENAMED, decided, load_screens, winner
from softprompts.methods.catalog import METHODS
from softprompts.reports.pages.style import FONT, OTHER, STYLES, Drawing, finish, new_figure, show_losses
from softprompts.reports.pages.tables import percent
from softprompts.reports.tables import markdown_table
from softprompts.runs.record import Standing, ranked, spoken
from softprompts.sweeps.grid import RATE, SEED, beyond
from softprompts.sweeps.sweep import cost_in_words

from matplotlib import rc_context
from pandas import DataFrame

Screens = dict[str, dict[str, Any]]  # records by name of the screen

HEAD = """# The study: settings that validation prefers

Each table below shows one sweep. Every combination of its values is a candidate for the steps of a real run. After a
part of the steps, or several, the best third continues (successive halving, Jamieson and Talwalkar 2016). The column
"steps made" shows these parts. If the best learning rate is at an edge, rates beyond it follow. Sweeps use one seed and
validation rows only; test rows choose nothing. `make study` makes the records. The grids are in
[screens.yaml](../../configs/study/screens.yaml), [use_cases.yaml](../../configs/study/use_cases.yaml),
[choices.yaml](../../configs/study/choices.yaml) and [comparisons.yaml](../../configs/study/comparisons.yaml).

If seeds of one config differ by more than the candidates do, the mean of three seeds decides between learning rates:
[seeds.yaml](../../configs/study/seeds.yaml).
"""
COMPARED = """Then come comparisons: the rows of each are the values of one choice. Every candidate is trained to the
end with several seeds.
"""
LIKE = {
    "sentiment": "labels",
    "docstrings": "one sentence",
    "home_commands": "JSON",
    "localisation": "short translations",
    "analytics": "sentences about data",
    "compliance": "labels of long texts",
}


def load_study(folder: Path) -> dict[str, Screens]:
    """Read all records of the study, by task."""
    tasks = sorted({file.parent for file in folder.glob("*/*.json")})
    return {task.name: load_screens(task) for task in tasks}


def study_markdown(study: Mapping[str, Screens], pictures: Mapping[str, str]) -> str:
    """Return the page; `pictures` has the path of each task's figure, as the page links to it."""
    compared = any(SEED in record["chosen"] for screens in study.values() for record in screens.values())
    parts = [HEAD.strip(), *([COMPARED.strip()] if compared else []), *start_here(study)]
    for task, screens in study.items():
        parts += [f"## {task}", overview(screens)]
        if task in pictures:
            parts.append(f"![Validation loss of the choice of each method's sweep]({pictures[task]})")
        for name, record in screens.items():
            if SEED in record["chosen"]:
                said = deciding(record) if name.endswith(OF_SEEDS) else finding(record)
                parts.append(f"### {name}\n\n{comparison(record)}\n\n{said} {cost(record)}")
            else:
                said = "" if name == record["recipe"] else tried(record)
                parts.append(f"### {name}\n\n{candidates(record)}\n\n{f'{said} {cost(record)}'.strip()}")
    return "\n\n".join(parts) + "\n"


def start_here(study: Mapping[str, Screens]) -> list[str]:
    """Return a section with what validation chose, a row per method and a column per task; none without a record."""
    chosen: dict[str, dict[str, str]] = {}
    for task, screens in study.items():
        for name, record in screens.items():
            if name == record["recipe"]:
                chosen.setdefault(METHODS[name].label, {})[task] = in_words(_fixed(record) | decided(screens, name))
    if not chosen:
        return []
    tasks = [task for task in study if any(task in row for row in chosen.values())]
    rows = [[method, *(row.get(task, "") for task in tasks)] for method, row in chosen.items()]
    alike = "; ".join(f"{LIKE[task]} as in {task}" for task in tasks if task in LIKE)
    advice = (
        "Begin with the settings of the task that is most like yours. Then sweep the learning rate on your validation "
    )
    advice += f"rows: recipes/sweep.py.{f' The tasks: {alike}.' if alike else ''}"
    return ["## Start here", advice, markdown_table(["method", *tasks], rows)]


def _fixed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the length and the start of a soft prompt if its sweep did not vary them."""
    recipe, varied = record["recipe"], {key.rpartition(".")[2] for key in record["chosen"]}
    section = METHODS[recipe].section
    own = record["settings"].get(RENAMED.get(recipe, {}).get(section, section), {})
    return {key: own[key] for key in ("num_virtual_tokens", "init_from") if own.get(key) and key not in varied}


def overview(screens: Screens) -> str:
    """Return a table with the choice of each sweep of a task, in its own order; empty if there is none."""
    screens = {name: record for name, record in screens.items() if SEED not in record["chosen"]}
    if not screens:
        return ""
    names = list(next(iter(screens.values()))["validation_metrics"])
    rows = [
        [
            METHODS[record["recipe"]].label if name == record["recipe"] else name,
            in_words(record["chosen"]),
            f"{-best(record)['value']:.4f}" if record["by"] == "loss" else percent(best(record)["value"]),
            *(percent(record["validation_metrics"][metric]) for metric in names),
            str(len(record["candidates"])),
            spoken(record["cost"]["seconds_total"]),
        ]
        for name, record in screens.items()
    ]
    by = next(iter(screens.values()))["by"]
    head = ["sweep", "chosen", f"best validation {by}", *(f"{m}, %" for m in names), "candidates", "time"]
    return markdown_table(head, rows)


def best(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the chosen candidate."""
    found: dict[str, Any] = next(c for c in record["candidates"] if c["values"] == record["chosen"])
    return found


def candidates(record: Mapping[str, Any]) -> str:
    """Return a sweep's candidates as a table, in their order."""
    keys = list(record["chosen"])
    shown = [
        [
            *(_word(row.values[key]) for key in keys),
            "given up" if row.value is None else _value(row.value, record["by"]),
            f"{row.best_step}",
            f"{row.steps} of {row.planned}",
        ]
        for row in ranked(standings(record))
    ]
    return markdown_table([*keys, f"best validation {record['by']}", "at step", "steps made"], shown)


def comparison(record: Mapping[str, Any]) -> str:
    """Return a comparison as a table: a row per choice, its best validation over the seeds."""
    keys, by = [key for key in record["chosen"] if key != SEED], record["by"]
    made = DataFrame(
        {**{key: _word(c["values"][key]) for key in keys}, "value": c["value"]} for c in record["candidates"]
    )
    groups = made.groupby(keys, sort=False)["value"].agg(["mean", "std", "count", "size"])
    groups["lost"] = groups["count"] < groups["size"]  # a mean without the seeds that were given up is no rank
    rows = groups.sort_values(["lost", "mean"], ascending=[True, False], kind="stable").reset_index()
    shown = [[*(row[key] for key in keys), _spread(row, by), str(row["size"])] for row in rows.to_dict("records")]
    return markdown_table([*keys, f"best validation {by}", "seeds"], shown)


def deciding(record: Mapping[str, Any]) -> str:
    """Return what a comparison that decides a shipped config has chosen."""
    return f"The best mean decides the shipped config: {in_words(winner(record))}."


def finding(record: Mapping[str, Any]) -> str:
    """Return whether the best choice of a comparison is better than the shipped one: in every seed, or not shown."""
    keys = [key for key in record["chosen"] if key != SEED]
    shipped = {key: record["shipped"][key] for key in keys}
    values: dict[str, list[float]] = {}
    for one in record["candidates"]:
        name = in_words({key: one["values"][key] for key in keys})
        values.setdefault(name, []).append(-math.inf if one["value"] is None else one["value"])
    best_values = winner(record)
    best_name = in_words(best_values)
    apart = record.get("apart", {})
    own = in_words(shipped | apart)
    if best_name == own:
        said = f"The shipped choice, {own}, is the best."
    elif own not in values:
        said = f"The best is {best_name}; the shipped choice, {own}, is not among these."
    elif min(values[best_name]) > max(values[own]):
        mine, rivals = len(values[own]), len(values) - 1
        chance = min(1.0, rivals / math.comb(mine + len(values[best_name]), mine))
        said = (
            f"Every seed of {best_name} is better than every seed of the shipped choice, {own}. By chance alone, this "
            f"happens in at most {100 * chance:.0f} % of cases."
        )
    else:
        said = f"No difference shown: the seeds of {best_name} and of the shipped choice, {own}, overlap."
    tried = [candidate["values"] for candidate in record["candidates"]]
    # Two values are no range, and 0 has nothing below it.
    edges = [
        key
        for key in keys
        if best_values[key] and len({v[key] for v in tried}) > 2 and beyond(best_values, tried, [key])
    ]
    if edges:
        said += f" The best {', '.join(key.rpartition('.')[2] for key in edges)} is at an edge of what was tried."
    return said


def tried(record: Mapping[str, Any]) -> str:
    """Return the best candidate of a sweep that decides no config, and the best one with the shipped choice."""
    if "shipped" not in record:  # older records; what they chose is shipped
        return ""
    keys = [key for key in record["chosen"] if key != RATE]
    shipped, by = {key: record["shipped"][key] for key in keys}, record["by"]
    chosen = {key: record["chosen"][key] for key in keys}
    if apart := record.get("apart"):
        rival = f"The shipped choice, {in_words(shipped | apart)}, is not among these."
        return f"The best is {in_words(chosen)}: {_value(best(record)['value'], by)}. {rival}"
    if chosen == shipped:
        return f"No choice is better than the shipped one, {in_words(shipped)}."
    own = [c for c in record["candidates"] if {k: c["values"][k] for k in keys} == shipped and c["value"] is not None]
    rival = f"The shipped choice, {in_words(shipped)}, was given up."
    if own:
        longest = max(own, key=lambda c: (c["steps"], c["value"]))
        rival = (
            f"The shipped choice, {in_words(shipped)}, came to {_value(longest['value'], by)} after "
            f"{longest['steps']} of {longest['planned']} steps."
        )
    value = _value(best(record)["value"], by)
    return f"The best is {in_words(chosen)}: {value}. {rival} One seed does not show that it is better."


def cost(record: Mapping[str, Any]) -> str:
    """Return the cost of a sweep in a sentence."""
    return f"{cost_in_words(standings(record))}."


def standings(record: Mapping[str, Any]) -> list[Standing]:
    """Return a sweep's candidates."""
    return [Standing(**candidate) for candidate in record["candidates"]]


def _spread(row: Mapping[Any, Any], by: str) -> str:
    """Return "0.3012 ± 0.0110", and the number of seeds that were given up."""
    lost = row["size"] - row["count"]
    if not row["count"]:
        return "given up"
    deviation = f"{row['std']:.4f}" if by == "loss" else f"{100 * row['std']:.1f}"
    shown = _value(row["mean"], by) + (f" ± {deviation}" if row["count"] > 1 else "")
    return shown + (f" ({lost} given up)" if lost else "")


def _value(value: float, by: str) -> str:
    return f"{-value:.4f}" if by == "loss" else f"{100 * value:.1f} %"


def _word(value: Any) -> str:
    return "none" if value is None else str(value)


def draw_study(study: Mapping[str, Screens]) -> dict[str, Drawing]:
    """Return a figure per task: the validation loss over steps of the choice of each method's sweep."""
    drawn = {}
    for task, screens in study.items():
        mine = {name: record for name, record in screens.items() if name == record["recipe"]}
        if not mine:
            continue
        with rc_context(FONT):
            figure, axis = new_figure()
            for method, record in mine.items():
                colour, marker = STYLES.get(method, OTHER)
                seen = best(record)["validations"]
                steps, losses = [e["step"] for e in seen], [e["validation_loss"] for e in seen]
                axis.plot(steps, losses, color=colour, marker=marker, markersize=6, label=METHODS[method].label)
            show_losses(axis)
            finish(figure, axis)
        drawn[task] = Drawing(f"study_{task}", "Validation loss of the choice of each method's sweep.", figure)
    return drawn
