"""Compare exports with stock PEFT: its soft prompts, greedy output and logits on real rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from softprompts.adapters.loading import load_adapter, virtual_tokens
from softprompts.adapters.saving import folded
from softprompts.encoding.tokenization import encode
from softprompts.errors import UserError
from softprompts.evaluation.interactive import own_flags
from softprompts.export.sources import Job, Reading, Source, check_kinds, naming, reading_of
from softprompts.models.loading import default_device, input_spec, kind_of, load_base_model, load_model_config
from softprompts.models.peft_compat import encoder_of
from softprompts.models.reading import silent_transformers

import torch
from peft import MultitaskPromptTuningConfig, PeftType
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

SOFT_PROMPTS = [
    kind.value for kind in (PeftType.PROMPT_TUNING, PeftType.P_TUNING, PeftType.MULTITASK_PROMPT_TUNING, PeftType.CPT)
]
PREFIXES = [kind.value for kind in (PeftType.PREFIX_TUNING, PeftType.CARTRIDGE)]
# The largest difference of logits that counts as rounding, as a share of the largest logit.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


@dataclass(frozen=True)
class Outcome:
    """A model's output after a prompt: T greedy tokens, and the logits at them and after, (T + 1, V) float32.

    For every model, the logits belong to stock PEFT's greedy tokens, so that they can be compared.
    """

    tokens: list[int]
    logits: torch.Tensor


@dataclass(frozen=True)
class Trained:
    """An adapter loaded by stock PEFT; prompts: token ids of each row; expected: PEFT's output after each."""

    source: Source
    reading: Reading
    prompts: list[list[int]]
    expected: list[Outcome]


@dataclass(frozen=True)
class TrainedPrompt(Trained):
    """A soft prompt loaded by stock PEFT; vectors: (P, H) float32."""

    vectors: torch.Tensor


def load_prompts(job: Job) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, list[TrainedPrompt]]:
    """Return the base model, its tokenizer, and each soft prompt of an export with stock PEFT's output.

    Raises:
        UserError: the base model is not a decoder; an adapter has another type; `load_adapter` refuses an adapter.
    """
    check_kinds(job, SOFT_PROMPTS, "soft prompts")
    base, tokenizer = _load_decoder(job)
    prompts = []
    for source in job.sources:
        tuned, trained = _trained(base, tokenizer, source, job.config.max_new_tokens)
        plain = folded(tuned, task_number(tuned, source))
        vectors = encoder_of(plain).embedding.weight.detach().float().clone()
        prompts.append(TrainedPrompt(**vars(trained), vectors=vectors))
    return base, tokenizer, prompts


def load_prefixes(job: Job) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, list[Trained]]:
    """Return the base model, its tokenizer, and each prefix or cartridge of an export with stock PEFT's output.

    Raises:
        UserError: the base model is not a decoder; an adapter has another type; `load_adapter` refuses an adapter.
    """
    check_kinds(job, PREFIXES, "prefixes and cartridges")
    base, tokenizer = _load_decoder(job)
    new = job.config.max_new_tokens
    return base, tokenizer, [_trained(base, tokenizer, source, new)[1] for source in job.sources]


def _load_decoder(job: Job) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    kind = kind_of(load_model_config(job.model))
    if kind != "decoder":
        raise UserError(
            f"model.name_or_path: export.to {job.config.to} requires a decoder, but {job.model.name_or_path} is an "
            f"{kind}; export.to peft and hub support every kind"
        )
    return load_base_model(job.model, default_device())


def _trained(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: Source, new: int
) -> tuple[Any, Trained]:
    """Return an adapter that PEFT has loaded, and its output."""
    with naming(source), own_flags():
        tuned: Any = load_adapter(base, source.adapter)
        count = virtual_tokens(tuned)
        data = encode(source.task, tokenizer, input_spec(base, count + new), needs_end=False)
    prompts = [list(example.document.prompt_ids) for example in data.test]
    arguments = task_arguments(tuned, task_number(tuned, source))
    expected = [outcome_of(tuned, tokenizer, ids, new, **arguments) for ids in prompts]
    return tuned, Trained(source, reading_of(source, tokenizer, count, prompts[0]), prompts, expected)


def task_number(tuned: Any, source: Source) -> int | None:
    """Return the number of the task to export from multitask prompt tuning; None for other adapters."""
    several = isinstance(getattr(tuned, "active_peft_config", None), MultitaskPromptTuningConfig)
    return source.adapter.task_id if several else None


def task_arguments(tuned: Any, number: int | None) -> dict[str, Any]:
    """Return the arguments of PEFT's forward pass for a `task_number`."""
    return {} if number is None else {"task_ids": torch.tensor([number], device=tuned.device)}


