"""Run PEFT's own forward pass over padded documents, as the reference for the packed one."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from softprompts.encoding.documents import Document
from softprompts.engine.batches import pad
from softprompts.errors import UserError
from softprompts.models.identity.facts import facts_of
from softprompts.models.loading import kind_of

import torch
from torch import nn
from torch.nn import functional


class Scores(NamedTuple):
    """The logits of T target tokens over V tokens of the vocabulary.

    logits (T, V) float32; targets (T,) token ids; document (T,) index of each target's document. For an encoder, V are
    its choices, and a target is the number of a choice.
    """

    logits: torch.Tensor
    targets: torch.Tensor
    document: torch.Tensor

    def nll(self) -> torch.Tensor:
        """Return the negative log-likelihood of each target token, (T,), in nats."""
        return functional.cross_entropy(self.logits, self.targets, reduction="none")


def stock_forward(
    model: Any,
    documents: Sequence[Document],
    device: torch.device,
    seen: torch.Tensor | None = None,
    **arguments: Any,
) -> Scores:
    """Return the logits at the targets of padded documents.

    Args:
        model: the base model, or a PEFT model over one.
        documents: B of them.
        device: the model's device.
        seen: (B, P), the positions of a decoder's prefix that each document attends to; by default all.
        arguments: further arguments of the model's forward.

    Raises:
        UserError: the config of an encoder-decoder has no first token.
    """
    kind = kind_of(model.config)
    batch = pad(documents, device)
    if kind == "decoder":
        with logits_at(model, batch.predictors, batch.input_ids.shape), prefix_seen(model, seen):
            output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, **arguments)
        return Scores(output.logits[0].float(), batch.targets, batch.document)
    read = pad([Document(d.prompt_ids, (0,)) for d in documents], device)
    if kind == "encoder":
        # With use_cache=False, BERT would silently ignore a prefix.
        output = model(input_ids=read.input_ids, attention_mask=read.attention_mask, **arguments)
        # A classifier's outputs may have another order than the choices.
        outputs = list(facts_of(model).choice_outputs) or slice(None)
        return Scores(output.logits[:, outputs].float(), batch.targets, batch.document)
    written = pad([Document((decoder_start(model),), d.target_ids) for d in documents], device)
    with logits_at(model, written.predictors, written.input_ids.shape):
        output = model(
            input_ids=read.input_ids,
            attention_mask=read.attention_mask,
            decoder_input_ids=written.input_ids,
            use_cache=False,
            **arguments,
        )
    return Scores(output.logits[0].float(), written.targets, written.document)


def decoder_start(model: Any) -> int:
    """Return the first token of an encoder-decoder's output, in both training and generation.

    Raises:
        UserError: neither the model's config nor its generation settings name one.
    """
    for config in (model.config, getattr(model, "generation_config", None)):
        if isinstance(start := getattr(config, "decoder_start_token_id", None), int):
            return start
    raise UserError(
        "model.name_or_path: the base model's config.json has no decoder_start_token_id, the first token of an "
        "encoder-decoder's output"
    )


@contextmanager
def hidden_states_in_one_piece(model: Any) -> Iterator[None]:
    """Within this context, the model's output embedding gets contiguous hidden states (B, S, H).

    In generation they are a slice of the prompt's hidden states, for which PyTorch copies the output embedding once per
    row. This took six of seven seconds for 32 prompts in bfloat16 on a CPU.
    """
    handle = model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def logits_at(model: Any, predictors: torch.Tensor, shape: torch.Size) -> Iterator[None]:
    """Within this context, the model's output embedding gets only the hidden states at `predictors`.

    The vocabulary is the widest matrix of a small model, and the loss needs it only at the targets. This is a hook on
    the layer, because `logits_to_keep` selects the same columns of every row.

    Args:
        model: a model with `get_output_embeddings()`.
        predictors: (T,) places in the flattened last `shape[1]` positions of every row.
        shape: (B, S) of the documents' tokens, without the virtual tokens that PEFT adds.
    """

    def select(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden = inputs[0][:, -shape[1] :]
        return (hidden.reshape(-1, hidden.shape[-1])[predictors].unsqueeze(0), *inputs[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def prefix_seen(model: Any, seen: torch.Tensor | None) -> Iterator[None]:
    """Within this context, some positions of a prefix are hidden from rows. The rows' own positions stay.

    In PEFT each row attends to all of its prefix. This changes the mask that PEFT passes to the base model.

    Args:
        model: a PEFT model with a prefix, over a decoder.
        seen: (B, P), true for positions that a row attends to; None for all.
    """
    if seen is None:
        yield
        return
    base = model.get_base_model()
    takes_positions = "position_ids" in inspect.signature(base.forward).parameters

    def hide(_: nn.Module, inputs: tuple[Any, ...], arguments: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = arguments["attention_mask"].clone()
        count = seen.shape[1]
        mask[:, :count] = seen
        changed = {"attention_mask": mask}
        if takes_positions:  # some models derive them from the mask
            changed["position_ids"] = torch.arange(count, mask.shape[1], device=mask.device)[None]
        return inputs, arguments | changed

    handle = base.register_forward_pre_hook(hide, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
