"""Answers, scores of choices and losses, against numbers computed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers import load_base, make_task
from softprompts.config.sections import EvaluationConfig
from softprompts.encoding.documents import Document, Example
from softprompts.encoding.tokenization import encode
from softprompts.engine.forward import Engine
from softprompts.engine.generation import generate
from softprompts.errors import UserError
from softprompts.evaluation.predict import (
    ABSTAINED,
    Prediction,
    answers_and_targets,
    best_threshold,
    choice_scores,
    document_losses,
    evaluate_test,
    predict,
)
from softprompts.metrics.modules.policy_cost import STRICTNESS
from softprompts.models.loading import InputSpec

import numpy
import pytest
import torch
from accelerate import Accelerator

CHOICES = (" good", " lovely great", " bad and awful poor")  # 2, 4 and more tokens
ROWS = [
    ("the film was", " good"),
    ("the plot", " bad and awful poor"),
    ("the film was very very very fine and the cast", " lovely great"),
    ("a", " good"),
    ("dull poor film and the plot was a", " lovely great"),
]


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Engine:
    return Engine(*load_base(tiny_model))


def examples(engine: Engine, choices: tuple[str, ...] | None, rows: list[tuple[str, str]] = ROWS) -> list[Example]:
    return encode(make_task(rows, choices), engine.tokenizer, InputSpec(room=200)).test


def by_hand(engine: Engine, document: Document) -> float:
    """Return a target's log-likelihood from the plain model, one text at a time."""
    ids = torch.tensor([[*document.prompt_ids, *document.target_ids]])
    with torch.no_grad():
        logits = engine.model(input_ids=ids).logits[0]
    first = len(document.prompt_ids)
    return sum(float(logits[first + n - 1].log_softmax(-1)[t]) for n, t in enumerate(document.target_ids))


def test_scores_are_sums_over_the_tokens_of_each_choice(engine: Engine) -> None:
    rows = examples(engine, CHOICES)
    assert len({len(d.target_ids) for d in rows[0].choices}) > 1
    with torch.inference_mode():
        scores = choice_scores(engine, rows)
    for example, row in zip(rows, scores, strict=True):
        assert row == pytest.approx([by_hand(engine, d) for d in example.choices], abs=1e-4)


def test_the_shortcut_for_choices_of_one_token_equals_the_general_path(engine: Engine, monkeypatch: Any) -> None:
    rows = examples(engine, (" bad", " film", " dull"), [("the film was", " dull"), ("the", " bad")])
    assert {len(d.target_ids) for e in rows for d in e.choices} == {1}
    with torch.inference_mode():
        general = -document_losses(engine, [d for e in rows for d in e.choices])
        monkeypatch.setattr("softprompts.evaluation.predict.document_losses", None)
        shortcut = torch.tensor(choice_scores(engine, rows)).flatten()
    assert torch.allclose(shortcut, general, atol=1e-4)


@pytest.mark.parametrize("choices", [CHOICES, None])
@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_answers_keep_their_order_whatever_the_batches(
    engine: Engine, choices: tuple[str, ...] | None, batch_size: int
) -> None:
    rows = examples(engine, choices)
    config = EvaluationConfig(batch_size=batch_size, max_new_tokens=3)
    outcome = predict(engine, rows, config, Accelerator(cpu=True), "testing")
    assert [p.place for p in outcome.predictions] == [f"row {n}" for n in range(1, len(ROWS) + 1)]
    for example, prediction in zip(rows, outcome.predictions, strict=True):
        assert (prediction.prompt, prediction.target) == (example.row.prompt, example.row.target)
        if choices:
            scores = [by_hand(engine, d) for d in example.choices]
            assert prediction.scores == pytest.approx(scores, abs=1e-4)
            assert prediction.prediction == choices[int(numpy.argmax(scores))]
        else:
            assert prediction.scores is None
            assert prediction.prediction == generate(engine, [example.document.prompt_ids], 3)[0]


@pytest.mark.parametrize("choices", [CHOICES, None])
def test_loss_is_the_mean_over_all_target_tokens(engine: Engine, choices: tuple[str, ...] | None) -> None:
    """Not the mean of the rows' means: a row with a long target weighs more, as in training."""
    rows = examples(engine, choices)
    outcome = predict(engine, rows, EvaluationConfig(batch_size=2), Accelerator(cpu=True), "testing", answer_open=False)
    expected = -sum(by_hand(engine, e.document) for e in rows) / sum(len(e.document.target_ids) for e in rows)
    assert outcome.loss == pytest.approx(expected, abs=1e-4)


