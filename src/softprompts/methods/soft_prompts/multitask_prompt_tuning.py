"""Multitask prompt tuning: a shared soft prompt, and a low-rank factor for each task (Wang et al. 2023)."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from softprompts.config.methods import MultitaskConfig
from softprompts.config.sections import TrainingConfig
from softprompts.data.values import trouble
from softprompts.encoding.documents import EncodedTask, Example, with_soft_prompts
from softprompts.errors import UserError, listed, short
from softprompts.methods.attach import attach, initial_values, set_start, tell_of_unread_text
from softprompts.models.peft_compat import encoder_of
from softprompts.tasks.task import Task, in_words

import torch
from peft import MultitaskPromptTuningConfig, MultitaskPromptTuningInit, PeftModel
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

LONGEST_NAME = 143  # most bytes of a folder's name in encrypted home folders; most file systems allow 255
RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(10))}  # on Windows


def by_task(data: EncodedTask, column: str) -> tuple[EncodedTask, list[str]]:
    """Put every row after its task's soft prompt; return the data and the tasks' sorted names.

    Raises:
        UserError: a row has no such column or no value in it; train has fewer than two tasks, or lacks one; a task's
            name cannot be the name of a folder.
    """
    record = data.train[0].row.record
    if column not in record:
        raise UserError(f'prompt.column: no column "{column}"; columns are: {listed(record)}')
    names = sorted({_name(e, column) for e in data.train})
    if len(names) < 2:
        named = short(names[0])
        raise UserError(f'prompt.column: all rows of train have {column} "{named}"; expected two or more tasks')
    _check_folders(names, column)

    def place(example: Example) -> int:
        name = _name(example, column)
        if name not in names:
            valid = listed(names)
            raise UserError(f'{example.row.place}: train has no row with {column} "{short(name)}", only {valid}')
        return names.index(name)

    return with_soft_prompts(data, place), names


def _name(example: Example, column: str) -> str:
    value = example.row.record.get(column)
    if why := trouble(value):
        raise UserError(f'{example.row.place}: prompt.column: "{column}" {why}')
    return str(value)


def _check_folders(names: Sequence[str], column: str) -> None:
    """Refuse, before training, names of tasks that are not valid or distinct names of folders on every system."""
    taken: dict[str, str] = {}
    for name in names:
        given = f'prompt.column: {column} "{short(name)}"'
        # Letters, marks and numbers of any script: \w would exclude the vowels of some.
        plain = all(c in " .-_" or unicodedata.category(c)[0] in "LMN" for c in name)
        if not name or not plain or name[0] in " .-" or name[-1] in " .":
            raise UserError(f"{given} cannot be the name of its adapter's folder")
        if len(name.encode()) > LONGEST_NAME:
            size = len(name.encode())
            raise UserError(f"{given} is too long for the name of a folder: {size} bytes, at most {LONGEST_NAME}")
        if name.split(".")[0].strip().upper() in RESERVED:
            raise UserError(f"{given} cannot be the name of a folder on Windows; rename it")
        # Some file systems do not distinguish case, or an accented letter from a letter and an accent.
        other = taken.setdefault(unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()), name)
        if other != name:
            raise UserError(f'{given} and "{short(other)}" would share a folder if case is ignored; rename one')


def add_multitask_prompt(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: MultitaskConfig,
    *,
    tasks: Sequence[str],
    seed: int | None = None,
    task: Task | None = None,
) -> PeftModel:
    """Add a shared prompt (P, H) and the factors (T, P, R) and (T, R, H) of T tasks to a frozen base model.

    The prompt of a task is the shared one times the product of its factors, element by element (Wang et al. 2023,
    section 3.1). PEFT samples both factors from N(0, 0.02), which starts every prompt close to zero. Here their product
    is one, except for such noise.

    Raises:
        UserError: as `attach`; TEXT has no text.
    """
    peft_config = MultitaskPromptTuningConfig(
        num_virtual_tokens=config.num_virtual_tokens,
        num_ranks=config.num_ranks,
        num_tasks=len(tasks),
        prompt_tuning_init=MultitaskPromptTuningInit.RANDOM,
    )
    model = attach(base, peft_config, section="prompt", seed=seed)
    text = config.prompt_tuning_init_text
    if text is not None and config.prompt_tuning_init != "TEXT":
        tell_of_unread_text(config.prompt_tuning_init)
    if text is None and task is not None:
        text = in_words(task)
    set_start(
        model, initial_values(base, tokenizer, config.num_virtual_tokens, start=config.prompt_tuning_init, text=text)
    )
    encoder = encoder_of(model)
    with torch.no_grad():
        encoder.prefix_task_cols.add_(1 / config.num_ranks)
        encoder.prefix_task_rows.add_(1)
    return model


def training_of_factors(config: MultitaskConfig, training: TrainingConfig) -> TrainingConfig | None:
    """Return the settings of the stage that trains only the factors; None without that stage.

    Raises:
        UserError: the stage is no longer than its warm-up, so it would never reach its learning rate.
    """
    if not config.factor_steps:
        return None
    if config.factor_steps <= training.warmup_steps:
        raise UserError(
            f"prompt.factor_steps: expected more than training.warmup_steps ({training.warmup_steps}), found "
            f"{config.factor_steps}; 0 leaves this stage out"
        )
    return replace(training, steps=config.factor_steps)


@contextmanager
def factors_alone(model: PeftModel) -> Iterator[None]:
    """Within this context, only the factors of the tasks are trained."""
    encoder_of(model).embedding.requires_grad_(False)
    try:
        yield
    finally:
        encoder_of(model).embedding.requires_grad_(True)


def smallest(base: Any, _: Any) -> Any:
    """Add small prompts of two tasks to a base model, for `preflight`."""
    return attach(base, MultitaskPromptTuningConfig(num_virtual_tokens=2, num_tasks=2), section="prompt", seed=None)
