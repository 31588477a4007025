"""A task's metrics: load and check them, compute their numbers, and put an interval around each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from softprompts.errors import UserError, nearest, short, warn

import evaluate
import numpy

METRICS_DIR = Path(__file__).parent / "metrics"
REACHED = 1 - 1e-6  # the best number of a metric of ours, but for rounding
LONG = 30  # characters: a text of so many has more than three words if its language parts words by spaces


@dataclass(frozen=True)
class Metric:
    """An `evaluate` module, and the settings that it gets beside answers and targets.

    One of ours, or any other with the same two methods, is `additive`: `row_statistics(answers, targets, **settings)`
    gives (rows, K) numbers and `from_sums` makes the metric of their sums over rows, so that another sample of the rows
    is another sum. `own` marks those of ours: their numbers are 1 for a right answer.
    """

    module: evaluate.Metric
    settings: dict[str, Any]
    own: bool = False

    @property
    def additive(self) -> bool:
        return hasattr(self.module, "row_statistics") and hasattr(self.module, "from_sums")


@dataclass(frozen=True)
class Interval:
    """A metric over `rows` rows with its 95 % percentile-bootstrap interval over rows."""

    value: float
    low: float
    high: float
    rows: int


def load_metrics(names: Sequence[str], schema: dict[str, Any] | None = None) -> dict[str, Metric]:
    """Load `evaluate` modules: those of `src/softprompts/metrics` by name, others by path or Hub name.

    `schema` goes to those whose `_compute` takes one.

    Raises:
        UserError: no such metric, or one that cannot be loaded; two of one name.
    """
    own = sorted(p.parent.name for p in METRICS_DIR.glob("*/*.py"))
    metrics: dict[str, Metric] = {}
    for name in names:
        if Path(name).stem in metrics:
            raise UserError(f'task.metrics: two metrics are named "{Path(name).stem}"; rename or remove one')
        source = str(METRICS_DIR / name) if name in own else name
        try:
            module = evaluate.load(source)
        except FileNotFoundError as error:
            if name in own:  # the cache of `evaluate`, not the metric, is what was not found
                raise _cannot_load(name, error) from error
            raise UserError(f'task.metrics: no metric "{short(name)}"{nearest(name, own)}') from error
        except Exception as error:  # whatever a module of the user's raises while it is imported
            raise _cannot_load(name, error) from error
        takes_schema = schema is not None and "schema" in inspect.signature(module._compute).parameters
        metrics[Path(name).stem] = Metric(module, {"schema": schema} if takes_schema else {}, name in own)
    return metrics


def _cannot_load(name: str, error: Exception) -> UserError:
    why = str(error).strip().partition("\n")[0]
    return UserError(f'task.metrics: cannot load "{name}": {why or type(error).__name__}')


def check_metrics(names: Sequence[str], has_choices: bool) -> None:
    """Load metrics and see whether they fit a task with or without choices, and each other.

    Raises:
        UserError: as `load_metrics`; a metric of written answers in a task with choices, one of choices in a task
            without; two metrics that report the same number.
    """
    metrics = load_metrics(names)
    for name, metric in metrics.items():
        if has_choices and getattr(metric.module, "open_only", False):
            raise UserError(
                f'task.metrics: "{name}" scores written answers, and this task has choices (take accuracy or macro_f1)'
            )
        if not has_choices and getattr(metric.module, "choices_only", False):
            raise UserError(
                f'task.metrics: "{name}" scores choices, and this task has none (take accuracy or exact_match)'
            )
    compute_metrics({name: metric for name, metric in metrics.items() if metric.additive}, [""], [""])


def check_reach(names: Sequence[str], schema: dict[str, Any] | None, rows: Sequence[tuple[str, str]]) -> None:
    """Score the targets of `rows`, (place, target) pairs, as answers to themselves, and see whether they are right.

    Metrics of ours must give 1. Their first number is looked at row by row, and warned of if some rows fall short; a
    row shorter than `LONG` may, if all rows together do not: BLEU counts groups of four words over the corpus. Another
    module's best number is unknown: if it reports one number, that must differ from the one for empty answers; if it
    reports several, nothing is checked.

    Raises:
        UserError: no target reaches a metric's best; a metric fails on them, or reports what is no number.
    """
    places, targets = [place for place, _ in rows], [target.strip() for _, target in rows]
    for name, metric in load_metrics(names, schema).items():
        if getattr(metric.module, "reference_free", False):
            continue
        values = _numbers(name, metric, targets, targets)
        if not metric.own:
            if len(values) == 1 and _numbers(name, metric, [""] * len(targets), targets) == values:
                raise UserError(f'task.metrics: "{name}" gives the targets and empty answers the same number, {values}')
            continue
        (first, value), *others = values.items()
        statistics = metric.module.row_statistics(targets, targets, **metric.settings)
        short_of = [n for n, row in enumerate(statistics) if metric.module.from_sums(row)[first] < REACHED]
        if value >= REACHED:
            short_of = [n for n in short_of if len(targets[n]) >= LONG]
        if len(short_of) == len(targets) and value < REACHED:
            raise UserError(
                f'task.metrics: "{name}" finds nothing to score in any target of validation and test, e.g. '
                f"{places[0]}: no answer could be right; take another, e.g. chrf or exact_match"
            )
        if short_of:
            warn(
                f'task.metrics: "{name}" finds nothing or not all to score in {len(short_of):,} of {len(targets):,} '
                f"targets of validation and test, e.g. {places[short_of[0]]}: a right answer counts less than 1 there"
            )
        for key, number in others:
            if number < REACHED:
                warn(f'task.metrics: "{name}": {key} of the targets themselves is {number:.3f}: it cannot be reached')


def _numbers(name: str, metric: Metric, answers: list[str], targets: list[str]) -> dict[str, float]:
    try:
        values = compute_metrics({name: metric}, answers, targets)
    except Exception as error:  # whatever a module of the user's raises, before anything is trained
        raise UserError(
            f'task.metrics: "{name}" fails on the targets: {short(error) or type(error).__name__}'
        ) from error
    for key, value in values.items():
        if not isinstance(value, Real):
            raise UserError(
                f'task.metrics: "{name}" reports {short(key)} as {type(value).__name__}, which is no number'
            )
    return values


def reported(metrics: dict[str, Metric], target: str) -> list[str]:
    """Return the names of the numbers that the metrics report, by scoring a right answer."""
    return list(compute_metrics(metrics, [target.strip()], [target.strip()]))


def compute_metrics(metrics: dict[str, Metric], answers: list[str], targets: list[str]) -> dict[str, float]:
    """Return every number that the metrics report, over all rows.

    Raises:
        UserError: two metrics report the same number.
    """
    values: dict[str, float] = {}
    origin: dict[str, str] = {}
    for name, metric in metrics.items():
        if metric.additive:
            # Without compute(), which writes all rows to disk first, and cannot write every text that a model may.
            numbers = sampler(metric, answers, targets)(numpy.arange(len(answers)))
        else:
            numbers = metric.module.compute(predictions=answers, references=targets, **metric.settings)
        for key in numbers:
            if key in origin:
                raise UserError(f'task.metrics: "{origin[key]}" and "{name}" both report {key}; leave one out')
            origin[key] = name
        values |= numbers
    return values


def intervals(
    metrics: dict[str, Metric], answers: list[str], targets: list[str], resamples: int
) -> dict[str, Interval]:
    """Return each number with its 95 % interval: 2.5th to 97.5th percentile over resampled rows.

    The resamples are the same for every run with as many rows, so that differences between runs are paired.
    Method: percentile bootstrap, Efron and Tibshirani (1993), chapter 13.
    """
    return mean_intervals(metrics, [answers], targets, resamples)


def mean_intervals(
    metrics: dict[str, Metric], answers: Sequence[list[str]], targets: list[str], resamples: int
) -> dict[str, Interval]:
    """Return the mean of each number over several models that answer the same rows, with its interval over rows.

    A resample holds the same rows for all models: their answers to a row are no independent samples.
    """
    draws: list[dict[str, list[float]]] = []
    for said in answers:
        samplers = [sampler(metric, said, targets) for metric in metrics.values()]
        generator = numpy.random.default_rng(0)
        mine: dict[str, list[float]] = {}
        for _ in range(resamples):
            rows = generator.integers(0, len(said), len(said))
            for numbers in samplers:
                for key, value in numbers(rows).items():
                    mine.setdefault(key, []).append(value)
        draws.append(mine)
    values = [compute_metrics(metrics, said, targets) for said in answers]
    found = {}
    for key in values[0]:
        low, high = numpy.percentile(numpy.mean([mine[key] for mine in draws], axis=0), [2.5, 97.5]).tolist()
        found[key] = Interval(sum(v[key] for v in values) / len(values), low, high, len(targets))
    return found


def sampler(metric: Metric, answers: list[str], targets: list[str]) -> Callable[[numpy.ndarray], dict[str, float]]:
    """Return what gives a metric's numbers for a sample of the rows, (rows of the sample,) indices."""
    module, settings = metric.module, metric.settings
    if metric.additive:
        statistics = module.row_statistics(answers, targets, **settings)
        return lambda rows: module.from_sums(numpy.bincount(rows, minlength=len(statistics)) @ statistics)
    return lambda rows: module._compute(
        predictions=[answers[i] for i in rows], references=[targets[i] for i in rows], **settings
    )
