"""Write the outputs of a comparison of two models: record, page, and the rows with different scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from softprompts.config.sections import EvaluationConfig
from softprompts.evaluation.comparison import Contest, Contestant, judge
from softprompts.evaluation.predict import TestOutcome
from softprompts.metrics.significance import LEVEL, verdict
from softprompts.reports.tables import markdown_table
from softprompts.runs.environment import environment
from softprompts.runs.folders import COMPARE_FILE
from softprompts.runs.record import json_text
from softprompts.runs.run import Run
from softprompts.system.files import write_atomically
from softprompts.tasks.task import Task

SHOWN = 10  # rows per model on the page; differences.jsonl has all of them
CUT = 200  # characters of a text on the page
ONE_RUN = "Each side is a single run, so these numbers do not cover variation between seeds."


def save_contest(
    run: Run,
    task: Task,
    sides: tuple[Contestant, Contestant],
    outcomes: Sequence[TestOutcome],
    evaluation: EvaluationConfig,
) -> Contest:
    """Compare, write `differences.jsonl`, `compare.md` and, last, `compare.json`, and print the verdict.

    Args:
        run: the run.
        task: the rows by the task's settings.
        sides: the two models.
        outcomes: the predictions of each, on the same split.
        evaluation: settings with the split and the number of resamples.
    """
    contest = judge(sides, outcomes, task, evaluation)
    if run.accelerator.is_main_process:
        lines = [json.dumps(asdict(one), ensure_ascii=False, allow_nan=False) + "\n" for one in contest.differences]
        write_atomically(run.output("differences.jsonl"), "".join(lines))
        write_atomically(run.output("compare.md"), page(contest, f"{task.name}, {evaluation.split}"))
        record = _record(run, task, sides, outcomes, evaluation, contest)
        write_atomically(run.folder / COMPARE_FILE, json_text(record) + "\n")
    run.say(f"{summary(contest)}\nwritten to {run.folder}")
    run.accelerator.end_training()
    return contest


def _record(
    run: Run,
    task: Task,
    sides: tuple[Contestant, Contestant],
    outcomes: Sequence[TestOutcome],
    evaluation: EvaluationConfig,
    contest: Contest,
) -> dict[str, Any]:
    """Return the record of a comparison, with the keys of `Result` for common contents."""
    contestants = [
        {
            "name": side.name,
            "model": side.model.name_or_path,
            "adapter": side.adapter.path,
            "prompt": side.task.config.prompt,
            "metrics": {key: asdict(interval) for key, interval in outcome.metrics.items()},
            "test_loss": outcome.loss,
            "abstain_below": outcome.abstain_below,
            "seconds_testing": outcome.seconds,
            "better_rows": len(contest.wins(side.name)),
        }
        for side, outcome in zip(sides, outcomes, strict=True)
    ]
    return {
        "recipe": run.recipe,
        "task": task.name,
        "settings": run.settings,
        "seed": run.seed,
        "split": evaluation.split,
        "contestants": contestants,
        "baselines": {
            name: {key: asdict(interval) for key, interval in metrics.items()}
            for name, metrics in outcomes[0].baselines.items()
        },
        "comparisons": [asdict(comparison) for comparison in contest.comparisons],
        "row_metric": contest.row_metric,
        "verdict": verdict(contest.comparisons[0]),
        "e_value": contest.e_value,
        "data": {"licence": task.licence, "splits": task.fingerprint()},
        "environment": environment() | {"processes": run.accelerator.num_processes},
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def summary(contest: Contest) -> str:
    """Return the lines that the recipe prints at its end."""
    lines = [
        f"{name}: {key} {x.value:.4f} (95 % interval {x.low:.4f} to {x.high:.4f}, {x.rows} rows)"
        for name, metrics in zip(contest.names, contest.metrics, strict=True)
        for key, x in metrics.items()
    ]
    said = f"verdict: {verdict(contest.comparisons[0])}"
    return "\n".join([*lines, _counts(contest), said, _at_any_time(contest), ONE_RUN])


def _at_any_time(contest: Contest) -> str:
    """Return a sentence with the e-value, for those who add rows and look again."""
    enough = 1 / LEVEL
    word = "shown" if contest.e_value >= enough else "not shown yet"
    return (
        f"if you add rows and look again: that one is better more often is {word} (largest e-value "
        f"{contest.e_value:.3g} of {len(contest.differences)} rows that differ; {enough:.0f} shows it)"
    )


def _counts(contest: Contest) -> str:
    """Return the numbers of rows that each model predicts better."""
    each = ", ".join(f"{name} on {len(contest.wins(name))}" for name in contest.names)
    alike = contest.rows - len(contest.differences)
    first = contest.comparisons[0].metric
    why = "" if first == contest.row_metric else f" ({first} has no score for a single row)"
    return f"rows predicted better, by the row's own {contest.row_metric}{why}: {each}; equal on {alike}"


def page(contest: Contest, title: str) -> str:
    """Return the Markdown page of a comparison; `title` names the task and the split."""
    rows = []
    for x in contest.comparisons:
        sides = (f"{m.value:.4f} ({m.low:.4f} to {m.high:.4f})" for m in (side[x.metric] for side in contest.metrics))
        rows.append([x.metric, *sides, f"{x.difference:+.4f} ({x.low:+.4f} to {x.high:+.4f})", f"{x.p:.2g}"])
    lines = [
        f"# {' and '.join(contest.names)} on {title}",
        "",
        f"Verdict: {verdict(contest.comparisons[0])}. {ONE_RUN}",
        "",
        markdown_table(["metric", *map(_cut, contest.names), "difference", "p"], rows),
        "",
        f"With 95 % intervals over {contest.rows} rows; {_counts(contest)}.",
        "",
        f"{_at_any_time(contest).capitalize()}.",
    ]
    for name in contest.names:
        lines += _won(contest, name)
    return "\n".join(lines) + "\n"


def _won(contest: Contest, name: str) -> list[str]:
    """Return the section of a page with the rows that one of the models predicts better."""
    won = contest.wins(name)
    if not won:
        return []
    shown = f"{len(won)}" if len(won) <= SHOWN else f"{SHOWN} of {len(won)}; the others are in `differences.jsonl`"
    rows = [[*map(_cut, (d.place, d.prompt, d.target, *d.answers))] for d in won[:SHOWN]]
    table = markdown_table(["row", "prompt", "target", *map(_cut, contest.names)], rows)
    return ["", f"## Better with {name}: {shown}", "", table]


def _cut(text: str) -> str:
    """Return a text as one line of at most `CUT` characters; many languages have no spaces to cut at."""
    line = " ".join(text.split())
    return line if len(line) <= CUT else f"{line[: CUT - 4]} ..."