def outcome_of(
    model: Any, tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], new: int, **arguments: Any
) -> Outcome:
    """Return a model's output after the token ids of a prompt; `arguments` are passed to the model."""
    read = torch.tensor([ids], device=model.device)
    tokens = greedy(model, tokenizer, new, input_ids=read, **arguments)[len(ids) :]
    return Outcome(tokens, logits_after(model, [*ids, *tokens], len(tokens), **arguments))


@torch.inference_mode()
def greedy(model: Any, tokenizer: PreTrainedTokenizerBase, new: int, **inputs: Any) -> list[int]:
    """Return greedy output of `generate` for one row, without the penalties in the model's own settings.

    Args:
        model: a model of transformers or PEFT.
        tokenizer: tokenizer with the padding token.
        new: most new tokens.
        inputs: `input_ids` (1, N), whose tokens are returned as well, or `inputs_embeds` (1, N, H). With `input_ids`,
            `past_key_values` may be a cache of the first tokens.
    """
    (read,) = (inputs[key] for key in ("input_ids", "inputs_embeds") if key in inputs)
    mask = torch.ones(read.shape[:2], dtype=torch.long, device=read.device)
    # PEFT warns in each step that it ignores positions, but these follow from the mask.
    with silent_transformers(), warnings.catch_warnings(action="ignore"):
        (row,) = model.generate(
            **inputs,
            attention_mask=mask,
            max_new_tokens=new,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            pad_token_id=tokenizer.pad_token_id,
        ).tolist()
    return list(row)


@torch.inference_mode()
def logits_after(model: Any, ids: Sequence[int], count: int, before: int = 0, **arguments: Any) -> torch.Tensor:
    """Return the logits at the last `count` + 1 tokens, float32 on the CPU (count + 1, V).

    `before` is the number of positions in a cache among the arguments.
    """
    read = torch.tensor([ids], device=model.device)
    mask = torch.ones(1, before + len(ids), dtype=torch.long, device=model.device)
    found = model(input_ids=read, attention_mask=mask, use_cache=before > 0, **arguments).logits
    return found[0, -count - 1 :].float().cpu()


def compare(prompt: Trained, form: str, found_of: Callable[[list[int], Outcome], Outcome], dtype: torch.dtype) -> str:
    """Compare an export with stock PEFT on each row, and return one line about it.

    In 32 bits, greedy output must be equal. In 16 bits, logits must agree, and the line reports the number of rows with
    equal output: rounding may decide between two tokens of almost equal likelihood.

    Args:
        prompt: the adapter with stock PEFT's output.
        form: name of the export's form, for messages.
        found_of: function of a prompt's token ids and PEFT's outcome. It returns the export's outcome for PEFT's
            tokens.
        dtype: data type in which the export computes.

    Raises:
        UserError: the outputs differ by more than rounding.
    """
    found = [found_of(ids, outcome) for ids, outcome in zip(prompt.prompts, prompt.expected, strict=True)]
    pairs = list(zip(found, prompt.expected, strict=True))
    equal = sum(one.tokens == other.tokens for one, other in pairs)
    difference, share = difference_of([(one.logits, other.logits) for one, other in pairs])
    rows = len(pairs)
    said = (
        f"{prompt.source.name}: greedy output equals stock PEFT's on {equal} of {rows} rows; logits differ by at most "
        f"{difference:.1e} ({share:.1e} of the largest)"
    )
    check_share(prompt.source, form, share, dtype)
    if dtype == torch.float32 and equal < rows:
        raise UserError(f"export.to: {form} failed its check, and nothing was written: {said}")
    return said


def difference_of(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> tuple[float, float]:
    """Return the largest difference of pairs of logits, and its share of the largest finite second logit."""
    difference = max(_largest(one, other) for one, other in pairs)
    largest = max(float(other[other.isfinite()].abs().max()) for _, other in pairs)
    return difference, difference / max(largest, 1e-30)


def _largest(one: torch.Tensor, other: torch.Tensor) -> float:
    # The difference of equal infinities is NaN.
    return float((one - other).masked_fill(one == other, 0.0).nan_to_num(torch.inf).abs().max())


def check_share(source: Source, form: str, share: float, dtype: torch.dtype) -> None:
    """Raise `UserError` if logits differ by more than rounding in this data type."""
    if not share <= TOLERANCE.get(dtype, 1e-2):
        raise UserError(
            f"export.to: {form} failed its check, and nothing was written: the logits of {source.name} differ from "
            f"stock PEFT's by {share:.1e} of the largest"
        )
