"""Scores of choices, metrics and their intervals, against numbers computed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers import load_base, make_task
from softprompts.batching import Document, Example, encode
from softprompts.config import EvaluationConfig
from softprompts.engine import Engine
from softprompts.errors import UserError
from softprompts.evaluation import (
    Prediction,
    choice_scores,
    compute_metrics,
    document_losses,
    evaluate_test,
    intervals,
    load_metrics,
    majority_predictions,
    predict,
)

import numpy
import pytest
import torch
from accelerate import Accelerator
from scipy import stats

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
    return encode(make_task(rows, choices), engine.tokenizer, 200).test


def by_hand(engine: Engine, document: Document) -> float:
    """Return a target's log-likelihood from the plain model, one text at a time."""
    ids = torch.tensor([[*document.prompt_ids, *document.target_ids]])
    with torch.no_grad():
        logits = engine.model(input_ids=ids).logits[0]
    first = len(document.prompt_ids)
    return sum(float(logits[first + n - 1].log_softmax(-1)[t]) for n, t in enumerate(document.target_ids))


def made(pairs: list[tuple[str, str]]) -> list[Prediction]:
    return [Prediction("", "", target, answer, None) for target, answer in pairs]


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
        monkeypatch.setattr("softprompts.evaluation.document_losses", None)
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
            assert prediction.prediction == engine.generate([example.document.prompt_ids], 3)[0]


@pytest.mark.parametrize("choices", [CHOICES, None])
def test_loss_is_the_mean_over_all_target_tokens(engine: Engine, choices: tuple[str, ...] | None) -> None:
    """Not the mean of the rows' means: a row with a long target weighs more, as in training."""
    rows = examples(engine, choices)
    outcome = predict(engine, rows, EvaluationConfig(batch_size=2), Accelerator(cpu=True), "testing", answer_open=False)
    expected = -sum(by_hand(engine, e.document) for e in rows) / sum(len(e.document.target_ids) for e in rows)
    assert outcome.loss == pytest.approx(expected, abs=1e-4)


def test_open_answers_can_be_left_out(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "generate", None)
    outcome = predict(
        engine, examples(engine, None), EvaluationConfig(), Accelerator(cpu=True), "testing", answer_open=False
    )
    assert [p.prediction for p in outcome.predictions] == [""] * len(ROWS)


@pytest.mark.parametrize(
    ("pairs", "accuracy", "macro_f1"),
    [
        # a: precision 2/3, recall 1 -> 0.8; b: precision 1, recall 1/2 -> 2/3.
        ([("a", "a"), ("a", "a"), ("b", "a"), ("b", "b")], 3 / 4, (0.8 + 2 / 3) / 2),
        # c is never predicted and counts 0.
        ([("a", "a"), ("b", "b"), ("c", "a")], 2 / 3, (2 / 3 + 1 + 0) / 3),
        # d is predicted and never right: it counts 0 as well.
        ([("a", "a"), ("a", "d")], 1 / 2, (2 / 3 + 0) / 2),
        ([("a", "b"), ("b", "a")], 0.0, 0.0),
        ([(" a", "a "), ("b\n", "b")], 1.0, 1.0),
        ([("A", "a")], 0.0, 0.0),
    ],
)
def test_metrics(pairs: list[tuple[str, str]], accuracy: float, macro_f1: float) -> None:
    values = compute_metrics(load_metrics(["accuracy", "macro_f1"]), made(pairs))
    assert values == {"accuracy": pytest.approx(accuracy), "macro_f1": pytest.approx(macro_f1)}


def test_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r'task\.metrics: no metric "acuracy" \(did you mean "accuracy"\?\)'):
        load_metrics(["acuracy"])


CUSTOM = """
import datasets
import evaluate

class Length(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        features = datasets.Features({"predictions": text, "references": text})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {"length": sum(map(len, predictions)) / len(predictions)}
"""


@pytest.mark.parametrize("given", ["folder", "file"])
def test_own_metric_by_path(tmp_path: Path, given: str) -> None:
    folder = tmp_path / "answer_length"
    folder.mkdir()
    file = folder / "answer_length.py"
    file.write_text(CUSTOM, encoding="utf-8")
    metrics = load_metrics(["accuracy", str(folder if given == "folder" else file)])
    assert list(metrics) == ["accuracy", "answer_length"]
    assert compute_metrics(metrics, made([("a", "bb"), ("a", "a")])) == {"accuracy": 0.5, "length": 1.5}


def test_interval_is_the_percentile_bootstrap() -> None:
    right = numpy.random.default_rng(1).random(300) < 0.7
    predictions = made([("yes", "yes" if r else "no") for r in right])
    ours = intervals(load_metrics(["accuracy"]), predictions, 4000)["accuracy"]
    theirs = stats.bootstrap((right,), numpy.mean, method="percentile", n_resamples=4000, rng=0).confidence_interval
    assert (ours.value, ours.rows) == (right.mean(), 300)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs), abs=0.005)


def test_intervals_are_the_same_each_time_and_paired_between_runs() -> None:
    metrics = load_metrics(["accuracy", "macro_f1"])
    pairs = [("a", "a"), ("b", "a"), ("b", "b"), ("a", "b"), ("a", "a")]
    assert intervals(metrics, made(pairs), 50) == intervals(metrics, made(pairs), 50)
    swapped = [("b" if t == "a" else "a", "b" if p == "a" else "a") for t, p in pairs]
    assert intervals(metrics, made(swapped), 50) == intervals(metrics, made(pairs), 50)
    assert intervals(metrics, made([("a", "a")]), 5)["accuracy"].low == 1.0


def test_majority_is_that_of_train_and_not_of_test(engine: Engine) -> None:
    train = examples(engine, CHOICES, [("a", " good"), ("b", " lovely great"), ("c", " lovely great")])
    test = examples(engine, CHOICES, [("d", " good"), ("e", " good"), ("f", " lovely great")])
    predictions = majority_predictions(train, test)
    assert [p.prediction for p in predictions] == [" lovely great"] * 3
    assert [p.target for p in predictions] == [" good", " good", " lovely great"]


@pytest.mark.parametrize("choices", [CHOICES, None])
def test_evaluate_test(engine: Engine, choices: tuple[str, ...] | None) -> None:
    data = encode(make_task(ROWS, choices), engine.tokenizer, 200)
    config = EvaluationConfig(batch_size=2, max_new_tokens=2, bootstrap_resamples=20)
    outcome = evaluate_test(engine, data, config, Accelerator(cpu=True))
    right = sum(p.prediction.strip() == p.target.strip() for p in outcome.predictions)
    assert outcome.metrics["accuracy"].value == right / len(ROWS)
    assert outcome.seconds > 0
    if choices:
        assert outcome.baselines["majority_class"]["accuracy"].value == 2 / 5
    else:
        assert outcome.baselines == {}
