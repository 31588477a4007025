"""Score choices by likelihood, generate open answers, and score the test split."""

from __future__ import annotations

import math
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from softprompts.config.sections import EvaluationConfig
from softprompts.encoding.documents import Document, EncodedTask, Example, answers_of, lengths_of
from softprompts.encoding.targets import warn_of_cut_targets
from softprompts.engine.forward import Engine
from softprompts.engine.generation import generate
from softprompts.errors import Interrupted, UserError, warn
from softprompts.metrics.scoring import Interval, Metric, compute_metrics, intervals, load_metrics
from softprompts.models.sharding.layers import without_gradient
from softprompts.models.sharding.turns import turns
from softprompts.system.memory import one_line_if_memory_is_full
from softprompts.system.signals import collected_signals
from softprompts.tasks.task import Task

import numpy
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.nn.utils import parametrize
from tqdm.auto import tqdm

ABSTAINED = "abstain"  # in place of a choice whose probability is below evaluation.abstain_below
CHOICE_TOKENS = 2048  # most target tokens of choices in one forward pass: 0.4 GB of logits at 49,152 words


@dataclass(frozen=True)
class Prediction:
    """The prediction for one row. `scores` are log-likelihoods of the choices, in nats; None if open.

    `prediction` is a choice, `ABSTAINED`, or an open prediction.
    """

    place: str
    prompt: str
    target: str
    prediction: str
    scores: list[float] | None


@dataclass(frozen=True)
class Outcome:
    """Predictions for a split in its order, and the mean loss of its target tokens in nats."""

    predictions: list[Prediction]
    loss: float


@dataclass(frozen=True)
class TestOutcome:
    """The result on the test split. `baselines` are scores to compare it with, see `baseline_scores`.

    examples: the scored rows, those of `evaluation.split`; predictions: the predictions for them.
    abstain_below: the probability below which a row is left to a person; None if every row is decided.
    """

    examples: Sequence[Example]
    predictions: list[Prediction]
    loss: float
    metrics: dict[str, Interval]
    baselines: dict[str, dict[str, Interval]]
    seconds: float
    abstain_below: float | None = None


def evaluate_test(engine: Engine, data: EncodedTask, config: EvaluationConfig, accelerator: Accelerator) -> TestOutcome:
    """Score the test split, or `config.split`, once at the end, so that no choice depends on test.

    A signal ends the scoring between two batches. A resumed run scores all rows again: answers are saved once, whole.

    Raises:
        UserError: the loss is not finite; the memory is full; as `check_abstention`.
        Interrupted: after SIGINT or SIGTERM.
    """
    check_abstention(data.task.choices, config)
    rows: Sequence[Example] = getattr(data, config.split)
    started = time.perf_counter()
    if not any(p.requires_grad for p in engine.parameters()):  # otherwise it was reported before training
        warn_of_cut_targets(data, engine.tokenizer, config.max_new_tokens, config.stop)
    metrics = load_metrics(data.task.metrics, data.task.schema, data.task.metric_data)
    if config.abstain_below == "auto":
        validation = predict(engine, data.validation, config, accelerator, "choosing a threshold").predictions
        config = replace(config, abstain_below=best_threshold(validation, data.task))
    label = "testing"
    outcome = predict(engine, rows, config, accelerator, label)
    seconds = time.perf_counter() - started
    if not math.isfinite(outcome.loss):
        raise UserError(
            f"{label}: the model's loss is {outcome.loss}, so predictions are meaningless: its weights are not finite, "
            "or model.dtype is too narrow for it; try float32"
        )
    resamples = config.bootstrap_resamples
    baselines = {}
    if data.task.choices:
        likeliest = [
            replace(p, prediction=e.choice_texts[int(numpy.argmax(p.scores or []))])
            for e, p in zip(rows, outcome.predictions, strict=True)
        ]
        majority = data.task.majority or majority_of(data.train)
        baselines = baseline_scores(majority, likeliest, metrics, config)
    return TestOutcome(
        rows,
        outcome.predictions,
        outcome.loss,
        intervals(metrics, *answers_and_targets(outcome.predictions), resamples),
        baselines,
        seconds,
        None if config.abstain_below is None else float(config.abstain_below),
    )


