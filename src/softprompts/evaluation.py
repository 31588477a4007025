"""Score choices by likelihood, generate open answers, and compute a task's metrics with intervals."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from softprompts.batching import Document, EncodedTask, Example
from softprompts.config import EvaluationConfig
from softprompts.engine import Engine, Scores
from softprompts.errors import UserError, nearest

import evaluate
import numpy
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm.auto import tqdm

METRICS_DIR = Path(__file__).parent / "metrics"


@dataclass(frozen=True)
class Prediction:
    """What the model answered to one row. `scores` are log-likelihoods of the choices, in nats; None if open."""

    place: str
    prompt: str
    target: str
    prediction: str
    scores: list[float] | None


@dataclass(frozen=True)
class Interval:
    """A metric over `rows` rows with its 95 % percentile-bootstrap interval over rows."""

    value: float
    low: float
    high: float
    rows: int


@dataclass(frozen=True)
class Outcome:
    """Answers to a split in its order, and the mean loss of its target tokens in nats."""

    predictions: list[Prediction]
    loss: float


@dataclass(frozen=True)
class TestOutcome:
    """What the test split says. `baselines` holds what a model reaches that always says the majority class."""

    predictions: list[Prediction]
    loss: float
    metrics: dict[str, Interval]
    baselines: dict[str, dict[str, Interval]]
    seconds: float


def evaluate_test(engine: Engine, data: EncodedTask, config: EvaluationConfig, accelerator: Accelerator) -> TestOutcome:
    """Score the test split once, at the end: nothing that is chosen may depend on it."""
    started = time.perf_counter()
    outcome = predict(engine, data.test, config, accelerator, "testing")
    seconds = time.perf_counter() - started
    metrics = load_metrics(data.task.metrics)
    resamples = config.bootstrap_resamples
    baselines = {}
    if data.task.choices:
        majority = majority_predictions(data.train, data.test)
        baselines["majority_class"] = intervals(metrics, majority, resamples)
    return TestOutcome(
        outcome.predictions,
        outcome.loss,
        intervals(metrics, outcome.predictions, resamples),
        baselines,
        seconds,
    )


def predict(
    engine: Engine,
    examples: Sequence[Example],
    config: EvaluationConfig,
    accelerator: Accelerator,
    label: str,
    answer_open: bool = True,
) -> Outcome:
    """Answer every example: the likeliest choice, or a greedily generated text.

    The rows are shared out over the processes; each returns the whole. `answer_open=False` skips generation and
    leaves open answers empty, where only the loss is wanted.
    """
    # Longest first: rows of like length share a batch, and the largest batch, if it does not fit, fails at once.
    order = sorted(range(len(examples)), key=lambda i: -len(examples[i].document.input_ids))
    batches = [order[i : i + config.batch_size] for i in range(0, len(order), config.batch_size)]
    mine = batches[accelerator.process_index :: accelerator.num_processes]
    answers: list[tuple[int, str, list[float] | None, float, int]] = []
    bar = tqdm(mine, desc=label, unit="batch", disable=not accelerator.is_local_main_process, leave=False)
    with torch.inference_mode(), engine.prompts_cached():
        for indices in bar:
            batch = [examples[i] for i in indices]
            answers.extend(zip(indices, *_answer(engine, batch, config, answer_open), strict=True))
    if accelerator.num_processes > 1:
        answers = gather_object(answers)
    answers.sort()
    predictions = [
        Prediction(examples[i].row.place, examples[i].row.prompt, examples[i].row.target, text, scores)
        for i, text, scores, _, _ in answers
    ]
    return Outcome(predictions, sum(a[3] for a in answers) / sum(a[4] for a in answers))


def _answer(
    engine: Engine,
    batch: Sequence[Example],
    config: EvaluationConfig,
    answer_open: bool,
) -> tuple[list[str], list[list[float] | None], list[float], list[int]]:
    """Return for each example its answer, its choices' scores, and the sum and number of its targets' losses."""
    counts = [len(e.document.target_ids) for e in batch]
    if batch[0].choices:
        scores = choice_scores(engine, batch)
        pairs = list(zip(batch, scores, strict=True))
        texts = [e.choice_texts[int(numpy.argmax(row))] for e, row in pairs]
        losses = [-row[e.choice_texts.index(e.row.target)] for e, row in pairs]
        return texts, list(scores), losses, counts
    documents = [e.document for e in batch]
    losses = document_losses(engine, documents).tolist()
    texts = [""] * len(batch)
    if answer_open:
        texts = engine.generate(
            [d.prompt_ids for d in documents], config.max_new_tokens, [d.soft_prompt for d in documents]
        )
    return texts, [None] * len(batch), losses, counts


def document_losses(engine: Engine, documents: Sequence[Document]) -> torch.Tensor:
    """Return the summed negative log-likelihood of each document's target, (documents,), in nats."""
    scores = Scores(*engine(documents))
    return torch.zeros(len(documents), device=scores.logits.device).index_add_(0, scores.document, scores.nll())


