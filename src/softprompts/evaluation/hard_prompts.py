"""Hard prompts: try prompt templates, with few-shot examples, and choose one on validation."""

from __future__ import annotations

from dataclasses import dataclass

from softprompts.config.methods import HardPromptConfig
from softprompts.config.sections import EvaluationConfig
from softprompts.encoding.documents import EncodedTask
from softprompts.engine.forward import Engine
from softprompts.errors import UserError, check_above_zero, settings_named
from softprompts.evaluation.predict import answers_and_targets, predict
from softprompts.metrics.scoring import compute_metrics, load_metrics
from softprompts.tasks.checks import warn_of_scored_rows
from softprompts.tasks.task import Row, Task, draw_rows, with_prompt

from accelerate import Accelerator


@dataclass(frozen=True)
class Wording:
    """A prompt template, its metric and loss on validation, and the mean number of tokens of its prompts there.

    The loss is that of the targets, in nats per token.
    """

    prompt: str
    metric: str
    validation: float
    prompt_tokens: float
    loss: float


def written_tasks(task: Task, config: HardPromptConfig, seed: int, split: str = "test") -> list[Task]:
    """Return the task once for each prompt template, with the same few-shot examples.

    Args:
        task: the rows.
        config: the templates, and the number of examples.
        seed: seed of the examples.
        split: the split that is scored.

    Raises:
        UserError: no template, or one that is not valid; as `draw_shots`.
    """
    if not config.wordings:
        raise UserError("hard.wordings: expected at least one prompt template")
    check_above_zero("hard.validation_rows", config.validation_rows)
    shots = draw_shots(task, config.shots, seed, split)
    with settings_named({"task.prompt": "hard.wordings"}):
        return [with_prompt(task, wording, shots, config.separator) for wording in config.wordings]


def draw_shots(task: Task, shots: int, seed: int, split: str = "test") -> list[Row]:
    """Draw few-shot examples from train without replacement.

    Raises:
        UserError: more examples than train has rows; the scored `split` is train.
    """
    if shots and split == "train":
        raise UserError(
            "hard.shots: few-shot examples come from train, which is also evaluation.split: they would leak targets; "
            "set it to 0, or evaluation.split to validation"
        )
    return draw_rows(task, shots, seed, "hard.shots")


def choose_wording(
    engine: Engine,
    candidates: list[EncodedTask],
    config: HardPromptConfig,
    evaluation: EvaluationConfig,
    accelerator: Accelerator,
) -> tuple[int, list[Wording]]:
    """Score every template on validation; return the best one's index, and all scores.

    The task's first metric decides, and of equals the loss: a small model may answer no row exactly with any template.
    """
    task = candidates[0].task
    metrics = load_metrics(task.metrics[:1], task.schema, task.metric_data)
    warn_of_scored_rows("hard.validation_rows", candidates[0].validation, config.validation_rows)
    wordings = []
    for number, data in enumerate(candidates, start=1):
        rows = data.validation[: config.validation_rows]
        label = f"template {number} of {len(candidates)}"
        outcome = predict(engine, rows, evaluation, accelerator, label)
        # A metric module may report several numbers; the first is the one after which it is named.
        (name, value), *_ = compute_metrics(metrics, *answers_and_targets(outcome.predictions)).items()
        tokens = sum(len(e.document.prompt_ids) for e in rows) / len(rows)
        wordings.append(Wording(data.task.config.prompt, name, value, tokens, outcome.loss))
    return max(range(len(wordings)), key=lambda i: (wordings[i].validation, -wordings[i].loss)), wordings