def predict(
    engine: Engine,
    examples: Sequence[Example],
    config: EvaluationConfig,
    accelerator: Accelerator,
    label: str,
    *,
    answer_open: bool = True,
) -> Outcome:
    """Predict every example: the likeliest choice, or a greedily generated text.

    The processes share the rows, and each returns the whole. `answer_open=False` skips generation and leaves
    predictions of open tasks empty, if only the loss is needed. With `abstain_below: auto`, no row is left to a person.

    Raises:
        UserError: the memory is full.
        Interrupted: after SIGINT or SIGTERM, which any of the processes has received.
    """
    # Longest first: rows of similar length share a batch, and a batch that is too large fails at once.
    lengths = lengths_of(examples)
    order = sorted(range(len(examples)), key=lambda i: -lengths[i])
    batches = [order[i : i + config.batch_size] for i in range(0, len(order), config.batch_size)]
    own_batches = batches[accelerator.process_index :: accelerator.num_processes]
    answers: list[tuple[int, str, list[float] | None, float, int]] = []
    bar = tqdm(own_batches, desc=label, unit="batch", disable=not accelerator.is_local_main_process, leave=False)
    full = one_line_if_memory_is_full(f"while {label}", f"lower evaluation.batch_size (now {config.batch_size})")
    # Parameters do not change here, so a parametrised soft prompt is computed once, also in PEFT's forward pass.
    with (
        collected_signals() as received,
        without_gradient(engine),
        engine.prompts_cached(),
        parametrize.cached(),
        full,
        turns(engine.base, engine.device),
    ):
        for indices in bar:
            if received:
                break
            batch = [examples[i] for i in indices]
            answers.extend(zip(indices, *_answer(engine, batch, config, answer_open), strict=True))
    numbers = received[:1]
    if accelerator.num_processes > 1:
        numbers, answers = gather_object(numbers), gather_object(answers)  # also after a signal: the others are waiting
    if numbers:
        name = signal.Signals(numbers[0]).name
        raise Interrupted(f"stopped by {name} while {label}; continue with --resume", numbers[0])
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
    """Return each example's prediction, its choices' scores, and the sum and number of its targets' losses."""
    counts = [len(e.document.target_ids) for e in batch]
    if batch[0].choices:
        scores = choice_scores(engine, batch)
        pairs = list(zip(batch, scores, strict=True))
        texts = [chosen(e.choice_texts, int(numpy.argmax(row)), row, config) for e, row in pairs]
        losses = [-row[e.choice_texts.index(e.row.target)] for e, row in pairs]
        return texts, list(scores), losses, counts
    documents = [e.document for e in batch]
    losses = document_losses(engine, documents).tolist()
    texts = [""] * len(batch)
    if answer_open:
        texts = generate(
            engine,
            [d.prompt_ids for d in documents],
            config.max_new_tokens,
            soft_prompts=[d.soft_prompt for d in documents],
            stop=config.stop,
        )
    return texts, [None] * len(batch), losses, counts


def check_abstention(choices: Sequence[str] | None, config: EvaluationConfig) -> None:
    """Raise `UserError` if a choice is `ABSTAINED`, because a row that is left to a person would count as right."""
    if config.abstain_below is not None and ABSTAINED in {choice.strip() for choice in choices or ()}:
        raise UserError(
            f'task.choices: "{ABSTAINED}" is also the prediction for rows below evaluation.abstain_below; rename this '
            "choice, or set evaluation.abstain_below to null"
        )


def chosen(choices: Sequence[str], index: int, scores: Sequence[float], config: EvaluationConfig) -> str:
    """Return the choice of an index, or `ABSTAINED` if its probability among the choices is too low.

    Args:
        choices: their texts; scores: their log-likelihoods, in nats.
    """
    if config.abstain_below not in (None, "auto") and probability(index, scores) < float(config.abstain_below):
        return ABSTAINED
    return choices[index]


def probability(index: int, scores: Sequence[float]) -> float:
    """Return the probability of the choice of an index among all choices, from their log-likelihoods in nats."""
    odds = numpy.exp(numpy.array(scores) - numpy.max(scores))
    return float(odds[index] / odds.sum())


def best_threshold(predictions: Sequence[Prediction], task: Task) -> float:
    """Return the probability below which it is best to abstain, by the task's first metric on predictions of choices.

    Chow (1970) derives it from the costs, if probabilities are correct. Those of small models often are not, so this
    tries 0.01 to 1 in steps of 0.01. Of equal ones it returns the smallest, which leaves the fewest rows to a person.
    A threshold is not chosen if the metric fails there, for example because no row is decided.

    Raises:
        UserError: the metric fails at every threshold.
    """
    first = load_metrics(task.metrics[:1], task.schema, task.metric_data)
    answers, targets = answers_and_targets(predictions)
    scores = [p.scores or [] for p in predictions]
    sure = [probability(int(numpy.argmax(row)), row) for row in scores]

    found: dict[int, float] = {}
    failed = "the metric gives no number"
    for percent in range(1, 101):
        kept = [ABSTAINED if s < percent / 100 else a for a, s in zip(answers, sure, strict=True)]
        try:
            value = next(iter(compute_metrics(first, kept, targets).values()))
        except UserError as error:
            failed = str(error)
            continue
        if not math.isnan(value):
            found[percent] = value
    if not found:
        raise UserError(f"evaluation.abstain_below: auto finds no threshold: {failed}; set a number, or null")
    return max(found, key=lambda percent: found[percent]) / 100


