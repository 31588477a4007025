"""An ensemble: several prompts of one task vote, in one prompt bank over one base model (Lester et al. 2021)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from softprompts.adapters.configs import read_config
from softprompts.adapters.loading import find_adapter, load_adapter
from softprompts.config.sections import EvaluationConfig
from softprompts.config.tools import AdapterConfig, EnsembleConfig
from softprompts.data.sources import SPLITS
from softprompts.encoding.documents import EncodedTask, with_soft_prompt
from softprompts.errors import UserError, settings_named
from softprompts.evaluation.predict import (
    Outcome,
    Prediction,
    TestOutcome,
    answers_and_targets,
    baseline_scores,
    chosen,
    majority_of,
)
from softprompts.evaluation.soup import Soup
from softprompts.metrics.scoring import Interval, Metric, compute_metrics, intervals, load_metrics, mean_intervals
from softprompts.metrics.significance import Comparison, compare, verdict

from peft import PeftModel, PeftType, TaskType
from transformers import PreTrainedModel

VOTE, SINGLE, CHOSEN, SOUP = "the vote", "a single prompt", "the best by validation", "the soup"
# This section's keys for the settings of a single adapter.
OWN_KEYS = {"adapter.path": "ensemble.adapters", "adapter.any_base": "ensemble.any_base"}
KINDS = (PeftType.PROMPT_TUNING, PeftType.PREFIX_TUNING)


def members(config: EnsembleConfig) -> list[Path]:
    """Return the folders of the adapters, which are checked before anything is loaded.

    Raises:
        UserError: an adapter is missing or given twice; it is not a soft prompt or prefix, or changes the base model;
            both kinds are mixed.
    """
    folders: list[Path] = []
    kinds = []
    for path in config.adapters:
        with settings_named(OWN_KEYS):
            folder = find_adapter(path).resolve()
            settings: Any = read_config(folder)
        if folder in folders:
            raise UserError(
                f"ensemble.adapters: {config.adapters[folders.index(folder)]} and {path} are the same adapter"
            )
        kind = getattr(settings.peft_type, "value", str(settings.peft_type))
        if kind not in KINDS:
            raise UserError(
                f"ensemble.adapters: {path} is of type {kind}; expected prompt tuning or prefix tuning, which do not "
                "change the base model and thus can share it"
            )
        if settings.task_type == TaskType.SEQ_CLS:
            raise UserError(
                f"ensemble.adapters: {path} has its own classifier in the base model, and thus cannot share it"
            )
        folders.append(folder)
        kinds.append(kind)
    if len(set(kinds)) > 1:
        other = next(i for i, kind in enumerate(kinds) if kind != kinds[0])
        raise UserError(
            f"ensemble.adapters: {config.adapters[0]} is of type {kinds[0]} and {config.adapters[other]} of type "
            f"{kinds[other]}; one forward pass supports only one type"
        )
    return folders


def load_members(base: PreTrainedModel, folders: Sequence[Path], config: EnsembleConfig) -> list[PeftModel]:
    """Return a frozen PEFT model for each adapter, all over the same base.

    Raises:
        UserError: as `load_adapter`.
    """
    made = []
    for folder in folders:
        with settings_named(OWN_KEYS):
            model = load_adapter(base, AdapterConfig(str(folder), config.any_base))
        assert isinstance(model, PeftModel)
        made.append(model)
    return made


def behind_each(data: EncodedTask, count: int) -> EncodedTask:
    """Return the task with every row once after each of `count` soft prompts; a row's copies are adjacent."""
    placed = [with_soft_prompt(data, number) for number in range(count)]
    train, validation, test = (
        [e for copies in zip(*(getattr(one, name) for one in placed), strict=True) for e in copies] for name in SPLITS
    )
    return EncodedTask(data.task, train, validation, test, data.ends)


