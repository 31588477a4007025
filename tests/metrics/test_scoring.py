"""Loading and checking metrics; their numbers, and intervals against recomputation and committed records."""

from __future__ import annotations

import json
import random
import socket
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.tasks.record import record_of_config
from made_tasks import CUSTOM
from softprompts.errors import UserError
from softprompts.metrics.names import MODULES, check_names
from softprompts.metrics.scoring import (
    Metric,
    check_metrics,
    compute_metrics,
    intervals,
    is_mean_over_rows,
    load_metrics,
    reported,
)

import evaluate
import nltk
import numpy
import pytest
from scipy import stats

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = {"type": "object", "required": ["intent"]}
MENTIONS = {"a cell": {"mentions": [["cell", "cells"]]}, "a cell %s": {"mentions": [["cell"], ["%s"]]}}
TEXTS = {
    "accuracy": ["a", "b", "c"],
    "macro_f1": ["a", "b", "c"],
    "exact_match": ["a", "b", "c"],
    "label_f1": ["a", "a, b", "b; c", "none", "a, d"],
    "docstring_style": ["Return the x.", "Returns the x.", "Compute y.", ""],
    "final_number": ["it is 1", "2.0", "1, so 2", "none"],
    "json_object": ['{"intent": "x", "slots": {"a": 1}}', '{"slots": {"a": 1, "b": [1, 2]}}', '{"intent": "x"}', "no"],
    "rouge_l": ["the cat sat on a mat", "a cat sat", "the mat", "dogs ran to the mat"],
    "chrf": ["the cat sat on a mat", "a cat sat", "the mat", "dogs ran to the mat"],
    "bleu": ["the cat sat on a mat", "a cat sat on a mat there", "the cat sat", "dogs ran to the mat"],
    "policy_cost": ["permissive", "copyleft", "abstain", "proprietary"],
    "brand_voice": ["It is a shell.", "It draws.", "Interactive shell", "Painter of charts"],
    "support_ticket": [
        '{"queue": "a", "priority": "high", "answer": "x", "intent": 1}',
        '{"queue": "a", "priority": "low", "answer": "y"}',
        '{"queue": "b", "priority": "high", "answer": "z"}',
        "no",
    ],
    "mentions": ["a cell", "no", "cells", "a cell %s"],
}


def drawn(name: str, rows: int) -> tuple[list[str], list[str]]:
    """Return answers and targets, a third of them equal."""
    generator = random.Random(f"{name} {rows}")
    targets = generator.choices(TEXTS[name], k=rows)
    return [t if generator.random() < 0.3 else generator.choice(TEXTS[name]) for t in targets], targets


def loaded(name: str) -> dict[str, Metric]:
    return load_metrics([name], SCHEMA, MENTIONS)


@pytest.mark.parametrize("name", TEXTS)
def test_intervals_are_those_of_recomputing_every_resample(name: str) -> None:
    (answers, targets), metrics = drawn(name, 60), loaded(name)
    generator = numpy.random.default_rng(0)
    draws = []
    for _ in range(30):
        rows = generator.integers(0, 60, 60)
        module, settings = metrics[name].module, metrics[name].settings
        resample = {"predictions": [answers[i] for i in rows], "references": [targets[i] for i in rows]}
        draws.append(module.compute(**resample, **settings))
    for key, interval in intervals(metrics, answers, targets, 30).items():
        low, high = numpy.percentile([d[key] for d in draws], [2.5, 97.5])
        assert (interval.low, interval.high) == (pytest.approx(low, abs=1e-12), pytest.approx(high, abs=1e-12))
        assert 0 <= interval.low <= interval.high <= 1
        assert (interval.low < interval.high) == (interval.value < 1)
        assert interval.value == compute_metrics(metrics, answers, targets)[key]


