"""The forward pass: a model with any PEFT method, and documents, give logits at the target positions only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from softprompts.batching import Document, PaddedBatch, pad

import torch
from peft import PeftModel
from torch import nn
from torch.nn import functional
from transformers.tokenization_utils_base import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Scores:
    """What a forward pass says of T target tokens.

    logits (T, V) float32; targets (T,) token ids; document (T,) index of the document that each belongs to.
    """

    logits: torch.Tensor
    targets: torch.Tensor
    document: torch.Tensor

    def nll(self) -> torch.Tensor:
        """Return the negative log-likelihood of each target token, (T,), in nats."""
        return functional.cross_entropy(self.logits, self.targets, reduction="none")


class Engine(nn.Module):
    """Runs a base model, or a PEFT model over it, on documents.

    It is a module so that accelerate can wrap it for data-parallel training and mixed precision.
    """

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer

    def forward(self, documents: Sequence[Document]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the three tensors of `Scores`."""
        batch = pad(documents, self.device)
        return self._stock(batch), batch.targets, batch.document

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.model.get_input_embeddings().weight.device

    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, **sampling: Any) -> list[str]:
        """Continue each prompt until the end-of-sequence token; greedily, unless `sampling` says otherwise.

        Rows are laid out `[padding][soft prompt][text]`. PEFT's own `generate` puts the padding of a shorter row
        between soft prompt and text, so that its answers depend on the batch.
        """
        embed = self.model.get_input_embeddings()
        rows = [embed(torch.tensor(ids, device=self.device)) for ids in prompts]
        base = self.model
        if isinstance(self.model, PeftModel):
            base = self.model.get_base_model()
            soft = self.model.get_prompt(batch_size=1)[0].to(rows[0].dtype)
            rows = [torch.cat([soft, row]) for row in rows]
        # Not pad_sequence: it has no left padding in the older PyTorch versions that we allow.
        width = max(len(row) for row in rows)
        embeds = torch.stack([functional.pad(row, (0, 0, width - len(row), 0)) for row in rows])
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        mask = (torch.arange(width, device=self.device) >= width - lengths[:, None]).long()
        generated = base.generate(
            inputs_embeds=embeds,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            pad_token_id=self.tokenizer.pad_token_id,
            **({"do_sample": False} | sampling),
        )
        return self.tokenizer.batch_decode(generated, skip_special_tokens=True)

    def _stock(self, batch: PaddedBatch) -> torch.Tensor:
        with logits_at(self.model, batch.predictors, batch.input_ids.shape):
            output = self.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
        return output.logits[0].float()


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
