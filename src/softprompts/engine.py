"""The forward pass: a model with any PEFT method, and documents, give logits at the target positions only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from softprompts.attention import checkpoint_layers, make_layout, packed
from softprompts.batching import Document, EncodedTask, pack, pad
from softprompts.config import ModelConfig
from softprompts.errors import UserError
from softprompts.prompts.states import States, one_behind_the_other, positions_of, side_by_side, states_in

import torch
from peft import PeftModel
from torch import nn
from torch.nn import functional
from transformers import Cache, DynamicCache
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
    """Runs a base model, or PEFT models over it, on documents.

    `bank` holds more soft prompts over the same base, to be computed side by side: document i stands behind that of
    model `documents[i].soft_prompt`, the first model being number 0.

    It is a module so that accelerate can wrap it for data-parallel training and mixed precision.
    """

    def __init__(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, packed: bool = False, bank: Sequence[Any] = ()
    ) -> None:
        super().__init__()
        self.bank = nn.ModuleList([model, *bank])
        self.tokenizer = tokenizer
        self.packed = packed
        self._cached: dict[int, States | None] | None = None

    def forward(self, documents: Sequence[Document]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the three tensors of `Scores`, in the order of `documents`."""
        return self._packed(documents) if self.packed else self._stock(documents)

    def _packed(self, documents: Sequence[Document]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Each soft prompt once, its texts behind it end to end; a text sees its soft prompt and itself, causally."""
        batch = pack(documents, self.device)
        prompts = {k: self._cached_states(k) or self._soft_prompt(k) for k in dict.fromkeys(batch.soft_prompts)}
        virtual = {k: positions_of(prompt) for k, prompt in prompts.items()}
        starts = [virtual[k] for k, n in zip(batch.soft_prompts, batch.lengths, strict=True) for _ in range(n)]
        embeds = self.model.get_input_embeddings()(batch.input_ids)
        positions = batch.position + torch.tensor(starts, device=self.device)
        tensors = [prompt for prompt in prompts.values() if isinstance(prompt, torch.Tensor)]
        if tensors:
            embeds = torch.cat([*(prompt.to(embeds.dtype) for prompt in tensors), embeds])
            positions = torch.cat([*(torch.arange(len(prompt), device=self.device) for prompt in tensors), positions])
        states = [prompt for prompt in prompts.values() if isinstance(prompt, list)]
        layout = make_layout(batch, virtual, prompt_queries=bool(tensors))
        with logits_at(self.model, batch.predictors, torch.Size([1, len(batch.input_ids)])), packed(self._base, layout):
            output = self._base(
                inputs_embeds=embeds[None],
                position_ids=positions[None],
                past_key_values=one_behind_the_other(states) if states else None,
                use_cache=False,
            )
        return output.logits[0].float(), batch.targets, batch.document

    def _stock(self, documents: Sequence[Document]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """PEFT's own forward pass, one for each soft prompt, every row behind a soft prompt of its own."""
        if not documents:
            raise ValueError("empty batch")
        parts = []
        for k in dict.fromkeys(d.soft_prompt for d in documents):
            chosen = [index for index, d in enumerate(documents) if d.soft_prompt == k]
            batch = pad([documents[index] for index in chosen], self.device)
            with logits_at(self.model, batch.predictors, batch.input_ids.shape):
                output = self.bank[k](input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
            owners = torch.tensor(chosen, device=self.device)[batch.document]
            parts.append((output.logits[0].float(), batch.targets, owners))
        if len(parts) == 1:
            return parts[0]
        logits, targets, document = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        order = torch.argsort(document, stable=True)
        return logits[order], targets[order], document[order]

    @property
    def model(self) -> Any:
        """The first model, the only one unless there is a bank."""
        return self.bank[0]

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.model.get_input_embeddings().weight.device

    @property
    def _base(self) -> Any:
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    def _soft_prompt(self, index: int) -> torch.Tensor | States | None:
        """Return the virtual tokens' embeddings (P, H), a prefix's keys and values, or None where there is neither."""
        model = self.bank[index]
        if not isinstance(model, PeftModel) or model._adapters_disabled:
            return None
        if not model.active_peft_config.is_prompt_learning:
            return None
        prompt = model.get_prompt(batch_size=1)
        if isinstance(prompt, Cache):
            return states_in(prompt)
        return prompt[0]

    @contextmanager
    def prompts_cached(self) -> Iterator[None]:
        """Within this context each soft prompt's keys and values are computed once, when they are first needed.

        For evaluation: nothing may train meanwhile, and no gradient is had.
        """
        before = self._cached
        self._cached = {} if before is None else before
        try:
            yield
        finally:
            self._cached = before

    def _cached_states(self, index: int) -> States | None:
        if self._cached is None:
            return None
        if index not in self._cached:
            self._cached[index] = self._states(index)
        return self._cached[index]

    @torch.no_grad()
    def _states(self, index: int) -> States | None:
        prompt = self._soft_prompt(index)
        if not isinstance(prompt, torch.Tensor):
            return prompt
        cache = DynamicCache()
        embeds = prompt.to(self.model.get_input_embeddings().weight.dtype)[None]
        nowhere = torch.zeros(0, dtype=torch.long, device=self.device)
        with logits_at(self.model, nowhere, embeds.shape[:2]):
            self._base(inputs_embeds=embeds, past_key_values=cache, use_cache=True)
        return states_in(cache)

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        soft_prompts: Sequence[int] | None = None,
        **sampling: Any,
    ) -> list[str]:
        """Continue each prompt until the end-of-sequence token; greedily, unless `sampling` says otherwise.

        The soft prompts' keys and values are computed once and stand in front of all rows; text is padded on the
        left, and its positions follow its soft prompt's without a gap. PEFT's own `generate` counts the padding in, so
        that its answers depend on the batch.

        Args:
            prompts: token ids of each row.
            max_new_tokens: longest answer.
            soft_prompts: for each row the model of the bank whose soft prompt it stands behind; by default the first.
            sampling: goes to transformers' `generate`.
        """
        if not prompts:
            raise ValueError("empty batch")
        owners = list(soft_prompts or [0] * len(prompts))
        with self.prompts_cached():
            states = {k: self._cached_states(k) for k in dict.fromkeys(owners)}
        rows = [states[k] for k in owners]
        virtual = max(positions_of(row) for row in rows)
        width = virtual + max(len(ids) for ids in prompts)
        # Tokens whose keys and values are in the cache already are not read: the padding there only keeps their place.
        ids = torch.full((len(prompts), width), self.tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for index, (text, row) in enumerate(zip(prompts, rows, strict=True)):
            ids[index, width - len(text) :] = torch.tensor(text)
            mask[index, width - len(text) :] = 1
            mask[index, virtual - positions_of(row) : virtual] = 1
        generated = self._base.generate(
            input_ids=ids.to(self.device),
            attention_mask=mask.to(self.device),
            past_key_values=side_by_side(rows, virtual) if virtual else None,
            max_new_tokens=max_new_tokens,
            pad_token_id=self.tokenizer.pad_token_id,
            **({"do_sample": False} | sampling),
        )
        return self.tokenizer.batch_decode(generated[:, width:], skip_special_tokens=True)


# How far two forward passes may differ, relative to the stock one's loss and gradient: rounding adds up over the
# layers, in 16 bits about a thousand times faster than in 32.
TOLERANCE = {torch.float32: (1e-4, 1e-3), torch.bfloat16: (2e-2, 1e-1), torch.float16: (5e-3, 5e-2)}
CHECKED_DOCUMENTS = 8


def make_engine(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    config: ModelConfig,
    data: EncodedTask,
    say: Callable[[str], None],
    bank: Sequence[Any] = (),
) -> Engine:
    """Return the engine that `config.engine` asks for, checked on the first documents of train.

    Raises:
        UserError: `packed` is asked for and disagrees with the stock forward; gradient checkpointing of a prefix.
    """
    engine = Engine(model, tokenizer, bank=bank)
    if config.gradient_checkpointing:
        if isinstance(engine._soft_prompt(0), list):
            raise UserError(
                "model.gradient_checkpointing: not with prefix tuning, where every layer adds its keys and values to a "
                "cache: computed again, it would add them again. Set training.micro_batch_tokens to save memory"
            )
        checkpoint_layers(engine._base)
    if config.engine == "stock":
        return engine
    documents = [replace(e.document, soft_prompt=i % len(engine.bank)) for i, e in enumerate(data.train)]
    difference = disagreement(engine, documents[: max(CHECKED_DOCUMENTS, len(engine.bank))])
    if difference and config.engine == "packed":
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