@pytest.mark.parametrize("recipe", ["prompt_tuning", "hard_prompt"])
def test_intervals_of_the_committed_records_come_out_again(recipe: str) -> None:
    """To the last digit, so that a new run is comparable with them."""
    record = json.loads(record_of_config("sentiment", recipe, ROOT / "results").read_text(encoding="utf-8"))
    labels = {}
    for split in ("train", "test"):
        lines = (ROOT / "data" / record["task"].split()[0] / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        labels[split] = [row["label"] for row in rows if row["domain"] in record["settings"]["task"]["where"]["domain"]]
    majority = Counter(labels["train"]).most_common(1)[0][0]
    metrics = load_metrics(record["settings"]["task"]["metrics"])
    resamples = record["settings"]["evaluation"]["bootstrap_resamples"]
    again = intervals(metrics, [majority] * len(labels["test"]), labels["test"], resamples)
    assert {name: vars(i) for name, i in again.items()} == record["baselines"]["majority_class"]


def test_interval_is_the_percentile_bootstrap() -> None:
    right = numpy.random.default_rng(1).random(300) < 0.7
    ours = intervals(load_metrics(["accuracy"]), ["yes" if r else "no" for r in right], ["yes"] * 300, 4000)["accuracy"]
    theirs = stats.bootstrap((right,), numpy.mean, method="percentile", n_resamples=4000, rng=0).confidence_interval
    assert (ours.value, ours.rows) == (right.mean(), 300)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs), abs=0.005)


def test_intervals_are_the_same_each_time_and_paired_between_runs() -> None:
    metrics = load_metrics(["accuracy", "macro_f1"])
    answers, targets = list("aabba"), list("ababa")
    assert intervals(metrics, answers, targets, 50) == intervals(metrics, answers, targets, 50)
    swapped = [["b" if text == "a" else "a" for text in texts] for texts in (answers, targets)]
    assert intervals(metrics, *swapped, 50) == intervals(metrics, answers, targets, 50)
    assert intervals(metrics, ["a"], ["a"], 5)["accuracy"].low == 1.0


def custom(folder: Path, number: str = "length") -> Path:
    folder = folder / "answer_length"
    folder.mkdir()
    file = folder / "answer_length.py"
    file.write_text(CUSTOM.replace("NUMBER", number), encoding="utf-8")
    return file


@pytest.mark.parametrize("given", ["folder", "file"])
def test_own_metric_by_path(tmp_path: Path, given: str) -> None:
    file = custom(tmp_path)
    names = ["accuracy", str(file.parent if given == "folder" else file)]
    check_metrics(names, has_choices=True)
    metrics = load_metrics(names)
    assert list(metrics) == ["accuracy", "answer_length"]
    assert compute_metrics(metrics, ["bb", "a"], ["a", "a"]) == {"accuracy": 0.5, "length": 1.5}
    assert reported(metrics, [" yes"]) == ["accuracy", "length"]
    interval = intervals(metrics, ["bb", "a"], ["a", "a"], 50)["length"]
    assert (interval.low, interval.value, interval.high) == (1.0, 1.5, 2.0)


@pytest.mark.parametrize("name", TEXTS)
def test_a_metric_of_ours_is_a_module_that_evaluate_loads(name: str, tmp_path: Path) -> None:
    (answers, targets), metrics = drawn(name, 20), loaded(name)
    module = evaluate.load(str(MODULES / f"{name}.py"), cache_dir=str(tmp_path))
    numbers = module.compute(predictions=answers, references=targets, **metrics[name].settings)
    assert numbers == compute_metrics(metrics, answers, targets)
    assert len(module.description) > 30


def test_the_schema_goes_to_the_metrics_that_take_one(tmp_path: Path) -> None:
    metrics = load_metrics(["accuracy", "json_object", str(custom(tmp_path))], {"extra": 1})
    numbers = compute_metrics(metrics, ["{}"], ["{}"])
    assert (numbers["valid_schema"], numbers["length"]) == (1.0, 3.0)
    assert "valid_schema" not in reported(load_metrics(["json_object"]), ["{}"])


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_evaluate_loads_the_file_of_a_metric(name: str) -> None:
    """The module's own class, and not the base that it shares with others."""
    answers, targets = drawn(name, 20)
    module = evaluate.load(str(MODULES / f"{name}.py"))
    assert type(module).__mro__[1].__module__ == "softprompts.metrics.base"
    found = module.compute(predictions=answers, references=targets)
    assert found == pytest.approx(compute_metrics(load_metrics([name]), answers, targets))


def test_metrics_need_no_network_and_no_further_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a metric wants the network")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(nltk.data, "path", [])
    own = sorted(p.stem for p in MODULES.glob("[!_]*.py"))
    assert set(TEXTS) <= set(own)
    for name in own:
        numbers = compute_metrics(loaded(name), ["Return the 2 words."], ["Return the 2 words."])
        assert all(0 <= value <= 1 for value in numbers.values())
        assert all(type(value) is float for value in numbers.values())