def vote(scores: Sequence[Sequence[float]]) -> int:
    """Return the choice that most members find likeliest (Lester et al. 2021, section 6, a simple majority).

    If several choices have the most votes, the summed log-likelihood decides, and then the order.

    Args:
        scores: log-likelihoods of all choices, one list per member.
    """
    votes = Counter(max(range(len(row)), key=row.__getitem__) for row in scores)
    sums = [sum(column) for column in zip(*scores, strict=True)]
    return max(range(len(sums)), key=lambda choice: (votes[choice], sums[choice]))


def most_frequent(texts: Sequence[str]) -> str:
    """Return the text that most members wrote; of several, that of the first member."""
    counts = Counter(text.strip() for text in texts)
    return max(texts, key=lambda text: counts[text.strip()])


def voted(
    predictions: Sequence[Prediction], choices: Sequence[str] | None, count: int, evaluation: EvaluationConfig
) -> list[Prediction]:
    """Return one prediction per row from `count` adjacent copies; its scores are mean log-likelihoods.

    Without choices, members vote for the text that most of them wrote.
    """
    made = []
    for start in range(0, len(predictions), count):
        copies = predictions[start : start + count]
        if choices is None:
            made.append(replace(copies[0], prediction=most_frequent([p.prediction for p in copies])))
            continue
        scores = [p.scores for p in copies if p.scores is not None]
        means = [sum(column) / count for column in zip(*scores, strict=True)]
        made.append(replace(copies[0], prediction=chosen(choices, vote(scores), means, evaluation), scores=means))
    return made


def outcome_of_vote(
    outcome: TestOutcome,
    validation: Outcome,
    data: EncodedTask,
    config: EnsembleConfig,
    evaluation: EvaluationConfig,
    soup: Soup | None = None,
) -> tuple[TestOutcome, dict[str, Any]]:
    """Return the outcome of the vote, and notes on the members.

    The notes have each member's metrics, their `mean`, and the member `chosen` on validation by the first metric,
    then by the likelihood of choices. `best_afterwards` is the best member on the scored rows themselves: an upper
    bound, not a result. Lester et al. (2021), section 6, report mean, best and vote. `comparisons` are paired, made by
    `statistics.compare`: the vote, its members as seeds of one method, and the chosen one. `soup`, if there is one, has
    its own metrics and comparisons with the vote and the chosen one.

    Args:
        outcome: result of `evaluate_test` on data with each row after each soft prompt.
        validation: predictions for the validation rows.
        data: the same data.
        config: the adapters, in the order of the prompt bank.
        evaluation: settings with the number of resamples.
        soup: the mean of the prompts, on the same rows.
    """
    count, resamples = len(config.adapters), evaluation.bootstrap_resamples
    metrics = load_metrics(data.task.metrics, data.task.schema, data.task.metric_data)
    predictions = voted(outcome.predictions, data.task.choices, count, evaluation)
    answers, targets = answers_and_targets(predictions)
    single = [answers_and_targets(outcome.predictions[number::count])[0] for number in range(count)]
    likeliest = voted(outcome.predictions, data.task.choices, count, replace(evaluation, abstain_below=None))
    changed = replace(
        outcome,
        examples=outcome.examples[::count],
        predictions=predictions,
        metrics=intervals(metrics, answers, targets, resamples),
        baselines=baseline_scores(majority_of(data.train), likeliest, metrics, evaluation) if data.task.choices else {},
    )
    notes = [
        {"adapter": adapter} | _note(metrics, validation.predictions[number::count], answers_of_one, targets, resamples)
        for number, (adapter, answers_of_one) in enumerate(zip(config.adapters, single, strict=True))
    ]
    first, best, afterwards = _best(notes, validation, data.task.choices)
    sides = {VOTE: [answers], SINGLE: single, CHOSEN: [single[best]]}
    found = {
        "members": notes,
        "mean": _plain(mean_intervals(metrics, single, targets, resamples)),
        "chosen": {"by": f"validation {first}", **notes[best]},
        "best_afterwards": {"by": f"{evaluation.split} {first}, so not to be reported as chosen", **notes[afterwards]},
        "comparisons": [asdict(c) for c in compare(sides, targets, metrics, resamples)],
    }
    if soup:
        found["soup"] = _note_of_soup(metrics, soup, sides, targets, resamples)
    return changed, found


