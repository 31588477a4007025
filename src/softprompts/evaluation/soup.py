"""A soup: the mean of trained prompts, as one prompt that costs no more than any of them (Wortsman et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from softprompts.adapters.saving import folded
from softprompts.config.sections import EvaluationConfig
from softprompts.encoding.documents import EncodedTask
from softprompts.engine.forward import Engine
from softprompts.errors import notice
from softprompts.evaluation.predict import Outcome, TestOutcome, evaluate_test, predict
from softprompts.models.peft_compat import encoder_of, peft_model

import torch
from accelerate import Accelerator
from peft import PeftConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Soup:
    """The mean of some prompts, and its answers to validation and to the rows that are scored."""

    model: PeftModel
    validation: Outcome
    outcome: TestOutcome


def mean_of(bank: Sequence[PeftModel]) -> PeftModel | None:
    """Return a frozen soft prompt, or prefix, whose values are the mean of all; None if their lengths differ.

    Wortsman et al. (2022), section 2, average models that began at the same values: those of other random values may
    lie in other valleys, with nothing good halfway.
    """
    plain = [folded(model) for model in bank]
    values = [encoder_of(model).embedding.weight.detach() for model in plain]
    if len({value.shape for value in values}) > 1:
        lengths = sorted({len(value) for value in values})
        notice(f"no mean of the prompts is scored: their lengths are {', '.join(map(str, lengths))} virtual tokens")
        return None
    config = plain[0].active_peft_config
    kind = PrefixTuningConfig if isinstance(config, PrefixTuningConfig) else PromptTuningConfig
    own: PeftConfig = kind(
        task_type=config.task_type,
        num_virtual_tokens=config.num_virtual_tokens,
        num_transformer_submodules=config.num_transformer_submodules,
    )
    soup = peft_model(cast(PreTrainedModel, plain[0].get_base_model()), own)
    with torch.no_grad():
        encoder_of(soup).embedding.weight.copy_(torch.stack(values).mean(0))
    soup.eval().requires_grad_(False)
    return soup


def make_soup(engine: Engine, data: EncodedTask, evaluation: EvaluationConfig, accelerator: Accelerator) -> Soup | None:
    """Return the mean of the prompts of an engine's bank with its answers; None if it has none.

    Args:
        engine: with a bank of soft prompts, or prefixes, over one base model.
        data: the task, for none of them in particular.
        evaluation: how it is scored.
        accelerator: shares the rows out.

    Raises:
        UserError: as `predict` and `evaluate_test`.
    """
    model = mean_of([cast(PeftModel, member) for member in engine.bank])
    if model is None:
        return None
    own = Engine(model, engine.tokenizer, packed=engine.packed)
    own.reads_padding = engine.reads_padding
    validation = predict(own, data.validation, evaluation, accelerator, "validating")
    return Soup(model, validation, evaluate_test(own, data, evaluation, accelerator))
