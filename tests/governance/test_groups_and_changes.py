"""Scores by group, and the changes between two runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from made_governance import Made, edit, made_rows
from made_kappa import kappa
from made_tasks import write
from softprompts.errors import UserError
from softprompts.governance import groups as groups_module
from softprompts.governance.changes import ChangeLog, change_log
from softprompts.governance.evidence import read_rows, read_run
from softprompts.governance.groups import ByGroup, Group, scores_by_group
from softprompts.metrics.scoring import Interval, intervals
from softprompts.readiness.plan import read_plan

import pytest


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def groups(made: Made, home: Path, *columns: str) -> ByGroup:
    evidence = read_run("governance.run", str(home))
    return scores_by_group(evidence, read_rows(evidence), read_plan(str(made.plan)), columns or None)


def values(found: ByGroup, column: str) -> dict[str, tuple[int, float]]:
    return {g.value: (g.rows, g.metrics["accuracy"].value) for g in found.groups if g.column == column}


def test_columns_with_a_few_values_are_groups(made: Made) -> None:
    found = groups(made, made.run())
    assert found.columns == ["language", "customer", "urgent"], "not text, which differs, and not the label"
    assert values(found, "language") == {"de": (40, 0.5), "en": (40, 1.0)}
    assert {group.few for group in found.groups if group.column == "language"} == {False}
    assert {group.few for group in found.groups if group.column == "customer"} == {True}
    best, worst = found.gap("language", "accuracy") or (None, None)
    assert (best and best.value, worst and worst.value) == ("en", "de")


def test_the_gap_is_by_the_number_of_the_plan() -> None:
    """The best group by accuracy is the worst one by the score of costs."""
    scores = {"de": (0.9, 0.2), "en": (0.8, 0.6)}
    own = [
        Group("language", name, 40, {"accuracy": Interval(a, a, a, 40), "cost_score": Interval(c, c, c, 40)})
        for name, (a, c) in scores.items()
    ]
    best, worst = ByGroup(own, ["language"], "").gap("language", "cost_score") or (None, None)
    assert (best and best.value, worst and worst.value) == ("en", "de")
    assert ByGroup(own[:1], ["language"], "").gap("language", "accuracy") is None


def test_an_asked_column_and_those_of_people(made: Made) -> None:
    home = made.run()
    assert groups(made, home, "urgent").columns == ["urgent"]
    made.write_plan(author_column="customer")
    assert groups(made, home).columns == ["language", "urgent"]
    with pytest.raises(UserError, match=r'governance\.groups: the rows have no column "langage" \(did you mean "lan'):
        groups(made, home, "langage")


def with_column(made: Made, name: str, values: list[Any]) -> ByGroup:
    """Return the groups of a run whose rows have one column more, with the values by turns."""
    for split, file in made.files.items():
        rows = [row | {name: values[n % len(values)]} for n, row in enumerate(made_rows(split))]
        write(Path(file), [{key: value for key, value in row.items() if value != "left out"} for row in rows])
    return groups(made, made.run())


def test_a_column_that_the_prompt_shows_has_groups(made: Made) -> None:
    """As with the language of a translation. The columns of the target never have any."""
    made.task = replace(made.task, prompt="{text}\n{language}, {urgent}:")
    found = groups(made, made.run())
    assert found.columns == ["language", "customer", "urgent"]
    assert found.passed_over == {"text": "more than 12 values", "label": "part of the target"}


@pytest.mark.parametrize("missing", [None, " ", "left out"])
def test_rows_without_a_value_are_a_group(made: Made, missing: Any) -> None:
    """A single missing value hid the whole column."""
    found = with_column(made, "gender", [*"fm" * 20, missing] + ["f"] * 39)
    assert {group.value: group.rows for group in found.groups if group.column == "gender"} == {
        "(missing)": 1, "f": 59, "m": 20
    }  # fmt: skip
    assert [group.few for group in found.groups if group.value == "(missing)"] == [True]


@pytest.mark.parametrize(
    ("values", "named"),
    [([20.0, 30.5], ["20", "30.5"]), ([20.0, 20, 30], ["20", "30"]), ([True, None], ["(missing)", "True"])],
)
def test_numbers_are_groups(made: Made, values: list[Any], named: list[str]) -> None:
    found = with_column(made, "age", values)
    assert [group.value for group in found.groups if group.column == "age"] == named
    assert groups_module._value(float("nan")) == "(missing)", "as Parquet files have it"


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([["a"], ["b"]], "lists, objects or bytes"),
        ([{"a": 1}, None], "lists, objects or bytes"),
        (["a"], "one value"),
        ([None], "one value"),
        (list(range(20)), "more than 12 values"),
        (["a comment", *[None] * 79], "values that seldom repeat"),
        (["a" * 61, "b"], "long texts"),
    ],
)
def test_a_column_without_groups_has_its_reason(made: Made, values: list[Any], why: str) -> None:
    assert with_column(made, "more", values).passed_over["more"] == why


def test_rows_without_groups_have_a_reason(made: Made) -> None:
    made.write_plan(author_column="customer")
    for split, file in made.files.items():
        write(Path(file), [{key: row[key] for key in ("text", "label", "customer")} for row in made_rows(split)])
    found = groups(made, made.run(wrong=lambda n, row: n == 0))
    columns = "text (more than 12 values), label (part of the target), customer (times or authors, by the plan)"
    assert found.groups == []
    assert found.reason == f"no column divides the rows into 2 to 12 groups: {columns}"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda made, home: (home / "predictions.jsonl").unlink(), "predictions.jsonl is missing"),
        (lambda made, home: (home / "predictions.jsonl").write_text("{}"), "predictions.jsonl is damaged"),
        (lambda made, home: (home / "predictions.jsonl").write_text(""), "predictions.jsonl is empty"),
        (lambda made, home: Path(made.files["test"]).unlink(), "the rows cannot be read: no such file: "),
        (
            lambda made, home: write(Path(made.files["test"]), made_rows("test")[::-1]),
            "the test rows have changed since the run",
        ),
        (
            lambda made, home: edit(home / "result.json", lambda tree: tree["metrics"]["accuracy"].update(value=0.9)),
            "the predictions give accuracy 0.7500, but the record has 0.9000",
        ),
    ],
)
def test_what_does_not_belong_together_has_no_groups(made: Made, damage: Any, reason: str) -> None:
    home = made.run()
    damage(made, home)
    found = groups(made, home)
    assert found.groups == []
    assert found.reason.startswith(reason)


def test_a_line_separator_within_a_prediction_ends_no_line(made: Made) -> None:
    home = made.run()
    file = home / "predictions.jsonl"
    first, _, rest = file.read_text(encoding="utf-8").partition("\n")
    changed = json.dumps(json.loads(first) | {"prompt": "a\u2028b\x85c"}, ensure_ascii=False)
    file.write_text(f"{changed}\n{rest}", encoding="utf-8")
    assert groups(made, home).groups


@pytest.mark.parametrize("fails", ["raises", "is no number"])
def test_a_metric_that_fails_on_a_group_is_left_out_there(
    made: Made, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = made.run()
    whole = groups(made, home)
    first = whole.groups[0]

    def failing(metrics: Any, answers: list[str], *rest: Any) -> Any:
        found = intervals(metrics, answers, *rest)
        if "macro_f1" not in metrics or len(answers) != first.rows:
            return found
        if fails == "raises":
            raise ZeroDivisionError
        return {name: replace(one, low=float("nan")) for name, one in found.items()}

    monkeypatch.setattr(groups_module, "intervals", failing)
    found = groups(made, home)
    assert [g.value for g in found.groups] == [g.value for g in whole.groups]
    assert set(found.groups[0].metrics) == set(first.metrics) - {"macro_f1"}
    assert found.gap(first.column, "accuracy") == whole.gap(first.column, "accuracy") or len(found.groups) > 2


def test_an_asked_column_without_rows_is_an_error(made: Made) -> None:
    home = made.run()
    Path(made.files["test"]).unlink()
    with pytest.raises(UserError, match=r"governance\.groups: the rows cannot be read: no such file"):
        groups(made, home, "language")


def changed(made: Made, before: Path, now: Path) -> ChangeLog:
    old, new = (read_run(key, str(home)) for key, home in (("governance.before", before), ("governance.run", now)))
    return change_log(old, new, read_rows(new).task, "governance.before")


def test_changes_of_settings_data_and_code_are_listed(made: Made) -> None:
    before, now = made.run("before"), made.run(seed=4)

    def change(tree: dict[str, Any]) -> None:
        tree["settings"]["training"]["steps"] = 20
        tree["settings"]["prompt"]["init"] = "text"
        tree["environment"]["versions"]["torch"] = "2.14.0"
        tree["data"]["splits"]["train"]["rows"] = 61

    edit(now / "result.json", change)
    found = {(c.kind, c.key): (c.was, c.now) for c in changed(made, before, now).changes}
    assert found == {
        ("run", "seed"): ("3", "4"),
        ("setting", "training.steps"): ("10", "20"),
        ("setting", "prompt.init"): ("-", "text"),
        ("code", "torch"): ("2.13.0", "2.14.0"),
        ("data", "splits.train.rows"): ("60", "61"),
    }


@pytest.mark.parametrize(("notes", "listed"), [({}, True), ({"candidates": [{"steps": 10}]}, False)])
def test_the_seconds_of_a_sweep_are_not_those_of_one_training(made: Made, notes: dict[str, Any], listed: bool) -> None:
    before, now = made.run("before", notes=notes), made.run()
    edit(now / "result.json", lambda tree: tree["cost"].update(seconds_training=99.0))
    found = changed(made, before, now)
    assert ("seconds_training" in [c.key for c in found.changes]) == listed


def test_scores_on_the_same_rows_are_compared_row_by_row(made: Made) -> None:
    before, now = made.run("before"), made.run(wrong=lambda n, row: False)
    log = changed(made, before, now)
    (score,) = log.scores
    assert (score.was, score.now, score.difference) == (0.75, 1.0, 0.25)
    assert score.low is not None
    assert 0 < score.low < 0.25
    assert score.p is not None
    assert score.p < 0.05
    assert (score.meaning, log.scores_note[:8]) == ("a difference is shown", "Compared")
    same = changed(made, made.run("same", wrong=lambda n, row: False, seed=9), now)
    assert (same.scores[0].difference, same.scores[0].meaning) == (0.0, "no difference is shown")


def test_a_number_that_is_undefined_on_a_sample_has_no_interval(made: Made) -> None:
    """A record in JSON has no room for NaN."""

    def never(n: int, row: dict[str, Any]) -> bool:
        return False

    def one_answer(n: int, row: dict[str, Any]) -> bool:
        return bool(row["label"] != "billing")

    metric = kappa(made.folder)
    scores = {"kappa": Interval(0.5, 0.4, 0.6, 80)}
    made.task = replace(made.task, metrics=[metric])
    before, now = (made.run(name, wrong, metrics=scores) for name, wrong in (("before", one_answer), ("now", never)))
    for home in (before, now):
        file = home / "predictions.jsonl"
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        rows = [line | {"target": lines[0]["target"], "prediction": lines[0]["target"]} for line in lines]
        write(file, rows)
    (score,) = changed(made, before, now).scores
    assert (score.difference, score.low, score.high, score.p, score.meaning) == (0.0, None, None, None, "")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda home: (home / "predictions.jsonl").unlink(), "of the earlier run, predictions.jsonl is missing"),
        (
            lambda home: edit(home / "result.json", lambda tree: tree["data"]["splits"]["test"].update(sha256="0")),
            "the scored rows have other texts",
        ),
    ],
)
def test_scores_on_other_rows_are_not_compared_row_by_row(made: Made, damage: Any, reason: str) -> None:
    before, now = made.run("before"), made.run(wrong=lambda n, row: False)
    damage(before)
    log = changed(made, before, now)
    assert log.scores_note == f"Not compared row by row: {reason}."
    assert (log.scores[0].difference, log.scores[0].p, log.scores[0].meaning) == (0.25, None, "")


@pytest.mark.parametrize("first", ["hard_prompt", "prompt_tuning"])
def test_a_chosen_prompt_is_no_change_of_the_rows(made: Made, first: str) -> None:
    """The digests of a hard prompt's record are those of its wording and its examples."""
    hard, trained = made.run("hard", recipe="hard_prompt"), made.run(wrong=lambda n, row: False)
    edit(hard / "result.json", lambda tree: [s.update(sha256="0" * 64) for s in tree["data"]["splits"].values()])
    log = changed(made, *((hard, trained) if first == "hard_prompt" else (trained, hard)))
    assert [c for c in log.changes if c.kind == "data"] == []
    assert log.scores_note.startswith("Compared row by row")
    assert log.scores_note.endswith("compared by place and target, and not by text.")
    assert log.scores[0].p is not None


def test_a_run_that_ended_later_is_not_an_earlier_one(made: Made) -> None:
    home, zone = made.run(), "2026-01-02T04:04:05+01:00"  # the same moment as that of the run
    with pytest.raises(
        UserError, match=r"later ended on 2026-01-02T03:04:06\+00:00, which is later than .*name an earl"
    ):
        changed(made, made.run("later", finished="2026-01-02T03:04:06+00:00"), home)
    assert changed(made, made.run("same", finished=zone, seed=9), home).before.result.finished == zone
    assert changed(made, made.run("old", finished="2025-01-02 of a clock without hands"), home)


def test_a_run_of_another_task_and_the_run_itself_are_refused(made: Made) -> None:
    home, other = made.run(), made.run("other", task="sentiment")
    with pytest.raises(UserError, match=r"is a run of the task sentiment, but .* of tickets; name an earlier run of t"):
        changed(made, other, home)
    with pytest.raises(UserError, match=r"governance\.before: .* is the run itself, or a copy of it"):
        changed(made, home, home)
