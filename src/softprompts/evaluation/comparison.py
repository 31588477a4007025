"""Compare two models on the same rows: settings, loading, and the paired comparison of their predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from softprompts.adapters.configs import read_config
from softprompts.adapters.loading import check_base, find_adapter, find_model, load_adapter
from softprompts.config.sections import EvaluationConfig, ModelConfig
from softprompts.config.tools import AdapterConfig, ContestantConfig
from softprompts.encoding.tokenization import encode
from softprompts.errors import UserError, settings_named
from softprompts.evaluation.hard_prompts import draw_shots
from softprompts.evaluation.predict import TestOutcome, answers_and_targets
from softprompts.methods.preflight import check_method, without_weights
from softprompts.metrics.scoring import Interval, Metric, finite_row_scores, load_metrics
from softprompts.metrics.sequential import largest_e_of_rows
from softprompts.metrics.significance import Comparison, compare
from softprompts.models.identity.base_model import read_record
from softprompts.models.loading import InputSpec, input_spec, kind_of, load_model_config
from softprompts.models.paths import model_path
from softprompts.models.reading import read_tokenizer, silent_transformers
from softprompts.tasks.task import Task, with_prompt

from peft import PeftModel
from transformers import PreTrainedModel

EXACT = "exact_match"  # of a row, which every task has


@dataclass(frozen=True)
class Contestant:
    """A model of a comparison, ready to load. `key` is its section; `task` has the rows with its prompts."""

    key: str
    name: str
    model: ModelConfig
    adapter: AdapterConfig
    task: Task


@dataclass(frozen=True)
class Difference:
    """A row that one of the models predicts better, by the row's score in the task's first metric."""

    place: str
    prompt: str
    target: str
    better: str
    answers: tuple[str, str]
    scores: tuple[float, float]


@dataclass(frozen=True)
class Contest:
    """The comparison of two models' predictions for the same rows. In each pair, the first model comes first.

    metrics: with intervals; comparisons: one per number of the metrics; row_metric: the number that compares single
    rows, which is the first one, or the exact match if that has no value for a row; differences: the rows that one of
    the two models predicts better.
    """

    names: tuple[str, str]
    metrics: tuple[dict[str, Interval], dict[str, Interval]]
    comparisons: list[Comparison]
    row_metric: str
    differences: list[Difference]
    rows: int

    @property
    def e_value(self) -> float:
        """The e-value that stays valid while rows are added, in their order: see `largest_e_of_rows`."""
        return largest_e_of_rows(d.better == self.names[0] for d in self.differences)

    def wins(self, name: str) -> list[Difference]:
        """Return the rows that a model predicts better, the largest difference first."""
        won = [d for d in self.differences if d.better == name]
        return sorted(won, key=lambda d: -abs(d.scores[0] - d.scores[1]))


def contestants(
    first: ContestantConfig,
    second: ContestantConfig,
    model: ModelConfig,
    task: Task,
    evaluation: EvaluationConfig,
    seed: int,
) -> tuple[Contestant, Contestant]:
    """Return the two models, ready to load. Wrong settings are refused before anything is computed.

    Raises:
        UserError: both are the same; an adapter or model is missing; an adapter is for another base model; settings of
            an adapter without one; more few-shot examples than train has rows, or examples from the scored rows; an
            encoder without an adapter; rows that the second model cannot read.
    """
    a = _contestant("first", first, model, task, evaluation.split, seed)
    b = _contestant("second", second, model, task, evaluation.split, seed)
    if _what(a) == _what(b) and a.task.splits == b.task.splits:
        raise UserError("first and second are the same; change path, wording or shots of one of them")
    if a.name == b.name:
        a, b = (replace(side, name=f"{side.name} ({side.key})") for side in (a, b))
    _check_rows(b, evaluation)
    return a, b


def _check_rows(side: Contestant, evaluation: EvaluationConfig) -> None:
    """Tokenize the rows for a model without its weights, because otherwise a row that is too long is found too late.

    The first model's rows are tokenized before anything is scored, those of the second one only afterwards.
    """
    config = load_model_config(side.model)
    kind = kind_of(config)
    base = without_weights(config, kind)
    adapter = side.adapter.path and read_config(Path(side.adapter.path))
    spec = InputSpec(kind) if base is None else input_spec(base, getattr(adapter, "num_virtual_tokens", None) or 0)
    with silent_transformers():
        tokenizer = read_tokenizer(model_path(side.model), side.model.revision)
    encode(side.task, tokenizer, spec, needs_end=not evaluation.stop)


def _contestant(
    key: str, config: ContestantConfig, model: ModelConfig, task: Task, split: str, seed: int
) -> Contestant:
    adapter = AdapterConfig(None, config.any_base, config.task_id)
    written = config.wording is not None or config.shots != 0
    name = config.name or config.path or ("hard prompt" if written else "base model")
    whole = find_model(config.path) if config.path else None
    with settings_named(_own_keys(key)):
        if config.path is None:
            check_method("hard_prompt", model)
        elif whole:
            model = replace(model, name_or_path=str(whole), revision=None)
        else:
            adapter = replace(adapter, path=str(find_adapter(config.path)))
            _check_adapter(model, adapter)
        if adapter.path is None and (config.any_base or config.task_id):
            raise UserError(f"adapter.{'any_base' if config.any_base else 'task_id'}: requires an adapter")
        if written:
            shots = draw_shots(task, config.shots, seed, split)
            task = with_prompt(task, config.wording or task.config.prompt, shots, config.separator)
    return Contestant(key, name, model, adapter, task)


def _check_adapter(model: ModelConfig, adapter: AdapterConfig) -> None:
    """Refuse an adapter of another base model by the config, because loading may come after minutes of scoring."""
    folder = Path(adapter.path or "")
    base: Any = SimpleNamespace(config=load_model_config(model), name_or_path=model_path(model))
    check_base(base, read_config(folder), folder=folder, config=adapter, record=read_record(folder))


def _what(side: Contestant) -> tuple[Any, ...]:
    """Return the settings that decide a model's weights."""
    adapter = side.adapter.path and Path(side.adapter.path).resolve()
    return replace(side.model, name_or_path=str(Path(side.model.name_or_path).resolve())), adapter, side.adapter.task_id


