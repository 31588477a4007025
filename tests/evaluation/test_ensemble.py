"""Prompts in one bank answer like each alone; their vote is the majority's; other adapters are refused in one line."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from helpers import CPU, load_base, make_task
from softprompts.adapters.loading import load_adapter
from softprompts.config.sections import EvaluationConfig, TaskConfig
from softprompts.config.tools import AdapterConfig, EnsembleConfig
from softprompts.encoding.documents import Document, EncodedTask, Example
from softprompts.encoding.tokenization import encode
from softprompts.engine.forward import Engine
from softprompts.errors import UserError
from softprompts.evaluation import predict as evaluation
from softprompts.evaluation.ensemble import (
    CHOSEN,
    SINGLE,
    VOTE,
    behind_each,
    load_members,
    members,
    most_frequent,
    outcome_of_vote,
    summary_of_members,
    vote,
    voted,
)
from softprompts.evaluation.predict import Outcome, Prediction, evaluate_test, predict
from softprompts.metrics.scoring import intervals, load_metrics, mean_intervals

import numpy
import pytest
import torch
from accelerate import Accelerator

TASK = TaskConfig("{text}", " {label}", choices=[" positive", " negative"])
CHOICES = (" a", " b", " c")
EVALUATION = EvaluationConfig(batch_size=6, bootstrap_resamples=50)


def config_of(voters: dict[str, Path], *names: str) -> EnsembleConfig:
    return EnsembleConfig([str(voters[name]) for name in names])


@pytest.mark.parametrize(
    ("scores", "winner"),
    [
        ([[-1, -2, -3], [-1, -2, -3], [-9, -0.1, -9]], 0),  # two votes to one, with any likelihood
        ([[-1, -2, -3], [-2, -1.5, -3]], 0),  # one vote each: -3 against -3.5
        ([[-1, -2, -3], [-2, -0.5, -3]], 1),  # -3 against -2.5
        ([[-1, -1.1, -5], [-5, -1.1, -1], [-1, -1.1, -5], [-5, -1.1, -1]], 0),  # no vote for b, the likeliest of all
        ([[-1, -1, -3]], 0),  # equal in all: the order
        ([[-1, -2, -3], [-2, -1, -3]], 0),
        ([[-3, -2, -1]], 2),
    ],
)
def test_the_vote_of_hand_computed_cases(scores: list[list[float]], winner: int) -> None:
    assert vote(scores) == winner


def answered(row: str, target: str, scores: list[float]) -> Prediction:
    return Prediction(row, f"prompt of {row}", target, CHOICES[scores.index(max(scores))], scores)


def test_copies_of_a_row_become_one_prediction_with_mean_scores() -> None:
    copies = [
        answered("1", " a", [-1.0, -2.0, -3.0]),
        answered("1", " a", [-4.0, -2.0, -3.0]),
        answered("1", " a", [-2.0, -1.0, -3.0]),
        answered("2", " c", [-1.0, -2.0, -3.0]),
        answered("2", " c", [-1.0, -9.0, -3.0]),
        answered("2", " c", [-4.0, -2.0, -0.0]),
    ]
    one, two = voted(copies, CHOICES, 3, EvaluationConfig())
    assert asdict(one) == asdict(copies[0]) | {"prediction": " b", "scores": pytest.approx([-7 / 3, -5 / 3, -3])}
    assert (two.place, two.target, two.prediction) == ("2", " c", " a")
    # The chosen ones have 0.56 and 0.48 of the probability, by the mean scores.
    voted_on = voted(copies, CHOICES, 3, EvaluationConfig(abstain_below=0.5))
    assert [p.prediction for p in voted_on] == [" b", evaluation.ABSTAINED]


def test_a_vote_that_may_abstain_has_the_scores_without_it() -> None:
    """The vote decides every row then, which is not the likeliest choice of the mean scores."""
    task = make_task([("1", " b")], choices=CHOICES)
    rows = behind_each(encode(task, load_tokenizer_of_letters()), 3)
    copies = [[-1.0, -2.0, -9.0], [-9.0, -0.1, -9.0], [-1.5, -2.5, -9.0]]
    predictions = [answered("1", " b", scores) for scores in copies]
    before = evaluation.TestOutcome(rows.test, predictions, 0.7, {}, {}, 2.0)
    config = replace(EVALUATION, abstain_below=1.0)
    outcome, _ = outcome_of_vote(before, Outcome(predictions, 0.5), rows, EnsembleConfig(["x"] * 3), config)
    accuracy = {name: scores["accuracy"].value for name, scores in outcome.baselines.items()}
    assert accuracy == {"majority_class": 1.0, "all_decided": 0.0, "all_abstained": 0.0}


def test_mean_best_and_vote_of_a_hand_computed_ensemble() -> None:
    """Three members are right on 3, 2 and 3 of four rows: their mean is 8 / 12, and their vote right on all four."""
    right, wrong = [-1.0, -2.0, -3.0], [-2.0, -1.0, -3.0]
    # Columns are members. The second is best on validation, the first, before its equal, afterwards.
    test = [[wrong, right, right], [right, right, wrong], [right, wrong, right], [right, wrong, right]]
    validation = [[wrong, right, wrong], [right, right, wrong]]
    task = make_task([(str(n), " a") for n in range(4)], choices=CHOICES)
    rows = behind_each(encode(task, load_tokenizer_of_letters()), 3)
    predictions = [answered(str(n), " a", scores) for n, members_of in enumerate(test) for scores in members_of]
    checked = [answered(str(n), " a", scores) for n, members_of in enumerate(validation) for scores in members_of]
    before = evaluation.TestOutcome(rows.test, predictions, 0.7, {}, {}, 2.0)
    config = EnsembleConfig(["first", "second", "third"])
    outcome, notes = outcome_of_vote(before, Outcome(checked, 0.5), rows, config, EVALUATION)
    assert [p.prediction for p in outcome.predictions] == [" a"] * 4
    assert outcome.metrics["accuracy"].value == 1.0
    assert outcome.metrics["accuracy"].rows == len(outcome.examples) == 4
    assert outcome.baselines["majority_class"]["accuracy"].rows == 4
    assert [m["metrics"]["accuracy"]["value"] for m in notes["members"]] == [0.75, 0.5, 0.75]
    assert notes["mean"]["accuracy"]["value"] == pytest.approx(2 / 3)
    assert [m["validation"]["accuracy"] for m in notes["members"]] == [0.5, 1.0, 0.0]
    assert (notes["chosen"]["adapter"], notes["chosen"]["by"]) == ("second", "validation accuracy")
    assert notes["chosen"]["metrics"]["accuracy"]["value"] == 0.5
    assert notes["best_afterwards"]["adapter"] == "first"
    assert notes["best_afterwards"]["by"] == "test accuracy, so not to be reported as chosen"
    compared = {(c["first"], c["second"]): c for c in notes["comparisons"] if c["metric"] == "accuracy"}
    assert {pair: c["difference"] for pair, c in compared.items()} == {
        (VOTE, SINGLE): pytest.approx(1 / 3),
        (VOTE, CHOSEN): 0.5,
        (SINGLE, CHOSEN): pytest.approx(1 / 6),
    }
    assert compared[VOTE, SINGLE]["seeds"] == (1, 3)
    said = summary_of_members(notes).splitlines()
    assert said[0].startswith("mean of 3 prompts: accuracy 0.6667 (95 % interval ")
    assert said[1].startswith("best by validation accuracy, second: accuracy 0.5000 ")
    assert said[2].startswith("best by test accuracy, so not to be reported as chosen, first: accuracy 0.7500 ")
    assert [line.partition(" (")[0] for line in said[3:]] == [
        "no difference shown in accuracy between the vote and a single prompt",
        "no difference shown in accuracy between the vote and the best by validation",
        "their vote:",
    ]


def load_tokenizer_of_letters() -> Any:
    """Return a tokenizer that makes a token of each character."""

    class Letters:
        eos_token_id, bos_token_id, cls_token_id, chat_template = 0, None, None, None
        all_special_tokens, added_tokens_decoder = (), {}  # type: ignore[var-annotated]

        def __call__(self, text: str, **_: Any) -> Any:
            return type("Ids", (), {"input_ids": [ord(c) for c in text]})

    return Letters()


def test_among_equals_on_validation_the_likelier_is_chosen() -> None:
    task = make_task([("0", " a")], choices=CHOICES)
    rows = behind_each(encode(task, load_tokenizer_of_letters()), 2)
    copies = [answered("0", " a", [-1.0, -2.0, -3.0]), answered("0", " a", [-0.5, -2.0, -3.0])]
    before = evaluation.TestOutcome(rows.test, copies, 0.7, {}, {}, 2.0)
    config = EnsembleConfig(["first", "second"])
    _, notes = outcome_of_vote(before, Outcome(copies, 0.5), rows, config, EVALUATION)
    assert notes["chosen"]["adapter"] == "second"


def test_the_interval_of_a_mean_is_over_rows_and_not_over_answers() -> None:
    metrics = load_metrics(["accuracy"])
    targets = ["a"] * 40
    said = ["a"] * 20 + ["b"] * 20
    (one,), (many,) = (
        f.values() for f in (intervals(metrics, said, targets, 200), mean_intervals(metrics, [said] * 5, targets, 200))
    )
    assert many == one, "five members that say the same know no more than one"
    other = ["b"] * 20 + ["a"] * 20
    (flat,) = mean_intervals(metrics, [said, other], targets, 200).values()
    assert (flat.value, flat.low, flat.high, flat.rows) == (0.5, 0.5, 0.5, 40)
    half = ["a"] * 40
    (mean,) = mean_intervals(metrics, [said, half], targets, 200).values()
    assert mean.value == 0.75
    assert mean.low == pytest.approx(float(numpy.mean([one.low, 1.0])))


@pytest.mark.parametrize("names", [("one", "two", "three"), ("prefix one", "prefix two")])
@pytest.mark.parametrize("packed", [False, True])
def test_every_member_answers_as_it_does_alone(
    voters: dict[str, Path], tiny_model: Path, names: tuple[str, ...], packed: bool
) -> None:
    base, tokenizer = load_base(tiny_model)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    config = config_of(voters, *names)
    bank = load_members(base, members(config), config)
    task = make_task([("the film was good", " positive"), ("a very dull plot", " negative"), ("fine", " positive")])
    task = replace(task, choices=(" positive", " negative"))
    data = encode(task, tokenizer)
    together = predict(
        Engine(bank[0], tokenizer, packed, bank[1:]), behind_each(data, len(bank)).test, EVALUATION, Accelerator(), ""
    )
    for number, name in enumerate(names):
        alone = load_adapter(load_base(tiny_model)[0], AdapterConfig(str(voters[name])))
        expected = predict(Engine(alone, tokenizer), data.test, EVALUATION, Accelerator(), "")
        found = together.predictions[number :: len(names)]
        assert [p.place for p in found] == [p.place for p in expected.predictions]
        for ours, theirs in zip(found, expected.predictions, strict=True):
            assert ours.scores == pytest.approx(theirs.scores, rel=1e-4)
    scores = [tuple(p.scores or ()) for p in together.predictions[: len(names)]]
    assert len(set(scores)) == len(names), "each member has a soft prompt of its own"
    for name, tensor in base.state_dict().items():
        assert torch.equal(tensor, before[name]), "the base model stays as it is"


def test_rows_of_all_members_share_the_forward_passes(voters: dict[str, Path], tiny_model: Path) -> None:
    base, tokenizer = load_base(tiny_model)
    config = config_of(voters, "one", "two", "three")
    bank = load_members(base, members(config), config)
    seen = []

    class Watched(Engine):
        def forward(self, documents: Any) -> Any:
            seen.append([d.soft_prompt for d in documents])
            return super().forward(documents)

    engine = Watched(bank[0], tokenizer, True, bank[1:])
    task = replace(make_task([("the film", " positive"), ("a plot", " negative")]), choices=(" positive", " negative"))
    data = behind_each(encode(task, tokenizer), 3)
    evaluate_test(engine, data, EVALUATION, Accelerator())
    assert [sorted(set(batch)) for batch in seen] == [[0, 1, 2]]
    assert engine.device == CPU


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("one", "lora"),
            r"{lora} is of type LORA; expected prompt tuning or prefix tuning, which do not change",
        ),
        (("one", "two", "one"), r"{one} and {one} are the same adapter"),
        (("one", "prefix one"), r"{one} is of type PROMPT_TUNING and {prefix one} of type PREFIX_TUNING; one forward"),
        (("prefix one", "classifier"), r"{classifier} has its own classifier in the base model, and thus cannot"),
    ],
)
def test_what_cannot_share_a_base_model_is_refused(
    voters: dict[str, Path], names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        members(config_of(voters, *names))
    assert str(caught.value).startswith("ensemble.adapters: " + message.format(**voters))
    assert "\n" not in str(caught.value)


def test_an_adapter_is_known_again_under_another_name(voters: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "adapter").symlink_to(voters["one"])
    for other in (run, run / "adapter", voters["one"].parent / "two" / ".." / "one"):
        with pytest.raises(UserError, match=r"^ensemble.adapters: .* are the same adapter$"):
            members(EnsembleConfig([str(voters["one"]), str(other)]))


@pytest.mark.parametrize("adapters", [[], ["runs/one"]])
def test_one_alone_cannot_vote(adapters: list[str]) -> None:
    with pytest.raises(UserError, match=rf"^ensemble.adapters: expected two or more to vote, found {len(adapters)}$"):
        EnsembleConfig(adapters)


def test_open_answers_vote_for_the_text_that_most_wrote() -> None:
    """Two of three wrote it; without a majority it is the first member's; white space around a text does not count."""
    assert most_frequent([" on", " off", "off "]) == " off"
    assert most_frequent([" on", " off", " dim"]) == " on"
    task = make_task([("1", " off"), ("2", " on")], choices=None)
    examples = [Example(row, Document((0,), (9,)), (), ()) for row in task.splits["train"] for _ in range(3)]
    rows = EncodedTask(task, examples, examples, examples, ())
    texts = [(" on", " off", " off"), (" on", " off", " dim")]
    predictions = [
        Prediction(str(n), "", target, text, None)
        for n, (target, said) in enumerate(zip((" off", " on"), texts, strict=True))
        for text in said
    ]
    before = evaluation.TestOutcome(rows.test, predictions, 0.7, {}, {}, 2.0)
    outcome, notes = outcome_of_vote(before, Outcome(predictions, 0.5), rows, EnsembleConfig(["x"] * 3), EVALUATION)
    assert [p.prediction for p in outcome.predictions] == [" off", " on"]
    (metric,) = outcome.metrics
    assert outcome.metrics[metric].value == 1.0
    assert [m["metrics"][metric]["value"] for m in notes["members"]] == [0.5, 0.5, 0.5]
    assert outcome.baselines == {}


def test_missing_folders_are_refused(voters: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"^ensemble.adapters: no such folder: ./nowhere"):
        members(EnsembleConfig([str(voters["one"]), "./nowhere"]))


def test_members_of_another_base_model_are_refused(voters: dict[str, Path], wider_model: Path, tiny_t5: Path) -> None:
    config = config_of(voters, "one", "two")
    with pytest.raises(UserError, match=r"^ensemble.adapters: .*is for another base model: hidden size 32"):
        load_members(load_base(wider_model)[0], members(config), config)
    other = load_base(wider_model)[0]
    other.config.hidden_size = 32
    other.name_or_path = "elsewhere"
    with pytest.raises(UserError, match=r"^ensemble.adapters: .*set ensemble.any_base to true$"):
        load_members(other, members(config), config)