def choice_scores(engine: Engine, batch: Sequence[Example]) -> list[list[float]]:
    """Return the log-likelihood of every choice for every example, in nats, from one forward pass."""
    choices = [e.choices for e in batch]
    if all(len(d.target_ids) == 1 and d.prompt_ids == row[0].prompt_ids for row in choices for d in row):
        # Every choice is one token behind the same prompt: one position's logits hold all the answers.
        logits = engine([row[0] for row in choices])[0]
        ids = torch.tensor([[d.target_ids[0] for d in row] for row in choices], device=logits.device)
        return logits.log_softmax(-1).gather(1, ids).tolist()
    flat = (-document_losses(engine, [d for row in choices for d in row])).tolist()
    remaining: Iterator[float] = iter(flat)
    return [[next(remaining) for _ in row] for row in choices]


def load_metrics(names: Sequence[str]) -> dict[str, evaluate.Metric]:
    """Load `evaluate` modules: those of `src/softprompts/metrics` by name, others by path or Hub name.

    Raises:
        UserError: no such metric.
    """
    own = sorted(p.parent.name for p in METRICS_DIR.glob("*/*.py"))
    metrics = {}
    for name in names:
        source = str(METRICS_DIR / name) if name in own else name
        try:
            metrics[Path(name).stem] = evaluate.load(source)
        except (FileNotFoundError, ImportError, ConnectionError, OSError) as error:
            raise UserError(f'task.metrics: no metric "{name}"{nearest(name, own)}') from error
    return metrics


def compute_metrics(metrics: dict[str, evaluate.Metric], predictions: Sequence[Prediction]) -> dict[str, float]:
    """Return every number that the metrics report. Surrounding spaces of targets and answers do not count."""
    answers, targets = _stripped(predictions)
    values: dict[str, float] = {}
    for metric in metrics.values():
        values |= metric.compute(predictions=answers, references=targets)
    return values


def intervals(
    metrics: dict[str, evaluate.Metric], predictions: Sequence[Prediction], resamples: int
) -> dict[str, Interval]:
    """Return each metric with its 95 % interval: 2.5th to 97.5th percentile over resampled rows.

    The resamples are the same for every run with as many rows, so that differences between runs are paired.
    Method: percentile bootstrap, Efron and Tibshirani (1993), chapter 13.
    """
    answers, targets = (numpy.asarray(texts) for texts in _stripped(predictions))
    generator = numpy.random.default_rng(0)
    draws: dict[str, list[float]] = {}
    for _ in range(resamples):
        rows = generator.integers(0, len(answers), len(answers))
        for metric in metrics.values():
            # The module's own computation: compute() would write each resample to disk first.
            for key, value in metric._compute(predictions=answers[rows], references=targets[rows]).items():
                draws.setdefault(key, []).append(value)
    values = compute_metrics(metrics, predictions)
    bounds = {key: numpy.percentile(draws[key], [2.5, 97.5]).tolist() for key in values}
    return {key: Interval(values[key], low, high, len(answers)) for key, (low, high) in bounds.items()}


def majority_predictions(train: Sequence[Example], test: Sequence[Example]) -> list[Prediction]:
    """Return the answers of a model that always says the most frequent target of train."""
    majority = Counter(e.row.target for e in train).most_common(1)[0][0]
    return [Prediction(e.row.place, e.row.prompt, e.row.target, majority, None) for e in test]


def _stripped(predictions: Sequence[Prediction]) -> tuple[list[str], list[str]]:
    return [p.prediction.strip() for p in predictions], [p.target.strip() for p in predictions]
