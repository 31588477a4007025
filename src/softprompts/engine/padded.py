"""PEFT's own forward pass, over padded documents, for each kind of base model: the reference for the packed one."""

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
    """What a forward pass says of T target tokens, over V tokens of the vocabulary.

    logits (T, V) float32; targets (T,) token ids; document (T,) index of the document that each belongs to. Of an
    encoder V are its choices, and a target is the number of one.
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
        device: where the model computes.
        seen: (B, P), which positions of a decoder's prefix each document sees; by default all.
        arguments: go to the model's forward.

    Raises:
        UserError: an encoder-decoder whose config has no token to begin with.
    """
    kind = kind_of(model.config)
    batch = pad(documents, device)
    if kind == "decoder":
        with logits_at(model, batch.predictors, batch.input_ids.shape), prefix_seen(model, seen):
            output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, **arguments)
        return Scores(output.logits[0].float(), batch.targets, batch.document)
    read = pad([Document(d.prompt_ids, (0,)) for d in documents], device)
    if kind == "encoder":
        # Not use_cache=False: BERT would then leave out a prefix without a word.
        output = model(input_ids=read.input_ids, attention_mask=read.attention_mask, **arguments)
        # A classifier has its outputs in an order of its own; a target is the number of a choice.
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
    """Return the token that an encoder-decoder's answer begins with, in training and in writing alike.

    Raises:
        UserError: neither the model's config nor its settings of generation name one.
    """
    for config in (model.config, getattr(model, "generation_config", None)):
        if isinstance(start := getattr(config, "decoder_start_token_id", None), int):
            return start
    raise UserError(
        "model.name_or_path: the base model's config.json has no decoder_start_token_id, the token that an "
        "encoder-decoder begins an answer with"
    )


@contextmanager
def hidden_states_in_one_piece(model: Any) -> Iterator[None]:
    """Within this context the model's output embedding gets its hidden states (B, S, H) in one piece of memory.

    In generation they are a slice of the prompt's, for which PyTorch copies the output embedding once a row: six of
    seven seconds of reading 32 prompts in bfloat16 on a CPU.
    """
    handle = model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def logits_at(model: Any, predictors: torch.Tensor, shape: torch.Size) -> Iterator[None]:
    """Within this context the model's output embedding sees only the hidden states at `predictors`.

    The vocabulary is the widest matrix of a small model, and the loss needs it at the targets only. A hook on the
    layer, not `logits_to_keep`: that takes the same columns of every row.

    Args:
        model: with `get_output_embeddings()`.
        predictors: (T,) places in the flattened last `shape[1]` positions of every row.
        shape: (B, S) of the documents' tokens, without the virtual tokens that PEFT puts in front.
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
    """Within this context rows do not see some positions of a prefix, and have the positions that they have otherwise.

    PEFT lets each row see all of its prefix. The mask that it hands to the base model is changed on its way.

    Args:
        model: a PEFT model with a prefix, over a decoder.
        seen: (B, P), true for what a row sees; None for all of it.
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
        if takes_positions:  # some models count them in the mask
            changed["position_ids"] = torch.arange(count, mask.shape[1], device=mask.device)[None]
        return inputs, arguments | changed

    handle = base.register_forward_pre_hook(hide, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