@pytest.mark.parametrize(
    ("names", "has_choices", "message"),
    [
        (["acuracy"], True, 'no metric "acuracy" (did you mean "accuracy"?)'),
        (
            ["accuracy", "rouge_l"],
            True,
            '"rouge_l" scores open targets, but this task has choices (use accuracy or macro_f1)',
        ),
        (["macro_f1"], False, '"macro_f1" scores choices, but this task has none (use accuracy or exact_match)'),
        (
            ["exact_match", "json_object"],
            False,
            '"exact_match" and "json_object" both report exact_match; remove one',
        ),
    ],
)
def test_metrics_that_do_not_fit_are_refused_in_one_line(names: list[str], has_choices: bool, message: str) -> None:
    with pytest.raises(UserError) as refusal:
        check_metrics(names, has_choices)
    assert str(refusal.value) == f"task.metrics: {message}"


def test_own_metric_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    file = custom(tmp_path)
    file.write_text("import no_such_package\n" + CUSTOM, encoding="utf-8")
    with pytest.raises(UserError, match=r'^task\.metrics: cannot load "\S+answer_length\.py": [^\n]*no_such_package'):
        check_metrics([str(file)], has_choices=False)


def test_a_metric_without_a_name_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^task\.metrics: expected the name of a metric, found an empty text$"):
        check_metrics([""], has_choices=False)


def test_own_metric_that_reports_a_number_of_ours_is_refused(tmp_path: Path) -> None:
    metrics = load_metrics(["accuracy", str(custom(tmp_path, "accuracy"))])
    with pytest.raises(UserError, match=r'^task\.metrics: "accuracy" and "answer_length" both report accuracy;'):
        reported(metrics, ["yes"])


@pytest.mark.parametrize("has_choices", [True, False])
def test_the_default_metric_fits_every_task(has_choices: bool) -> None:
    check_metrics(["accuracy"], has_choices)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine.py", 'task.metrics: no metric "mine.py"'),
        ("a/b/c", 'task.metrics: no metric "a/b/c"'),
        ("acuracy", 'task.metrics: no metric "acuracy" (did you mean "accuracy"?)'),
        ("mine/bleu_2", 'task.metrics: no metric "mine/bleu_2"'),
    ],
)
def test_names_of_no_metric_are_known_without_evaluate(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path))
    with pytest.raises(UserError) as caught:
        check_names([name])
    assert str(caught.value).startswith(message)


def test_a_metric_that_was_loaded_before_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path))
    for name in ("evaluate-metric--rouge", "mine--other"):
        (tmp_path / "evaluate_modules" / "metrics" / name).mkdir(parents=True)
    check_names(["rouge", "mine/other", "accuracy"])


@pytest.mark.parametrize("there", [True, False, None])
def test_with_a_network_the_hub_is_asked(there: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(_: object, name: str, **__: object) -> bool:
        if there is None:
            raise ConnectionError
        return there and name == "evaluate-metric/rouge"

    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi.repo_exists", asked)
    if there:
        check_names(["rouge"])
        return
    with pytest.raises(UserError) as caught:
        check_names(["rouge"])
    unasked = "; the Hub cannot be reached (ConnectionError)" if there is None else ""
    assert str(caught.value) == f'task.metrics: no metric "rouge" (did you mean "rouge_l"?){unasked}'


@pytest.mark.parametrize(
    ("name", "number", "mean"),
    [
        ("accuracy", "accuracy", True),
        ("macro_f1", "macro_f1", False),
        ("exact_match", "exact_match", True),
        ("rouge_l", "rouge_l", True),
        ("chrf", "chrf", False),
        ("bleu", "bleu", False),
    ],
)
def test_a_mean_over_rows_is_told_from_other_numbers(name: str, number: str, mean: bool) -> None:
    targets = ["a cat sat on the mat", "dogs bark", "a cat sat on the mat", "the bird sings a song", "dogs bark"] * 5
    assert is_mean_over_rows(load_metrics([name]), number, targets) == mean


def test_an_abstention_is_a_miss_and_no_class_of_its_own() -> None:
    metrics = load_metrics(["macro_f1"])
    found = compute_metrics(metrics, ["a", "a", "abstain", "b"], ["a", "a", "b", "b"])
    assert found["macro_f1"] == pytest.approx((1 + 2 / 3) / 2)
    named = compute_metrics(metrics, ["abstain", "b"], ["abstain", "b"])
    assert named["macro_f1"] == 1, "a label with this name stays one"
