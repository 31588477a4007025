"""The forward pass: a model with any PEFT method, and documents, give logits at the target positions only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from softprompts.attention import make_layout, packed
from softprompts.batching import Document, common_head, pack, pad
from softprompts.decoding import decode
from softprompts.endings import StopAt, before
from softprompts.models import kind_of
from softprompts.prompts.cache import PromptCache
from softprompts.prompts.states import States, one_behind_the_other, positions_of, side_by_side, states_in
from softprompts.stock import hidden_states_in_one_piece, logits_at, stock_forward
from softprompts.windows import window_of

import torch
from peft import MultitaskPromptTuningConfig, PeftModel
from torch import nn
from torch.nn import functional
from transformers import Cache, DynamicCache, StoppingCriteriaList
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

    `bank` holds more soft prompts over the same base, to be computed side by side: document i stands behind number
    `documents[i].soft_prompt` of all soft prompts, those of the first model coming first. A model has one, but for
    multitask prompt tuning, which has one for each task.

    It is a module so that accelerate can wrap it for data-parallel training and mixed precision.
    """

    def __init__(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, packed: bool = False, bank: Sequence[Any] = ()
    ) -> None:
        super().__init__()
        self.bank = nn.ModuleList([model, *bank])
        self.tokenizer = tokenizer
        self.packed = packed
        self.owners = [(i, task) for i, member in enumerate(self.bank) for task in _tasks_of(member)]
        self._cached: PromptCache | None = None

    def forward(self, documents: Sequence[Document]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the three tensors of `Scores`, in the order of `documents`."""
        return self._packed(documents) if self.packed else self._stock(documents)

    def _packed(self, documents: Sequence[Document]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Each soft prompt once, its texts behind it end to end; a text sees its soft prompt and itself, causally."""
        if self._cached is not None and torch.is_grad_enabled():
            raise RuntimeError("prompts_cached() keeps no gradient: train outside of it, or evaluate under no_grad()")
        batch = pack(documents, self.device)
        used = dict.fromkeys(text.soft_prompt for text in batch.texts)
        prompts = {k: self._cached_states(k) or self.soft_prompt(k) for k in used}
        virtual = {k: positions_of(prompt) for k, prompt in prompts.items()}
        starts = [virtual[text.soft_prompt] for text in batch.texts for _ in range(text.length)]
        embeds = self.model.get_input_embeddings()(batch.input_ids)
        positions = batch.position + torch.tensor(starts, device=self.device)
        tensors = [prompt for prompt in prompts.values() if isinstance(prompt, torch.Tensor)]
        if tensors:
            embeds = torch.cat([*(prompt.to(embeds.dtype) for prompt in tensors), embeds])
            positions = torch.cat([*(torch.arange(len(prompt), device=self.device) for prompt in tensors), positions])
        states = [prompt for prompt in prompts.values() if isinstance(prompt, list)]
        layout = make_layout(batch, virtual, prompt_queries=bool(tensors))
        with logits_at(self.model, batch.predictors, torch.Size([1, len(batch.input_ids)])), packed(self.base, layout):
            output = self.base(
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
            number, task = self.owners[k]
            arguments = {} if task is None else {"task_ids": torch.full((len(chosen),), task, device=self.device)}
            behind_k = [documents[index] for index in chosen]
            logits, targets, document = stock_forward(self.bank[number], behind_k, self.device, **arguments)
            parts.append((logits, targets, torch.tensor(chosen, device=self.device)[document]))
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
    def base(self) -> Any:
        """The model without any adapter's wrapping; LoRA's layers stay in it."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    def soft_prompt(self, index: int) -> torch.Tensor | States | None:
        """Return the virtual tokens' embeddings (P, H), a prefix's keys and values, or None where there is neither."""
        number, task = self.owners[index]
        model = self.bank[number]
        if not isinstance(model, PeftModel) or model._adapters_disabled:
            return None
        if not model.active_peft_config.is_prompt_learning:
            return None
        prompt = model.get_prompt(1, None if task is None else torch.tensor([task], device=self.device))
        if isinstance(prompt, Cache):
            return states_in(prompt, model.active_peft_config.num_virtual_tokens)
        return prompt[0]

    @contextmanager
    def prompts_cached(self) -> Iterator[None]:
        """Within this context each soft prompt's keys and values are computed once, when they are first needed.

        In generation those of what all texts behind it begin with, solved examples say, are kept, too. For evaluation:
        a packed forward pass that would need a gradient is an error. What changes meanwhile, a parameter or the active
        adapter, is heeded: see `PromptCache`.
        """
        before = self._cached
        cache = before or PromptCache(list(self.bank))
        self._cached = cache
        try:
            with cache.emptied_by_optimizers():
                yield
        finally:
            self._cached = before

    def _cached_states(self, index: int, head: tuple[int, ...] = ()) -> States | None:
        if self._cached is None:
            return None
        return self._cached.get(self.owners[index][0], (index, head), lambda: self._states(index, head))

    @torch.no_grad()
    def _states(self, index: int, head: tuple[int, ...]) -> States | None:
        """Return the keys and values of a soft prompt, and of the tokens of `head` behind it."""
        table = self.model.get_input_embeddings()
        if head:
            before = self._cached_states(index)
            embeds = table(torch.tensor(head, device=self.device))
        else:
            before, prompt = None, self.soft_prompt(index)
            if not isinstance(prompt, torch.Tensor):
                return prompt
            embeds = prompt.to(table.weight.dtype)
        start = positions_of(before)
        cache = one_behind_the_other([before]) if before else DynamicCache()
        nowhere = torch.zeros(0, dtype=torch.long, device=self.device)
        with logits_at(self.model, nowhere, torch.Size([1, len(embeds)])):
            self.base(
                inputs_embeds=embeds[None],
                position_ids=torch.arange(start, start + len(embeds), device=self.device)[None],
                past_key_values=cache,
                use_cache=True,
            )
        return states_in(cache, start + len(embeds))

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        soft_prompts: Sequence[int] | None = None,
        stop: Sequence[str] = (),
        **sampling: Any,
    ) -> list[str]:
        """Continue each prompt until the end-of-sequence token; greedily, unless `sampling` says otherwise.

        The keys and values of the soft prompts, and of what all texts behind one begin with, are computed once and
        stand in front of all rows; text is padded on the left, and its positions follow its soft prompt's without a
        gap. PEFT's own `generate` counts the padding in, so that its answers depend on the batch.

        Args:
            prompts: token ids of each row.
            max_new_tokens: longest answer.
            soft_prompts: for each row the model of the bank whose soft prompt it stands behind; by default the first.
            stop: texts that end an answer, beside that token; they are cut off.
            sampling: goes to transformers' `generate`.
        """
        if not prompts:
            raise ValueError("empty batch")
        how = {"max_new_tokens": max_new_tokens, "do_sample": False} | sampling
        texts = self._answers(prompts, list(soft_prompts or [0] * len(prompts)), stop, how)
        return [before(text, stop) for text in texts]

    def _answers(
        self, prompts: Sequence[Sequence[int]], owners: Sequence[int], stop: Sequence[str], how: dict[str, Any]
    ) -> list[str]:
        if kind_of(self.base.config) == "encoder-decoder":
            return self._answer_encoded(prompts, owners, stop, how)
        with self.prompts_cached():
            states = {k: self._cached_states(k) for k in dict.fromkeys(owners)}
            longest = max(map(positions_of, states.values())) + max(len(ids) for ids in prompts) + how["max_new_tokens"]
            if longest <= window_of(self.base):
                behind = {k: [tuple(p) for p, o in zip(prompts, owners, strict=True) if o == k] for k in states}
                heads = {k: common_head(texts) for k, texts in behind.items()}
                fronts = {k: self._cached_states(k, behind[k][0][:head]) for k, head in heads.items()}
                rest = [ids[heads[k] :] for ids, k in zip(prompts, owners, strict=True)]
                return self._generate(rest, [fronts[k] for k in owners], stop, how)
        # A layer that looks back so many positions counts the padding, too: rows of one length need none.
        rows = [states[k] for k in owners]
        texts: dict[int, str] = {}
        for length in sorted({len(ids) for ids in prompts}):
            chosen = [i for i, ids in enumerate(prompts) if len(ids) == length]
            written = self._generate([prompts[i] for i in chosen], [rows[i] for i in chosen], stop, how)
            texts |= dict(zip(chosen, written, strict=True))
        return [texts[i] for i in range(len(prompts))]

    def _answer_encoded(
        self, prompts: Sequence[Sequence[int]], owners: Sequence[int], stop: Sequence[str], how: dict[str, Any]
    ) -> list[str]:
        """An encoder-decoder reads soft prompt and text in both directions: PEFT's own generation."""
        texts: dict[int, str] = {}
        for k in dict.fromkeys(owners):
            chosen = [i for i, owner in enumerate(owners) if owner == k]
            batch = pad([Document(tuple(prompts[i]), (0,)) for i in chosen], self.device)
            model: Any = self.bank[self.owners[k][0]]
            # PEFT would go on with a soft prompt that is switched off.
            model = self.base if getattr(model, "_adapters_disabled", False) else model
            written = model.generate(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                stopping_criteria=StoppingCriteriaList([StopAt(self.tokenizer, stop, 1)] if stop else []),
                **how,
            )
            texts |= dict(zip(chosen, self.tokenizer.batch_decode(written, skip_special_tokens=True), strict=True))
        return [texts[i] for i in range(len(prompts))]

    def _generate(
        self,
        prompts: Sequence[Sequence[int]],
        rows: Sequence[States | None],
        stop: Sequence[str],
        how: dict[str, Any],
    ) -> list[str]:
        virtual = max(positions_of(row) for row in rows)
        width = virtual + max(len(ids) for ids in prompts)
        # Tokens whose keys and values are in the cache already are not read: the padding there only keeps their place.
        ids = torch.full((len(prompts), width), self.tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for index, (text, row) in enumerate(zip(prompts, rows, strict=True)):
            ids[index, width - len(text) :] = torch.tensor(text)
            mask[index, width - len(text) :] = 1
            mask[index, virtual - positions_of(row) : virtual] = 1
        cache = side_by_side(rows, virtual) if virtual else None
        with hidden_states_in_one_piece(self.model):
            return decode(self.base, self.tokenizer, ids.to(self.device), mask.to(self.device), cache, stop, how)


def _tasks_of(model: Any) -> Sequence[int | None]:
    """Return the numbers of a model's tasks, each with a soft prompt of its own; [None] where it has but one."""
    config = model.active_peft_config if isinstance(model, PeftModel) else None
    return range(config.num_tasks or 1) if isinstance(config, MultitaskPromptTuningConfig) else [None]
