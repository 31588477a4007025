"""A task's metrics: load and check them, compute their numbers, and put an interval around each."""

from __future__ import annotations

import importlib
import inspect
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from softprompts.errors import UserError, nearest

import evaluate
import numpy

METRICS_DIR = Path(__file__).parent / "metrics"


@dataclass(frozen=True)
class Metric:
    """An `evaluate` module, and the settings that it gets beside answers and targets.

    One of ours, or any other with the same two methods, is `additive`: `row_statistics(answers, targets, **settings)`
    gives (rows, K) numbers and `from_sums` makes the metric of their sums over rows, so that another sample of the rows
    is another sum.
    """

    module: evaluate.Metric
    settings: dict[str, Any]

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
        UserError: no such metric, or one that cannot be loaded.
    """
    own = sorted(p.parent.name for p in METRICS_DIR.glob("*/*.py"))
    metrics = {}
    for name in names:
        try:
            module = _own_module(name) if name in own else evaluate.load(name)
        except ImportError as error:
            raise UserError(f'task.metrics: cannot load "{name}": {str(error).splitlines()[0]}') from error
        except OSError as error:
            if error.errno is None:  # of `evaluate` itself: no file or module has the name
                raise UserError(f'task.metrics: no metric "{name}"{nearest(name, own)}') from error
            raise UserError(
                f'task.metrics: cannot load "{name}": {error.filename}: {error.strerror}; HF_HOME chooses another '
                "folder for what `evaluate` writes"
            ) from error
        takes_schema = schema is not None and "schema" in inspect.signature(module._compute).parameters
        metrics[Path(name).stem] = Metric(module, {"schema": schema} if takes_schema else {})
    return metrics


def _own_module(name: str) -> evaluate.Metric:
    """Load a metric of ours, without the copy of its source that `evaluate.load` makes below HF_HOME."""
    source = importlib.import_module(f"softprompts.metrics.{name}.{name}")
    made = [v for v in vars(source).values() if isinstance(v, type) and v.__module__ == source.__name__]
    (kind,) = (v for v in made if issubclass(v, evaluate.Metric))
    # Its folder is for the rows of `compute`, which those of ours are not asked for.
    return kind(cache_dir=_scratch().name)


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="softprompts-")


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