def document_losses(engine: Engine, documents: Sequence[Document]) -> torch.Tensor:
    """Return the summed negative log-likelihood of each document's target, (documents,), in nats."""
    scores = engine(documents)
    return torch.zeros(len(documents), device=scores.logits.device).index_add_(0, scores.document, scores.nll())


def choice_scores(engine: Engine, batch: Sequence[Example]) -> list[list[float]]:
    """Return the log-likelihood of every choice for every example, in nats, from one forward pass."""
    choices = [e.choices for e in batch]
    if all(len(d.target_ids) == 1 and d.prompt_ids == row[0].prompt_ids for row in choices for d in row):
        # Every choice is one token after the same prompt, so the logits of one position have all scores.
        logits = engine([row[0] for row in choices])[0]
        ids = torch.tensor([[d.target_ids[0] for d in row] for row in choices], device=logits.device)
        return logits.log_softmax(-1).gather(1, ids).tolist()
    documents = [d for row in choices for d in row]
    # The logits of all target tokens are in memory at once: 77 choices of a row are already about a hundred.
    tokens = max(sum(len(d.target_ids) for d in row) for row in choices)
    rows = max(1, CHOICE_TOKENS // tokens) * len(choices[0])
    parts = [document_losses(engine, documents[i : i + rows]) for i in range(0, len(documents), rows)]
    remaining: Iterator[float] = iter((-torch.cat(parts)).tolist())
    return [[next(remaining) for _ in row] for row in choices]


def metrics_by(outcome: TestOutcome, data: EncodedTask, column: str) -> dict[str, dict[str, float]]:
    """Return the metrics on the scored rows for each value of a column, and the number of these `rows`."""
    groups: dict[str, list[Prediction]] = {}
    for example, prediction in zip(outcome.examples, outcome.predictions, strict=True):
        groups.setdefault(str(example.row.record[column]), []).append(prediction)
    metrics = load_metrics(data.task.metrics, data.task.schema, data.task.metric_data)
    return {
        name: compute_metrics(metrics, *answers_and_targets(group)) | {"rows": float(len(group))}
        for name, group in sorted(groups.items())
    }


def majority_of(train: Sequence[Example]) -> str:
    """Return the most frequent target of train."""
    return Counter(answer.target for answer in answers_of(train)).most_common(1)[0][0]


def baseline_scores(
    majority: str, likeliest: Sequence[Prediction], metrics: dict[str, Metric], config: EvaluationConfig
) -> dict[str, dict[str, Interval]]:
    """Return the scores that those of a task with choices are compared with.

    - `majority_class`: every answer is the most frequent target of train.
    - `all_decided`, if rows may be left to a person: the model decides every row.
    - `all_abstained`, if rows may be left to a person: every row is left to one.

    A metric may fail for such answers, for example if it divides by the number of decided rows. A baseline only
    describes, so it is then left out with a warning.

    Args:
        majority: that target.
        likeliest: the predictions without abstention.
        metrics: the metrics of the task.
        config: the threshold, and the number of resamples of the intervals.
    """
    answers, targets = answers_and_targets(likeliest)
    same = {"majority_class": [majority.strip()] * len(targets)}
    if config.abstain_below is not None:
        same |= {"all_decided": answers, "all_abstained": [ABSTAINED] * len(targets)}
    found = {}
    failed: dict[str, UserError] = {}
    for name, given in same.items():
        try:
            found[name] = intervals(metrics, given, targets, config.bootstrap_resamples)
        except UserError as error:
            failed[name] = error
    if failed:
        warn(f"{next(iter(failed.values()))}; so there are no scores of {' and '.join(failed)}")
    return found


def answers_and_targets(predictions: Sequence[Prediction]) -> tuple[list[str], list[str]]:
    """Return predictions and targets for the metrics, without surrounding spaces."""
    return [p.prediction.strip() for p in predictions], [p.target.strip() for p in predictions]
