"""Make a soup: the mean of trained prompts, as one prompt at the cost of one (Wortsman et al. 2022)."""

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
    """The mean of some prompts, and its predictions for validation and for the scored rows."""

    model: PeftModel
    validation: Outcome
    outcome: TestOutcome


def mean_of(bank: Sequence[PeftModel]) -> PeftModel | None:
    """Return a frozen soft prompt, or prefix, whose values are the mean of all; None if their lengths differ.

    Wortsman et al. (2022), section 2, average models that started from the same values. Models with other random values
    may be in other minima, and a point halfway may be worse.
    """
    plain = [folded(model) for model in bank]
    values = [encoder_of(model).embedding.weight.detach() for model in plain]
    if len({value.shape for value in values}) > 1:
        lengths = sorted({len(value) for value in values})
        notice(
            f"the mean of the prompts is not scored: their lengths are {', '.join(map(str, lengths))} virtual tokens"
        )
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
    """Return the mean of an engine's prompts with its predictions; None if there is no mean.

    Args:
        engine: engine with a prompt bank of soft prompts, or of prefixes, over one base model.
        data: the task, without a soft prompt's number.
        evaluation: settings of the scoring.
        accelerator: divides the rows among processes.

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
