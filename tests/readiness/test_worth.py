"""Test rows compared with the closed form, the baseline's record, and the estimate of a run."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

from helpers import load_base
from made_readiness import LABELS, OWN_METRIC, Made, Rows, clean_rows, own_metric
from made_tasks import write
from softprompts.config.methods import ContextConfig, CPTConfig
from softprompts.encoding.tokenization import encode
from softprompts.errors import UserError
from softprompts.methods.soft_prompts.context_tuning import check_room, demonstrations
from softprompts.metrics import planning
from softprompts.models.loading import InputSpec, input_spec
from softprompts.readiness import rows, worth
from softprompts.readiness.findings import Finding
from softprompts.readiness.plan import read_plan
from softprompts.readiness.settings import read_recipe
from softprompts.runs.folders import plain
from softprompts.tasks.task import load_task

import pytest

pytest.importorskip("statsmodels", reason="needs the extra `readiness`")


def by_hand(p: float, q: float) -> float:
    """Return the rows for 80 % power at a two-sided 5 %, of the normal approximation (Fleiss et al. 2003, eq. 2.14)."""
    z = NormalDist().inv_cdf
    return ((z(0.975) * math.sqrt(p * (1 - p)) + z(0.8) * math.sqrt(q * (1 - q))) / (q - p)) ** 2


@pytest.mark.parametrize(("p", "q"), [(0.6, 0.9), (0.75, 0.8), (0.5, 0.51), (0.0, 0.1), (0.9, 1.0), (0.2, 0.21)])
def test_rows_and_power_are_those_of_the_closed_form(p: float, q: float) -> None:
    needed = worth.rows_needed(p, q)
    assert needed == math.ceil(by_hand(p, q))
    deviation = max(math.sqrt(q * (1 - q)), 1e-9)
    shift = (q - p) * math.sqrt(needed) - NormalDist().inv_cdf(0.975) * math.sqrt(p * (1 - p))
    assert worth.power_of(p, q, needed) == pytest.approx(NormalDist().cdf(shift / deviation), abs=1e-6)
    assert worth.power_of(p, q, needed) >= 0.8
    if p > 0 and q < 1:
        assert worth.power_of(p, q, math.floor(0.9 * needed)) < 0.8


def test_the_rows_give_the_power_in_simulation() -> None:
    numpy = pytest.importorskip("numpy")
    p, q = 0.6, 0.7
    count = worth.rows_needed(p, q)
    scores = numpy.random.default_rng(0).binomial(count, q, 20_000) / count
    z = (scores - p) / math.sqrt(p * (1 - p) / count)
    assert (z > NormalDist().inv_cdf(0.975)).mean() == pytest.approx(0.8, abs=0.03)


class Case:
    """Settings, plan and rows of a made task, and the findings on its worth."""

    def __init__(self, made: Made, metric: str = "accuracy") -> None:
        """Read them."""
        self.metric = metric
        self.settings, self.plan = read_recipe(str(made.config)), read_plan(str(made.plan))
        self.task = load_task(self.settings.task)

    def baseline(self, given: str | None = None) -> worth.Baseline | str:
        return worth.baseline_of(self.settings, self.task, self.metric, given)

    def findings(self, ceiling: float = 1.0) -> dict[str, Any]:
        found = worth.worth_findings(self.settings, self.plan, self.task, self.metric, self.baseline(), ceiling)
        return {finding.key: finding for finding in found}


def one_sided_rows() -> Rows:
    """Return the clean rows, of which 95 % have one label."""
    rows = clean_rows()
    for found in rows.values():
        for n, row in enumerate(found):
            row["label"] = LABELS[n % 20 == 0]
    return rows


@pytest.fixture
def made(tmp_path: Path, tiny_model: Path) -> Made:
    return Made(tmp_path, tiny_model)


def test_test_rows_are_green_amber_or_red_by_what_the_target_needs(made: Made) -> None:
    needed = worth.rows_needed(0.6, 0.9)
    assert Case(made).findings()["test_rows"].facts["needed"] == needed
    for today, status in ((0.6, "green"), (0.78, "amber"), (0.85, "red")):
        made.write_plan(kpi={"metric": "accuracy", "target": 0.9, "measured": "once", "today": today})
        found = Case(made).findings()["test_rows"]
        assert (found.status, found.facts["needed"]) == (status, worth.rows_needed(today, 0.9))
    assert f"Collect {worth.rows_needed(0.85, 0.9) - 60:,} more test rows" in found.remedy


def test_the_target_is_compared_with_whatever_needs_no_training_and_most_test_rows(made: Made) -> None:
    def reference(**kpi: Any) -> tuple[str, float]:
        made.write_plan(kpi={"metric": "accuracy", "target": 0.9, "measured": "once"} | kpi)
        facts = Case(made).findings()["test_rows"].facts
        return facts["reference_is"], facts["reference"]

    assert reference(today=0.6) == ("today's process", 0.6)
    assert reference() == ("always predicting the most frequent label", 0.5)
    made.write_baseline(0.7)
    assert reference() == reference(today=0.6) == ("the hard prompt", 0.7)
    assert reference(today=0.8) == ("today's process", 0.8)
    made.write_baseline(0.79)
    assert reference(today=0.8) == ("the hard prompt", 0.79), "it is measured, and so needs more rows than a constant"
    assert reference(today=0.95) == ("today's process", 0.95), "the target is below it"


def test_a_hard_prompt_that_is_better_than_today_makes_the_test_too_small(made: Made) -> None:
    made.write_plan(kpi={"metric": "accuracy", "target": 0.9, "measured": "once", "today": 0.6})
    made.write_baseline(0.85)
    found = Case(made).findings()["test_rows"]
    needed = planning.rows_needed(0.9 - 0.85, planning.disagreement(0.85, 0.9))
    assert (found.status, found.facts["needed"]) == ("red", needed)
    assert needed > 600


@pytest.mark.parametrize("today", [0.6, None])
@pytest.mark.parametrize(("baseline", "metric"), [(0.7, "accuracy"), (None, "accuracy"), (None, "exact_match")])
def test_the_most_frequent_label_is_to_be_beaten_too(
    tmp_path: Path, tiny_model: Path, today: float | None, baseline: float | None, metric: str
) -> None:
    made = Made(tmp_path, tiny_model, one_sided_rows())
    if baseline is not None:
        made.write_baseline(baseline)
    for target, status in ((0.9, "amber"), (0.96, "red")):
        made.write_plan(kpi={"metric": metric, "target": target, "measured": "once", "today": today})
        found = Case(made, metric).findings()["test_rows"]
        facts = found.facts
        assert (facts["reference_is"], facts["reference"]) == ("always predicting the most frequent label", 0.95)
        assert found.status == status
    made.write_plan(kpi={"metric": "accuracy", "target": 0.99, "measured": "once", "today": 0.97})
    assert Case(made).findings()["test_rows"].facts["reference_is"] == "today's process"


def test_copies_of_a_test_row_show_no_more_than_the_row(made: Made) -> None:
    rows = clean_rows()["test"]
    write(made.folder / "test.jsonl", rows[:2] * 100)
    found = Case(made).findings()["test_rows"]
    assert (found.status, found.facts["rows"], found.facts["different_inputs"]) == ("red", 200, 2)
    assert found.facts["power"] == worth.power_of(0.6, 0.9, 2) < 0.1
    assert "The 200 test rows have 2 different inputs, and thus a power of" in found.found
    assert f"Collect {worth.rows_needed(0.6, 0.9) - 2:,} more test rows" in found.remedy


def test_a_target_that_is_reached_already_is_no_gain(made: Made) -> None:
    made.write_plan(kpi={"metric": "accuracy", "target": 0.9, "measured": "once", "today": 0.9})
    made.write_baseline(0.95)
    found = Case(made).findings()
    assert [f.status for f in found.values()] == ["amber", "amber"]
    assert "The target is reached already" in found["to_win"].found


def test_the_record_of_the_hard_prompt_says_what_is_left_to_win(made: Made) -> None:
    path = made.write_baseline(0.7)
    found = Case(made).findings()["to_win"]
    assert found.status == "green"
    assert (found.facts["baseline"], found.facts["record"]) == (0.7, str(path))
    assert "The target is 20.0 points higher; at most 30.0 points are possible." in found.found
    assert Case(made).findings(0.95)["to_win"].facts["left"] == pytest.approx(0.25)
    assert Case(made).findings(0.85)["to_win"].status == "red"


def test_without_a_record_the_command_is_said(made: Made) -> None:
    found = Case(made).findings()["to_win"]
    assert found.status == "amber"
    assert (
        f"--readiness.config {made.config} --readiness.plan {made.plan} --readiness.run_baseline true" in found.remedy
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"test": "other.jsonl"}, "its task.test is another"),
        ({"target": " {queue}"}, "its task.target is another"),
        ({"pii": "mask"}, "its task.pii is another"),
        ({"recipe": "prompt_tuning"}, "its recipe is prompt_tuning"),
    ],
)
def test_a_record_of_something_else_is_no_baseline(made: Made, changes: dict[str, Any], why: str) -> None:
    path = made.write_baseline(**changes)
    assert Case(made).baseline() == f"{path} is not a baseline of this task: {why}."
    with pytest.raises(UserError, match=f"^readiness.baseline: .*{why}"):
        Case(made).baseline(str(path.parent))


def change(rows: list[dict[str, Any]], *numbers: int) -> list[dict[str, Any]]:
    """Return rows of which some have another text."""
    return [row | {"text": f"{row['text']} again"} if n in numbers else row for n, row in enumerate(rows)]


def test_a_record_with_booleans_as_labels_is_a_baseline(tmp_path: Path, tiny_model: Path) -> None:
    """A record has "True" as a key of task.choices, and JSON alone would make it "true"."""
    labelled = {
        split: [row | {"label": row["label"] == LABELS[0]} for row in rows] for split, rows in clean_rows().items()
    }
    made = Made(tmp_path, tiny_model, labelled)
    made.settings["task"] |= {"target": "{label}", "choices": {True: " yes", False: " no"}}
    made.write_config()
    made.write_baseline(choices=plain(made.settings["task"]["choices"]))
    assert isinstance(Case(made).baseline(), worth.Baseline)


@pytest.mark.parametrize("shots", [0, 4])
def test_a_record_of_other_test_rows_is_no_baseline(made: Made, shots: int) -> None:
    path, rows = made.write_baseline(shots=shots), clean_rows()
    assert isinstance(Case(made).baseline(), worth.Baseline)
    write(made.folder / "train.jsonl", change(rows["train"], *(() if shots else range(120))))
    assert isinstance(Case(made).baseline(), worth.Baseline), "rows of train are no part of a prompt without examples"
    write(made.folder / "test.jsonl", change(rows["test"], 59))
    assert str(Case(made).baseline()).endswith("its test rows, or its few-shot examples, are others.")
    write(made.folder / "test.jsonl", [row | {"label": LABELS[0]} for row in rows["test"][:1]] + rows["test"][1:])
    assert isinstance(Case(made).baseline(), worth.Baseline)
    write(made.folder / "test.jsonl", [row | {"label": LABELS[1]} for row in rows["test"][:1]] + rows["test"][1:])
    with pytest.raises(UserError, match=r"^readiness.baseline: .*its test rows, or its few-shot examples, are others"):
        Case(made).baseline(str(path))


def test_a_record_of_masked_rows_is_compared_with_masked_rows(made: Made) -> None:
    pytest.importorskip("presidio_analyzer", reason="needs the extra `readiness`")
    rows = clean_rows()["test"]
    write(made.folder / "test.jsonl", [row | {"text": f"{row['text']} jane.roe@example.com"} for row in rows])
    made.settings["task"]["pii"] = "mask"
    made.write_config()
    made.write_baseline()
    assert isinstance(Case(made).baseline(), worth.Baseline)


@pytest.mark.parametrize("value", [None, -0.2, 1.7, "0.7", True])
def test_a_baseline_that_is_no_score_is_one_line(made: Made, value: Any) -> None:
    made.write_plan(kpi={"metric": "accuracy", "target": 0.9, "measured": "once"})
    path = made.write_baseline()
    record = json.loads(path.read_text(encoding="utf-8"))
    record["metrics"]["accuracy"] |= {"value": value, "low": 0.6, "high": 0.8}
    path.write_text(json.dumps(record), encoding="utf-8")
    said = f"{path}: expected a value of accuracy from 0 to 1, and its interval, found {value} (0.6 to 0.8)."
    found = Case(made).findings()
    assert found["to_win"].found.endswith(said)
    assert (found["to_win"].status, found["test_rows"].facts["reference"]) == ("amber", 0.5)
    with pytest.raises(UserError, match=r"^readiness.baseline: .*expected a value of accuracy from 0 to 1"):
        Case(made).baseline(str(path))


def test_a_record_of_other_prompts_is_a_baseline(made: Made) -> None:
    made.write_baseline(prompt="Which queue?\n{text}", max_length=2048, metrics=["accuracy", "macro_f1"])
    assert isinstance(Case(made).baseline(), worth.Baseline)


def test_a_record_that_is_damaged_or_absent_is_one_line(made: Made) -> None:
    path = made.write_baseline()
    path.write_text("{}", encoding="utf-8")
    assert "is damaged, or not the record of a run" in str(Case(made).baseline())
    with pytest.raises(UserError, match="no such record"):
        Case(made).baseline("nowhere")


def test_the_committed_record_of_an_included_task_is_found(made: Made) -> None:
    settings = read_recipe("configs/sentiment/prompt_tuning.yaml")
    settings = replace(settings, run=replace(settings.run, output_dir=str(made.folder / "x" / "y")))
    task = load_task(settings.task)
    found = worth.baseline_of(settings, task, "accuracy", None)
    assert isinstance(found, worth.Baseline)
    assert found.path.endswith("results/tasks/sentiment/hard_prompt.json")


def test_a_measured_hard_prompt_is_compared_in_pairs_and_a_constant_is_not(made: Made) -> None:
    made.write_plan(kpi={"metric": "accuracy", "target": 0.9, "measured": "once"})
    made.write_baseline(0.7)
    facts = Case(made).findings()["test_rows"].facts
    disagree = 0.7 * 0.1 + 0.9 * 0.3
    assert facts["needed"] == planning.rows_needed(0.2, disagree) > worth.rows_needed(0.7, 0.9)
    assert facts["power"] == pytest.approx(planning.power_of_rows(0.2, disagree, facts["different_inputs"]))


@pytest.mark.parametrize(("metric", "status"), [("accuracy", "green"), ("macro_f1", "amber")])
def test_a_number_of_rows_is_rough_for_a_score_that_is_no_mean_over_rows(metric: str, status: str, made: Made) -> None:
    made.write_plan(kpi={"metric": metric, "target": 0.9, "measured": "once", "today": 0.6})
    found = Case(made, metric).findings()["test_rows"]
    assert (found.status, found.facts["mean_over_rows"]) == (status, metric == "accuracy")
    assert ("is not a mean over rows" in found.found) == (status == "amber")


def test_a_kpi_on_a_metric_that_the_task_lacks_is_an_error(made: Made) -> None:
    made.write_plan(kpi={"metric": "acuracy", "target": 0.9, "measured": "once"})
    case = Case(made)
    with pytest.raises(UserError, match=r'kpi.metric: the task has no metric "acuracy" \(did you mean "accuracy"\?\)'):
        worth.metric_name(case.plan, case.task, "c.yaml")


@pytest.mark.parametrize(("right", "empty", "shown"), [("0.1", "0.9", "0.1"), ("100.0", "0.0", "100")])
def test_a_kpi_of_another_direction_or_scale_is_an_error(made: Made, right: str, empty: str, shown: str) -> None:
    """An error rate of 0.4 was said to have reached its target of 0.1."""
    text = OWN_METRIC.replace(
        '{"same": 1.0, "longer": 0.5}', f'{{"rate": {right} if predictions[0] else {empty}, "n": 1.0}}'
    )
    made.write_config(metrics=[own_metric(made.folder, text)])
    made.write_plan(kpi={"metric": "rate", "target": 0.1, "measured": "once"})
    plan, task = read_plan(str(made.plan)), load_task(read_recipe(str(made.config)).task)
    with pytest.raises(
        UserError, match=rf"kpi\.metric: rate is {shown} for a right prediction and .* of which more is"
    ):
        worth.metric_name(plan, task, "c.yaml")


@pytest.mark.parametrize("metric", ["accuracy", "rate"])
def test_a_metric_that_needs_several_rows_is_no_error(made: Made, metric: str) -> None:
    """A correlation fails on a single row, also if the KPI is another metric."""
    text = OWN_METRIC.replace('{"same": 1.0, "longer": 0.5}', '{"rate": float(any(predictions))}')
    text = text.replace('assert references[0], "an empty target"', "assert len(references) > 1")
    made.write_config(metrics=[own_metric(made.folder, text), "accuracy"])
    made.write_plan(kpi={"metric": metric, "target": 0.9, "measured": "once"})
    plan, task = read_plan(str(made.plan)), load_task(read_recipe(str(made.config)).task)
    assert worth.metric_name(plan, task, "c.yaml") == metric


def test_the_baseline_is_scored_on_test_whatever_the_config_scores(made: Made) -> None:
    case = Case(made)
    settings = replace(case.settings, evaluation=replace(case.settings.evaluation, split="validation"))
    assert worth.baseline_arguments(settings, case.plan, case.task)["evaluation"].split == "test"


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"shots": 5000}, r"readiness\.yaml: shots: 5000 is not between 0 and the 120 rows of train"),
        ({"wordings": ["Sort {txet}"]}, r'no column "txet"'),
        ({"wordings": ["{text} "]}, r"readiness\.yaml: wordings: ends in a space"),
    ],
)
def test_examples_and_wordings_of_the_plan_are_named_as_the_plan_has_them(
    made: Made, plan: dict[str, Any], message: str
) -> None:
    made.write_plan(**plan)
    case = Case(made)
    with pytest.raises(UserError, match=message):
        worth.baseline_arguments(case.settings, case.plan, case.task)


def test_the_baseline_is_asked_with_the_goal_and_the_choices(made: Made) -> None:
    made.write_plan(goal="Sort {all} tickets.")
    case = Case(made)
    arguments = worth.baseline_arguments(case.settings, case.plan, case.task)
    assert arguments["hard"].wordings == [
        "{text}\nQueue:",
        "Sort {{all}} tickets. Answer with one of: billing, shipping.\n\n{text}\nQueue:",
    ]
    assert Path(arguments["run"].output_dir) == made.folder / "runs" / "hard_prompt"
    assert arguments["hard"].shots == 4
    assert arguments["evaluation"] == case.settings.evaluation
    assert arguments["task"].max_length == sys.maxsize, "the examples need room"
    made.write_plan(wordings=["Which queue? {text}"], shots=0)
    case = Case(made)
    hard = worth.baseline_arguments(case.settings, case.plan, case.task)["hard"]
    assert (hard.wordings, hard.shots) == (["Which queue? {text}"], 0)


@pytest.mark.parametrize(
    ("given", "targets", "stop"),
    [([], "one line", ["\n"]), ([], "two\nlines", []), ([";"], "one line", [";"])],
)
def test_an_open_answer_of_the_baseline_ends_with_its_line(
    given: list[str], targets: str, stop: list[str], made: Made
) -> None:
    case = Case(made)
    rows = [replace(row, target=f" {targets}") for row in case.task.splits["train"]]
    task = replace(case.task, choices=None, splits=case.task.splits | {"train": rows})
    settings = replace(case.settings, evaluation=replace(case.settings.evaluation, stop=given))
    assert worth.baseline_arguments(settings, case.plan, task)["evaluation"].stop == stop


def test_a_run_costs_its_operations(made: Made) -> None:
    settings = Case(made).settings
    task = load_task(settings.task)
    measured = rows.measure(settings, task)
    assert measured.parameters is not None
    base, _ = load_base(Path(settings.model.name_or_path))
    assert (
        measured.parameters == sum(p.numel() for p in base.model.layers.parameters()) + base.model.norm.weight.numel()
    )
    mean = sum(measured.lengths("train")) / 120
    found = worth.seconds_of_run(settings, measured, 1e9)
    flops = 10 * 16 * mean * 4 * measured.parameters
    assert found["training"] == pytest.approx(flops / (0.5 * 1e9))
    whole = worth.seconds_of_run(replace(settings, method="full_finetuning"), measured, 1e9)
    assert whole["training"] == pytest.approx(1.5 * found["training"])
    assert worth.seconds_of_run(replace(settings, candidates=3), measured, 1e9)["training"] == pytest.approx(
        3 * found["training"]
    )
    assert worth.seconds_of_run(replace(settings, method="hard_prompt"), measured, 1e9)["training"] == 0
    assert worth.seconds_of_run(settings, measured, 2e9)["test"] == pytest.approx(found["test"] / 2)


@pytest.mark.parametrize(("limit", "long_rows", "status"), [(240, "error", "green"), (60, "error", "red")])
def test_rows_that_do_not_fit_are_found(made: Made, limit: int, long_rows: str, status: str) -> None:
    made.write_config(max_length=limit, long_rows=long_rows)
    case = Case(made)
    measured = rows.measure(case.settings, case.task)
    found = rows.lengths(case.task, measured)
    assert found.status == status
    longest = max(max(measured.lengths(split)) for split in case.task.splits)
    assert measured.spec.room == 251  # 256 positions less 5 virtual tokens
    if status == "red":
        assert found.remedy == f"Set task.max_length to {longest}."
        assert found.facts["too_long"] == sum(n > 60 for s in case.task.splits for n in measured.lengths(s))
    made.write_config(max_length=longest)
    assert (
        rows.lengths(
            load_task(read_recipe(str(made.config)).task), rows.measure(Case(made).settings, Case(made).task)
        ).status
        == "green"
    )


@pytest.mark.parametrize("section", ["context", "cpt"])
@pytest.mark.parametrize(("count", "status"), [(2, "green"), (12, "red")])
def test_demonstrations_use_positions_of_the_model(
    tmp_path: Path, tiny_model: Path, section: str, count: int, status: str
) -> None:
    """A run draws them from train, and refuses to start if they leave no room for the longest row."""
    short = {s: [row | {"text": row["text"][:20]} for row in found] for s, found in clean_rows().items()}
    made = Made(tmp_path, tiny_model, short)
    own = {"demonstrations": count, "separator": "\n\n"}
    made.settings = {name: value for name, value in made.settings.items() if name != "prompt"} | {section: own}
    made.config = tmp_path / {"context": "context_tuning.yaml", "cpt": "cpt.yaml"}[section]
    made.write_config()
    case = Case(made)
    few = demonstrations(case.task, CPTConfig(**own) if section == "cpt" else ContextConfig(**own), 0)
    base, tokenizer = load_base(Path(case.settings.model.name_or_path))
    data = encode(few, tokenizer, input_spec(base))
    separator = len(tokenizer("\n\n", add_special_tokens=False).input_ids)
    tokens = sum(len(e.document.prompt_ids + e.document.target_ids) + separator for e in data.train)
    measured = rows.measure(case.settings, case.task)
    found = rows.lengths(case.task, measured)
    assert (measured.demonstrations, measured.spec.room) == (tokens, max(0, 256 - tokens))
    assert (found.status, found.facts["demonstrations"]) == (status, tokens)
    assert f"The demonstrations have {tokens:,} tokens" in found.found
    assert found.remedy.startswith("Use fewer demonstrations") == (status == "red")
    if status == "red":
        with pytest.raises(UserError, match=rf"{section}\.demonstrations: {count} make {tokens} virtual tokens"):
            check_room(base, data, tokens, section)
    else:
        check_room(base, data, tokens, section)
    without = worth.seconds_of_run(case.settings, replace(measured, demonstrations=0), 1e9)["training"]
    whole = worth.seconds_of_run(case.settings, measured, 1e9)["training"]
    assert measured.parameters is not None
    read = tokens * (10 if section == "cpt" else 1)
    assert whole - without == pytest.approx(read * 4 * measured.parameters / (0.5 * 1e9))


def test_an_encoder_decoder_has_positions_for_prompt_and_target(made: Made) -> None:
    case = Case(made)
    measured = rows.measure(case.settings, case.task)
    examples = [e for s in case.task.splits for e in getattr(measured.data, s)]
    prompt = max(len(e.document.prompt_ids) for e in examples)
    target = max(len(document.target_ids) for e in examples for document in e.choices)

    def found(room: int | None, target_room: int | None) -> Finding:
        spec = InputSpec("encoder-decoder", room, target_room=target_room)
        return rows.lengths(case.task, replace(measured, spec=spec))

    fitting = found(prompt, target)
    assert fitting.status == "green"
    assert f"the base model has room for {prompt:,} of the prompt and {target:,} of the target." in fitting.found
    assert "room for" not in found(None, None).found
    for short in (found(prompt - 1, target), found(prompt, target - 1)):
        assert short.status == "red"
        assert short.remedy == "Shorten these rows, or use a base model with more room."
    assert found(prompt - 1, None).facts["too_long"] == sum(len(e.document.prompt_ids) == prompt for e in examples)


@pytest.mark.parametrize(
    ("seconds", "said"), [(12.4, "12 s"), (89, "89 s"), (91, "2 min"), (3570, "1 h 00 min"), (12345, "3 h 26 min")]
)
def test_durations_are_spoken(seconds: float, said: str) -> None:
    assert worth.spoken(seconds) == said
