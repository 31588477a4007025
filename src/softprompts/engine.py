"""The forward pass: a model with any PEFT method, and documents, give logits at the target positions only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from softprompts.batching import Document, EncodedTask, PaddedBatch, pack, pad
from softprompts.errors import UserError

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

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, packed: bool = False) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.packed = packed
        text = model.config.get_text_config()
        # Multiply-adds of a position in the linear layers, and of a pair of positions in attention (Kaplan et al.
        # 2020, section 2.1), so that the packer can weigh many short rows against few long ones.
        embeddings = model.get_input_embeddings().weight.numel()
        self.token_cost = float(sum(p.numel() for p in model.parameters()) - embeddings)
        self.pair_cost = 2.0 * text.num_hidden_layers * text.hidden_size

    def forward(self, documents: Sequence[Document]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the three tensors of `Scores`, in the order of `documents`."""
        if self.packed:
            return self._packed(documents)
        batch = pad(documents, self.device)
        return self._stock(batch), batch.targets, batch.document

    def _packed(self, documents: Sequence[Document]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One soft prompt a row, the documents behind it; each sees the prompt and itself, causally."""
        embed = self.model.get_input_embeddings()
        soft = self._soft_prompt()
        virtual = 0 if soft is None else len(soft)
        batch = pack(documents, virtual, self.token_cost, self.pair_cost, self.device)
        embeds = embed(batch.input_ids)
        positions = batch.position + virtual
        if soft is not None:
            rows = len(embeds)
            embeds = torch.cat([soft.to(embeds.dtype).expand(rows, -1, -1), embeds], dim=1)
            positions = torch.cat([torch.arange(virtual, device=self.device).expand(rows, -1), positions], dim=1)
        with logits_at(self.model, batch.predictors, batch.input_ids.shape):
            output = self._base()(
                inputs_embeds=embeds,
                attention_mask=self._attention_mask(batch.segment, virtual, embeds.dtype),
                position_ids=positions,
                use_cache=False,
            )
        return output.logits[0].float(), batch.targets, batch.document

    def _attention_mask(self, segment: torch.Tensor, virtual: int, dtype: torch.dtype) -> torch.Tensor:
        """Return (R, 1, virtual + S, virtual + S): who sees whom, as SDPA and eager attention want it."""
        # Virtual tokens get a segment of their own that all others see; padding sees what else is padding.
        whole = functional.pad(segment, (virtual, 0), value=-2)
        length = whole.shape[1]
        same = whole[:, :, None] == whole[:, None, :]
        causal = torch.ones(length, length, dtype=torch.bool, device=segment.device).tril()
        sees = ((same | (whole == -2)[:, None, :]) & causal)[:, None]
        if self._base().config._attn_implementation == "sdpa":
            return sees
        return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill(~sees, torch.finfo(dtype).min)

    def _base(self) -> Any:
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    def _soft_prompt(self) -> torch.Tensor | None:
        """Return the virtual tokens' embeddings (P, H), or None where the method has none."""
        if not isinstance(self.model, PeftModel) or self.model._adapters_disabled:
            return None
        if self.model.active_peft_config.is_prompt_learning:
            return self.model.get_prompt(batch_size=1)[0]
        return None

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.model.get_input_embeddings().weight.device

    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, **sampling: Any) -> list[str]:
        """Continue each prompt until the end-of-sequence token; greedily, unless `sampling` says otherwise.

        Rows are laid out `[padding][soft prompt][text]`. PEFT's own `generate` puts the padding of a shorter row
        between soft prompt and text, so that its answers depend on the batch.
        """
        if not prompts:
            raise ValueError("empty batch")
        embed = self.model.get_input_embeddings()
        rows = [embed(torch.tensor(ids, device=self.device)) for ids in prompts]
        soft = self._soft_prompt()
        if soft is not None:
            rows = [torch.cat([soft.to(row.dtype), row]) for row in rows]
        embeds = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side="left")
        width = embeds.shape[1]
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        mask = (torch.arange(width, device=self.device) >= width - lengths[:, None]).long()
        generated = self._base().generate(
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


# How far two forward passes may differ, relative to the stock one's loss and gradient: rounding adds up over the
# layers, in 16 bits about a thousand times faster than in 32.
TOLERANCE = {torch.float32: (1e-4, 1e-3), torch.bfloat16: (2e-2, 1e-1), torch.float16: (5e-3, 5e-2)}
CHECKED_DOCUMENTS = 8


def make_engine(
    model: Any, tokenizer: PreTrainedTokenizerBase, mode: str, data: EncodedTask, say: Callable[[str], None]
) -> Engine:
    """Return the engine that `model.engine` asks for, checked on the first documents of train.

    Raises:
        UserError: `packed` is asked for and disagrees with the stock forward.
    """
    engine = Engine(model, tokenizer)
    if mode == "stock":
        return engine
    difference = disagreement(engine, [e.document for e in data.train[:CHECKED_DOCUMENTS]])
    if difference and mode == "packed":
        raise UserError(f"model.engine: packed does not give what PEFT gives with this model: {difference}")
    if difference:
        say(f"warning: model.engine: taking stock, because packed does not give what PEFT gives: {difference}")
    engine.packed = difference is None
    return engine


def disagreement(engine: Engine, documents: Sequence[Document]) -> str | None:
    """Say where packed and stock forward differ by more than rounding in loss or gradient; None where nowhere."""
    trainable = [p for p in engine.parameters() if p.requires_grad]

    def loss_and_gradient(packed: bool) -> tuple[float, torch.Tensor]:
        engine.packed = packed
        with torch.set_grad_enabled(bool(trainable)):
            loss = Scores(*engine(documents)).nll().mean()
        # A parameter that the loss does not reach is the training loop's to report: it can name it.
        reached = trainable if loss.requires_grad else []
        gradients = torch.autograd.grad(loss, reached, allow_unused=True) if reached else ()
        return loss.item(), torch.cat(
            [torch.zeros(1), *(g.flatten().float().cpu() for g in gradients if g is not None)]
        )

    loss, gradient = loss_and_gradient(packed=False)
    try:
        packed_loss, packed_gradient = loss_and_gradient(packed=True)
    except (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError) as error:
        return f"it raises {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    loss_bound, gradient_bound = TOLERANCE[engine.model.get_input_embeddings().weight.dtype]
    # Written so that NaN disagrees.
    if not abs(packed_loss - loss) <= loss_bound * max(abs(loss), 1.0):
        return f"the loss is {packed_loss:.6g} instead of {loss:.6g}"
    distance = (packed_gradient - gradient).norm().item()
    if not distance <= gradient_bound * gradient.norm().item():
        return f"the gradient is off by {distance:.3g} of {gradient.norm().item():.3g}"
    return None


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