def test_open_answers_can_be_left_out(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softprompts.evaluation.predict.generate", None)
    outcome = predict(
        engine, examples(engine, None), EvaluationConfig(), Accelerator(cpu=True), "testing", answer_open=False
    )
    assert [p.prediction for p in outcome.predictions] == [""] * len(ROWS)


def test_surrounding_spaces_do_not_count() -> None:
    predictions = [Prediction("", "", " a\n", "a ", None), Prediction("", "", "b", "\nb c", None)]
    assert answers_and_targets(predictions) == (["a", "b c"], ["a", "b"])


def test_majority_is_that_of_train_and_not_of_test(engine: Engine) -> None:
    train = examples(engine, CHOICES, [("a", " good"), ("b", " lovely great"), ("c", " lovely great")])
    test = examples(engine, CHOICES, [("d", " good"), ("e", " good"), ("f", " lovely great")])
    data = encode(make_task(ROWS, CHOICES), engine.tokenizer, InputSpec(room=200))
    outcome = evaluate_test(engine, replace(data, train=train, test=test), EvaluationConfig(), Accelerator())
    assert list(outcome.baselines) == ["majority_class"]
    assert outcome.baselines["majority_class"]["accuracy"].value == pytest.approx(1 / 3)


def test_the_scores_of_a_model_that_may_abstain_stand_beside_those_without_and_of_a_person(engine: Engine) -> None:
    data = encode(make_task(ROWS, CHOICES), engine.tokenizer, InputSpec(room=200))
    data = replace(data, task=replace(data.task, metrics=("policy_cost", "accuracy")))
    whole = evaluate_test(engine, data, EvaluationConfig(bootstrap_resamples=20), Accelerator())
    config = EvaluationConfig(abstain_below=1.0, bootstrap_resamples=20)  # which no probability reaches
    outcome = evaluate_test(engine, data, config, Accelerator())
    assert [p.prediction for p in outcome.predictions] == [ABSTAINED] * len(ROWS)
    assert list(outcome.baselines) == ["majority_class", "all_decided", "all_abstained"]
    assert outcome.baselines["majority_class"] == whole.baselines["majority_class"]
    assert outcome.baselines["all_decided"] == whole.metrics
    assert outcome.baselines["all_abstained"] == outcome.metrics
    assert outcome.metrics["cost_score"].value == pytest.approx(0.9)


OF_DECIDED = """import datasets
import evaluate


class OfDecided(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        decided = [(p, r) for p, r in zip(predictions, references) if p != "abstain"]
        return {"of_decided": sum(p == r for p, r in decided) / len(decided)}
"""


def test_a_baseline_on_which_a_metric_fails_is_left_out(
    engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metric = tmp_path / "of_decided.py"
    metric.write_text(OF_DECIDED)
    data = encode(make_task(ROWS, CHOICES), engine.tokenizer, InputSpec(room=200))
    data = replace(data, task=replace(data.task, metrics=(str(metric), "accuracy")))
    config = EvaluationConfig(abstain_below=0.01, bootstrap_resamples=20)
    outcome = evaluate_test(engine, data, config, Accelerator())
    assert list(outcome.baselines) == ["majority_class", "all_decided"]
    said = [r.message for r in caplog.records if r.message.startswith("task.metrics")]
    assert said == [
        'task.metrics: "of_decided" fails on the predictions: division by zero; so there are no scores of all_abstained'
    ]
    # At a threshold of 1 no row is decided, and the metric fails. At a lower one each decided row is right.
    unsure = [surely(" good", " good", sure, CHOICES) for sure in (0.6, 0.7)]
    wrong = surely(" good", " lovely great", 0.5, CHOICES)
    assert best_threshold([*unsure, wrong], data.task) == 0.51
    with pytest.raises(UserError, match=r'abstain_below: auto finds no threshold: task.metrics: "of_decided" fails on'):
        best_threshold([replace(wrong, prediction="abstain")], data.task)


@pytest.mark.parametrize("choices", [CHOICES, None])
def test_evaluate_test(engine: Engine, choices: tuple[str, ...] | None) -> None:
    data = encode(make_task(ROWS, choices), engine.tokenizer, InputSpec(room=200))
    config = EvaluationConfig(batch_size=2, max_new_tokens=2, bootstrap_resamples=20)
    outcome = evaluate_test(engine, data, config, Accelerator(cpu=True))
    right = sum(p.prediction.strip() == p.target.strip() for p in outcome.predictions)
    assert outcome.metrics["accuracy"].value == right / len(ROWS)
    assert outcome.seconds > 0
    if choices:
        assert outcome.baselines["majority_class"]["accuracy"].value == 2 / 5
    else:
        assert outcome.baselines == {}


@pytest.mark.parametrize("choices", [CHOICES, None])
def test_a_loss_that_is_not_finite_gives_no_score(tiny_model: Path, choices: tuple[str, ...] | None) -> None:
    base, tokenizer = load_base(tiny_model)
    with torch.no_grad():
        base.get_output_embeddings().weight[7] = torch.nan
    data = encode(make_task(ROWS, choices), tokenizer, InputSpec(room=200))
    with pytest.raises(UserError, match=r"^testing: the model's loss is nan, so predictions are meaningless"):
        evaluate_test(Engine(base, tokenizer), data, EvaluationConfig(max_new_tokens=2), Accelerator())


def test_choices_below_a_probability_are_left_to_a_person(engine: Engine) -> None:
    rows = examples(engine, CHOICES)
    plain = predict(engine, rows, EvaluationConfig(), Accelerator(), "testing").predictions
    sure = [float(torch.tensor(p.scores).softmax(-1).max()) for p in plain]
    threshold = sum(sorted(sure)[1:3]) / 2  # two rows are below it
    outcome = predict(engine, rows, EvaluationConfig(abstain_below=threshold), Accelerator(), "testing")
    expected = [p.prediction if s >= threshold else ABSTAINED for p, s in zip(plain, sure, strict=True)]
    assert [p.prediction for p in outcome.predictions] == expected
    assert expected.count(ABSTAINED) == 2
    assert [p.scores for p in outcome.predictions] == [p.scores for p in plain]


def surely(target: str, prediction: str, sure: float, choices: Sequence[str] = STRICTNESS) -> Prediction:
    scores = numpy.log([(1 - sure) / (len(choices) - 1)] * len(choices))
    index = choices.index(prediction)
    scores[index] = numpy.log(sure)
    return Prediction("", "", target, prediction, scores.tolist())


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # A mistake that is too lenient costs 10 reviews, so both mistakes and the right answer between them are left.
        ([("copyleft", 0.5), ("permissive", 0.605), ("copyleft", 0.705), ("permissive", 0.9)], 0.71),
        # Two right answers would be lost for one mistake that costs more: all below it is still left.
        ([("permissive", 0.5), ("permissive", 0.6), ("copyleft", 0.8)], 0.81),
        ([("permissive", 0.5), ("permissive", 0.6), ("permissive", 0.8)], 0.01),  # nothing is wrong: nothing is left
    ],
)
def test_the_threshold_has_the_lowest_cost_on_validation(rows: list[tuple[str, float]], expected: float) -> None:
    predictions = [surely(target, "permissive", sure) for target, sure in rows]
    task = replace(make_task(ROWS, tuple(STRICTNESS)), metrics=("policy_cost",))
    assert best_threshold(predictions, task) == expected