def _best(notes: Sequence[dict[str, Any]], validation: Outcome, choices: Sequence[str] | None) -> tuple[str, int, int]:
    """Return the first metric, and the numbers of the members that are best by it: on validation, and afterwards."""
    first, count = next(iter(notes[0]["validation"])), len(notes)
    likelihoods = [_likelihood(validation.predictions[number::count], choices) for number in range(count)]
    chosen = max(range(count), key=lambda number: (notes[number]["validation"][first], likelihoods[number]))
    return first, chosen, max(range(count), key=lambda number: notes[number]["metrics"][first]["value"])


def _note_of_soup(
    metrics: dict[str, Metric], soup: Soup, sides: dict[str, list[list[str]]], targets: list[str], resamples: int
) -> dict[str, Any]:
    """Return the metrics of a soup, and comparisons of its own with the vote and the chosen member."""
    own, _ = answers_and_targets(soup.outcome.predictions)
    against = compare({SOUP: [own]} | {name: sides[name] for name in (VOTE, CHOSEN)}, targets, metrics, resamples)
    return _note(metrics, soup.validation.predictions, own, targets, resamples) | {
        "loss": soup.outcome.loss,
        "comparisons": [asdict(c) for c in against if c.first == SOUP],
    }


def _note(
    metrics: dict[str, Metric], validation: Sequence[Prediction], answers: list[str], targets: list[str], resamples: int
) -> dict[str, Any]:
    """Return a member's metrics on validation, and those on the scored rows with intervals."""
    return {
        "validation": compute_metrics(metrics, *answers_and_targets(validation)),
        "metrics": _plain(intervals(metrics, answers, targets, resamples)),
    }


def _likelihood(predictions: Sequence[Prediction], choices: Sequence[str] | None) -> float:
    """Return the log-likelihood of the targets, summed over rows, in nats; 0 without choices."""
    return sum(p.scores[choices.index(p.target)] for p in predictions if p.scores and choices)


def _plain(numbers: dict[str, Interval]) -> dict[str, dict[str, Any]]:
    return {name: asdict(interval) for name, interval in numbers.items()}


def summary_of_members(notes: dict[str, Any]) -> str:
    """Return a summary: mean, the member chosen on validation, the best afterwards, and the soup if there is one.

    The vote's metrics follow. The comparisons are those of the vote and the soup by the first metric.
    """

    def line(who: str, metrics: dict[str, dict[str, Any]]) -> str:
        numbers = (
            f"{n} {x['value']:.4f} (95 % interval {x['low']:.4f} to {x['high']:.4f})" for n, x in metrics.items()
        )
        return f"{who}: {', '.join(numbers)}"

    chosen, afterwards = notes["chosen"], notes["best_afterwards"]
    main = next(iter(notes["mean"]))
    soup = notes.get("soup")
    comparisons = [*notes["comparisons"], *(soup["comparisons"] if soup else ())]
    compared = [Comparison(**c) for c in comparisons if c["first"] in (VOTE, SOUP) and c["metric"] == main]
    return "\n".join(
        [
            line(f"mean of {len(notes['members'])} prompts", notes["mean"]),
            line(f"best by {chosen['by']}, {chosen['adapter']}", chosen["metrics"]),
            line(f"best by {afterwards['by']}, {afterwards['adapter']}", afterwards["metrics"]),
            *([line("soup, the mean of their values as one prompt", soup["metrics"])] if soup else []),
            *map(verdict, compared),
            "their vote:",
        ]
    )
