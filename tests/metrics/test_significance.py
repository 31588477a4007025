"""Differences between methods: intervals and p against scipy and closed forms, Holm by hand, seeds, verdicts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.grid.settings import Benchmark, Cell
from benchmarks.report.frame import compare_methods, recorded_metrics
from made_result import make_result
from softprompts.metrics.scoring import Metric, compute_metrics, intervals, load_metrics
from softprompts.metrics.significance import Comparison, compare, compare_sums, holm, p_value, verdict

import numpy
import pytest
from scipy import stats

ROWS = 400
TARGETS = ["yes"] * ROWS


@pytest.fixture(scope="module")
def accuracy() -> dict[str, Metric]:
    return load_metrics(["accuracy"])


def said(right: Any) -> list[str]:
    """Return answers that are right where `right`, (rows,), is true."""
    return ["yes" if r else "no" for r in right]


def outcomes(seed: int, *shares: float, shared: float = 0.8) -> list[numpy.ndarray]:
    """Return for each share whether rows are right, (rows,); the same draw decides most rows for all of them."""
    generator = numpy.random.default_rng(seed)
    common, own = generator.random(ROWS), generator.random((len(shares), ROWS))
    mixed = generator.random(ROWS) < shared
    return [numpy.where(mixed, common, own[i]) < share for i, share in enumerate(shares)]


def test_one_seed_each_is_the_paired_bootstrap_of_rows(accuracy: dict[str, Metric]) -> None:
    a, b = outcomes(1, 0.85, 0.8)
    (found,) = compare({"a": [said(a)], "b": [said(b)]}, TARGETS, accuracy, 4000)
    paired = a.astype(float) - b
    theirs = stats.bootstrap((paired,), numpy.mean, method="percentile", n_resamples=4000, rng=0).confidence_interval
    assert (found.first, found.second, found.metric, found.rows, found.seeds) == ("a", "b", "accuracy", ROWS, (1, 1))
    assert found.difference == pytest.approx(paired.mean())
    assert (found.low, found.high) == pytest.approx(tuple(theirs), abs=0.004)
    error = paired.std() / ROWS**0.5
    assert (found.low, found.high) == pytest.approx(stats.norm.interval(0.95, paired.mean(), error), abs=0.004)
    assert found.p == pytest.approx(2 * stats.norm.sf(paired.mean() / error), abs=0.02)
    assert found.adjusted == found.p
    apart = (a.std() ** 2 + b.std() ** 2) ** 0.5 / ROWS**0.5
    assert found.high - found.low < 0.8 * 2 * 1.96 * apart, "paired: narrower than two tests apart"


def test_several_seeds_have_the_variance_of_the_closed_form(accuracy: dict[str, Metric]) -> None:
    counts = {"a": (300, 320, 340), "b": (290, 300, 340, 350)}
    right = {name: [numpy.arange(ROWS) % 40 < n / 10 for n in row] for name, row in counts.items()}
    answers = {name: [said(run) for run in runs] for name, runs in right.items()}
    (found,) = compare(answers, TARGETS, accuracy, 4000)
    assert found.seeds == (3, 4)
    assert found.difference == pytest.approx(numpy.mean(right["a"]) - numpy.mean(right["b"]))
    rows = numpy.mean(right["a"], axis=0) - numpy.mean(right["b"], axis=0)
    variance = rows.var() / ROWS + sum(numpy.mean(r, axis=1).var(ddof=1) / len(r) for r in right.values())
    assert (found.high - found.low) / 3.92 == pytest.approx(variance**0.5, rel=0.15)


def test_seeds_that_differ_widen_the_interval(accuracy: dict[str, Metric]) -> None:
    (base, other) = outcomes(2, 0.8, 0.8)
    better = [numpy.where(numpy.arange(ROWS) < n, True, base) for n in (0, 80, 160)]
    spread = [said(run) for run in better]
    middle = [spread[1]] * 3
    wide, narrow = (compare({"a": runs, "b": [said(other)]}, TARGETS, accuracy, 1000)[0] for runs in (spread, middle))
    assert wide.difference == pytest.approx(narrow.difference, abs=0.02)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    (single,) = compare({"a": middle[:1], "b": [said(other)]}, TARGETS, accuracy, 1000)
    assert (narrow.low, narrow.high) == pytest.approx((single.low, single.high)), "seeds that agree add nothing"


def test_a_quotient_of_sums_is_compared_like_a_mean_of_rows(accuracy: dict[str, Metric]) -> None:
    """Right rows and rows are the sums of accuracy: the same draws give the same comparison."""
    right = outcomes(5, 0.6, 0.65, 0.7, 0.75)
    (whole,) = compare({"one": [said(r) for r in right[:2]], "two": [said(r) for r in right[2:]]}, TARGETS, accuracy)
    tables = [numpy.stack([r, numpy.ones(ROWS)], axis=1) for r in right]
    assert compare_sums({}, "accuracy") == []
    (sums,) = compare_sums({"one": tables[:2], "two": tables[2:]}, "accuracy")
    assert (sums.difference, sums.rows, sums.seeds) == (whole.difference, ROWS, (2, 2))
    assert sums.low == pytest.approx(whole.low, abs=0.015)
    assert sums.high == pytest.approx(whole.high, abs=0.015)


def test_losses_are_weighted_by_their_tokens_and_smaller_ones_are_better() -> None:
    one, two = numpy.array([[2.0, 1], [6.0, 3]]), numpy.array([[1.0, 1], [3.0, 3]])  # nats and tokens of two texts
    (found,) = compare_sums({"one": [one], "two": [two]}, "loss", less=True)
    assert found.difference == pytest.approx(-(8 / 4) + (4 / 4))
    assert found.p == 0.5, "two rows on one side: 2 ** (1 - 2)"
    (other,) = compare_sums({"one": [one], "two": [two]}, "accuracy")
    assert other.difference == -found.difference


def test_the_same_few_rows_for_all_seeds_are_not_many_observations() -> None:
    """Two equal methods: 30 rows, on which all five seeds of a method agree. "Every seed is above" is chance."""
    generator, shown, above = numpy.random.default_rng(0), 0, 0
    for _ in range(200):
        right = [generator.random(30) < 0.5 for _ in range(2)]
        flips = [generator.random((5, 30)) < 0.02 for _ in range(2)]
        runs = [
            [numpy.stack([r ^ f, numpy.ones(30)], axis=1) for f in own] for r, own in zip(right, flips, strict=True)
        ]
        means = [[run[:, 0].mean() for run in own] for own in runs]
        above += min(means[0]) > max(means[1]) or max(means[0]) < min(means[1])
        (c,) = compare_sums(dict(zip(("one", "two"), runs, strict=True)), "accuracy", 400)
        shown += c.p < 0.05
    assert above / 200 > 0.5
    assert shown / 200 < 0.12


def test_identical_answers_differ_by_nothing(accuracy: dict[str, Metric]) -> None:
    (base,) = outcomes(3, 0.7)
    (found,) = compare({"a": [said(base)] * 4, "b": [said(base)]}, TARGETS, accuracy, 200)
    assert (found.difference, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_without_a_difference_one_test_in_twenty_rejects(accuracy: dict[str, Metric]) -> None:
    found = [
        compare({"a": [said(a)], "b": [said(b)]}, TARGETS, accuracy, 200)[0]
        for a, b in (outcomes(seed, 0.8, 0.8) for seed in range(300))
    ]
    assert 0.01 < numpy.mean([x.p < 0.05 for x in found]) < 0.09
    assert 0.01 < numpy.mean([not x.low <= 0 <= x.high for x in found]) < 0.1
    assert numpy.mean([x.p for x in found]) > 0.4


@pytest.mark.parametrize(("differ", "least"), [(0, 1.0), (1, 1.0), (2, 0.5), (4, 0.125), (6, 0.03125)])
def test_few_rows_that_differ_are_weak_evidence(accuracy: dict[str, Metric], differ: int, least: float) -> None:
    """A sign test of d rows, all on one side, has p = 2 / 2^d."""
    worse = numpy.arange(ROWS) >= differ
    (found,) = compare({"a": [said(worse | True)], "b": [said(worse)]}, TARGETS, accuracy, 500)
    assert found.p >= least
    (alone,) = compare({"a": [["yes"]], "b": [["no"]]}, ["yes"], accuracy, 500)
    assert alone.p == 1.0


def test_p_counts_the_resamples_on_the_other_side_and_one_more() -> None:
    assert p_value(numpy.ones(1999)) == pytest.approx(2 / 2000)
    assert p_value(-numpy.ones(1999)) == pytest.approx(2 / 2000)
    assert p_value(numpy.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.0, -1.0, 2.0, 3.0])) == pytest.approx(2 * 3 / 10)
    assert p_value(numpy.zeros(9)) == 1.0


def test_a_number_that_is_none_shows_nothing() -> None:
    assert p_value(numpy.full(1999, numpy.nan)) == 1.0
    assert p_value(numpy.append(numpy.ones(1998), numpy.nan)) == 1.0


def test_the_floor_of_p_holds_for_unequal_numbers_of_seeds() -> None:
    """For a metric that is no sum, rows with equal answers of one and of five runs seemed to differ."""
    targets = ["a"] * 40
    almost = ["a"] * 38 + ["b"] * 2

    class Plain:
        """A metric without row statistics."""

        def compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
            return {"same": sum(p == r for p, r in zip(predictions, references, strict=True)) / len(references)}

        _compute = compute

    plain: Any = {"plain": Metric(Plain(), {})}  # type: ignore[arg-type]
    (found,) = compare({"x": [targets], "y": [almost] * 5}, targets, plain, 50)
    assert found.p >= 0.5
    # Each row has both answers on both sides, but in other shares: right in two runs of three, and in one.
    wrong = ["b"] * 40
    (shares,) = compare({"x": [targets, targets, wrong], "y": [targets, wrong, wrong]}, targets, plain, 50)
    assert shares.p < 1


@pytest.mark.parametrize(
    ("values", "adjusted"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.01, 0.02, 0.03, 0.04], [0.04, 0.06, 0.06, 0.06]),
        ([0.5, 0.001], [0.5, 0.002]),
        ([0.9, 0.6], [1.0, 1.0]),
        ([0.2], [0.2]),
        ([], []),
    ],
)
def test_holm(values: list[float], adjusted: list[float]) -> None:
    assert holm(values) == pytest.approx(adjusted)


def test_metrics_of_several_numbers_and_of_no_sums(accuracy: dict[str, Metric]) -> None:
    """`additive` is a shortcut: recomputing every resample gives the same."""
    generator = numpy.random.default_rng(4)
    targets = generator.choice(["a", "b", "c"], 60).tolist()
    answers = {name: [generator.choice(["a", "b", "c"], 60).tolist() for _ in range(2)] for name in ("x", "y")}
    metrics = load_metrics(["accuracy", "macro_f1"])

    class Plain:
        """A metric without row statistics."""

        def __init__(self, module: Any) -> None:
            self._compute = self.compute = module._compute

    plain = {name: Metric(Plain(metric.module), {}) for name, metric in metrics.items()}  # type: ignore[arg-type]
    found, again = (compare(answers, targets, m, 50) for m in (metrics, plain))
    assert [x.metric for x in found] == ["accuracy", "macro_f1"]
    for x, y in zip(found, again, strict=True):
        assert replace(x, difference=0, low=0, high=0) == replace(y, difference=0, low=0, high=0)
        assert (x.difference, x.low, x.high) == pytest.approx((y.difference, y.low, y.high))


def test_the_rows_drawn_are_those_of_the_intervals(accuracy: dict[str, Metric]) -> None:
    (right,) = outcomes(5, 0.8)
    alone = intervals(accuracy, said(right), TARGETS, 100)["accuracy"]
    (found,) = compare({"a": [said(right)], "none": [["no"] * ROWS]}, TARGETS, accuracy, 100)
    assert (found.low, found.high) == (alone.low, alone.high)


def benchmark(runs: dict[str, list[list[str]]], targets: list[str]) -> Benchmark:
    """Return the records of a grid with some answers, by method and seed."""
    rows = [{"place": f"row {i}", "prompt": "?", "target": f" {text}"} for i, text in enumerate(targets)]
    cells = {
        method: {seed: Cell(method, seed, make_result(), [f" {a}\n" for a in run], {}) for seed, run in enumerate(each)}
        for method, each in runs.items()
    }
    grid = {"methods": {method: {"label": None} for method in runs}, "seeds": [0, 1, 2]}
    return Benchmark("made", grid, rows, cells, {}, {})


def test_all_pairs_of_a_benchmark_corrected_by_metric() -> None:
    shares = outcomes(6, 0.9, 0.8, 0.79)
    runs = {name: [said(s), said(s)] for name, s in zip(("lora", "prefix_tuning", "prompt"), shares, strict=True)}
    found = compare_methods(benchmark(runs | {"missing": []}, TARGETS), load_metrics(["accuracy", "macro_f1"]), 500)
    pairs = [("lora", "prefix_tuning"), ("lora", "prompt"), ("prefix_tuning", "prompt")]
    assert [(x.metric, x.first, x.second) for x in found] == [(m, *p) for m in ("accuracy", "macro_f1") for p in pairs]
    for chosen in (found[:3], found[3:]):
        assert [x.adjusted for x in chosen] == holm([x.p for x in chosen])
    assert found[0].difference == pytest.approx(shares[0].mean() - shares[1].mean())
    alone = compare({k: v for k, v in runs.items() if k != "prompt"}, TARGETS, load_metrics(["accuracy"]), 500)[0]
    assert replace(found[0], adjusted=alone.adjusted) == alone, "other methods change nothing but the correction"


def test_a_plain_difference_is_shown_among_many_pairs() -> None:
    (right,) = outcomes(8, 0.9)
    runs = {"none": [["no"] * ROWS]} | {f"some{n}": [said(right)] for n in range(11)}
    found = compare_methods(benchmark(runs, TARGETS), load_metrics(["accuracy"]))
    assert len(found) == 66
    assert [x.adjusted < 0.05 for x in found] == [x.first == "none" for x in found]


def test_methods_are_not_compared_by_numbers_that_describe_them() -> None:
    """A model that decides a single row, and that right, is not better than one that decides all."""
    targets = ["permissive"] * 40
    answers = {"shy": [["permissive", *["abstain"] * 39]], "bold": [["permissive"] * 36 + ["copyleft"] * 4]}
    metrics = load_metrics(["policy_cost", "accuracy"])
    assert [c.metric for c in compare(answers, targets, metrics, 50)] == ["cost_score", "accuracy"]


def test_a_benchmark_is_compared_by_the_metrics_of_its_records() -> None:
    right, other = outcomes(7, 0.9, 0.8)
    made = benchmark({"lora": [said(right)], "prompt": [said(other)]}, TARGETS)
    settings = {"task": {"metrics": ["accuracy"], "schema": None}}
    for method, cells in made.cells.items():
        made.cells[method] = {
            seed: replace(cell, result=make_result(settings=settings)) for seed, cell in cells.items()
        }
    assert compare_methods(made, resamples=100) == compare_methods(made, load_metrics(["accuracy"]), 100)
    assert compare_methods(benchmark({"lora": []}, []), resamples=100) == []


def test_metrics_are_those_of_the_record() -> None:
    task = {"metrics": ["json_object"], "schema": "embedded:home_commands/schema.json"}
    metrics = recorded_metrics([make_result(settings={"task": task})])
    assert "valid_schema" in compute_metrics(metrics, ["{}"], ["{}"])
    newer, older = (
        make_result(settings={"task": {"metrics": names, "schema": None}})
        for names in (["accuracy", "macro_f1"], ["accuracy"])
    )
    assert list(recorded_metrics([older, newer])) == ["accuracy", "macro_f1"], "an older run drops no metric"


FOUND = Comparison("lora", "prompt_tuning", "accuracy", 0.026, 0.008, 0.044, 0.004, 0.012, 500, (3, 3))
LORA = "lora is better than prompt tuning in accuracy by 0.0260 (95 % interval 0.0080 to 0.0440, "
PROMPT = "prompt tuning is better than lora in accuracy by 0.0260 (95 % interval 0.0080 to 0.0440, "
NEITHER = "no difference shown in accuracy between lora and prompt tuning (+0.0260, 95 % interval +0.0080 to +0.0440, "


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, f"{LORA}adjusted p 0.012, 500 rows)"),
        ({"difference": -0.026, "low": -0.044, "high": -0.008, "p": 0.012}, f"{PROMPT}p 0.012, 500 rows)"),
        ({"adjusted": 0.05}, f"{NEITHER}adjusted p 0.05, 500 rows)"),
    ],
)
def test_verdict(changes: dict[str, Any], sentence: str) -> None:
    assert verdict(replace(FOUND, **changes), lambda name: name.replace("_", " ")) == sentence