def test_a_review_of_all_rows_is_chosen_if_mistakes_cost_more() -> None:
    predictions = [surely("copyleft", "permissive", 0.995)] * 3 + [surely("permissive", "permissive", 0.7)]
    task = replace(make_task(ROWS, tuple(STRICTNESS)), metrics=("policy_cost",))
    assert best_threshold(predictions, task) == 1.0


def test_auto_takes_the_threshold_from_validation_and_not_from_test(tiny_model: Path) -> None:
    base, tokenizer = load_base(tiny_model)
    engine = Engine(base, tokenizer)
    data = encode(make_task(ROWS, CHOICES), tokenizer, InputSpec(room=200))
    data = replace(data, task=replace(data.task, metrics=("policy_cost",)), test=data.test[:3])
    config = EvaluationConfig(abstain_below="auto")
    outcome = evaluate_test(engine, data, config, Accelerator())
    validation = predict(engine, data.validation, config, Accelerator(), "testing").predictions
    assert ABSTAINED not in [p.prediction for p in validation]
    assert outcome.abstain_below == best_threshold(validation, data.task)
    fixed = evaluate_test(engine, data, EvaluationConfig(abstain_below=outcome.abstain_below), Accelerator())
    assert fixed.predictions == outcome.predictions
    wrong = [replace(e, row=replace(e.row, target=" good")) for e in data.validation]
    other = evaluate_test(engine, replace(data, validation=wrong), config, Accelerator())
    assert other.abstain_below != outcome.abstain_below


@pytest.mark.parametrize("below", [0.5, "auto", None])
def test_no_choice_may_be_the_word_of_an_abstention(engine: Engine, below: Any) -> None:
    choices = (*CHOICES, " abstain")
    data = encode(make_task(ROWS, choices), engine.tokenizer, InputSpec(room=200))
    config = EvaluationConfig(abstain_below=below, bootstrap_resamples=20)
    if below is None:
        assert evaluate_test(engine, data, config, Accelerator()).predictions
        return
    with pytest.raises(UserError, match=r'^task.choices: "abstain" is also the prediction for rows below evaluation'):
        evaluate_test(engine, data, config, Accelerator())


@pytest.mark.parametrize("value", [0.0, -1.0, 1.5, float("nan")])
def test_a_threshold_that_is_no_probability_is_refused(value: float) -> None:
    with pytest.raises(UserError, match=r"^evaluation.abstain_below: expected auto, or more than 0 and at most 1"):
        EvaluationConfig(abstain_below=value)