def _own_keys(key: str) -> dict[str, str]:
    """Return the keys of a model's section for settings of other sections: `first.path` for `adapter.path`."""
    return {"adapter": key, "hard": key, "task.prompt": f"{key}.wording"}


def load_contestant(base: PreTrainedModel, side: Contestant) -> PreTrainedModel | PeftModel:
    """Return a model: the base model with its adapter, if there is one.

    Raises:
        UserError: as `load_adapter`.
    """
    with settings_named(_own_keys(side.key)):
        return load_adapter(base, side.adapter)


def judge(
    sides: tuple[Contestant, Contestant], outcomes: Sequence[TestOutcome], task: Task, evaluation: EvaluationConfig
) -> Contest:
    """Compare two models' predictions: each metric over the same resampled rows, and each row.

    Args:
        sides: the two models.
        outcomes: the predictions of each, on the same split.
        task: the rows by the task's settings, without either model's prompt template.
        evaluation: settings with the split and the number of resamples.
    """
    metrics = load_metrics(task.metrics, task.schema, task.metric_data)
    names = (sides[0].name, sides[1].name)
    answers = [answers_and_targets(outcome.predictions)[0] for outcome in outcomes]
    targets = answers_and_targets(outcomes[0].predictions)[1]
    named = {name: [side] for name, side in zip(names, answers, strict=True)}
    comparisons = compare(named, targets, metrics, evaluation.bootstrap_resamples)
    row_metric, scores = _scores_of_rows(metrics, comparisons[0].metric, answers, targets)
    differences = []
    for row, a, b, x, y in zip(task.splits[evaluation.split], *answers, *scores, strict=True):
        if x != y:
            better = names[0] if x > y else names[1]
            differences.append(Difference(row.place, row.prompt, row.target.strip(), better, (a, b), (x, y)))
    return Contest(
        names,
        (outcomes[0].metrics, outcomes[1].metrics),
        comparisons,
        row_metric,
        differences,
        len(targets),
    )


def _scores_of_rows(
    metrics: dict[str, Metric], first: str, answers: Sequence[list[str]], targets: list[str]
) -> tuple[str, list[list[float]]]:
    """Return the number that compares single rows, and its value for each row of each model; `first` is its name."""
    scores = [finite_row_scores(next(iter(metrics.values())), side, targets) for side in answers]
    if all(found is not None for found in scores):
        return first, [found for found in scores if found is not None]
    return EXACT, [[float(a == t) for a, t in zip(side, targets, strict=True)] for side in answers]
