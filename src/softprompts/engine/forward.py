"""The forward pass: compute logits at the target positions of documents, for a model with any PEFT method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from softprompts.encoding.documents import Document
from softprompts.engine.attention import LayoutError, follow_layouts
from softprompts.engine.batches import pack
from softprompts.engine.kv_cache import PromptCache, States, one_behind_the_other, positions_of, states_in
from softprompts.engine.layout import lay_out
from softprompts.engine.padded import Scores, logits_at, stock_forward
from softprompts.methods.soft_prompts.context_tuning import training_mask_of
from softprompts.models.loading import own_ends
from softprompts.models.sharding.layers import is_sharded, most_anywhere

import torch
from peft import MultitaskPromptTuningConfig, PeftModel
from torch import nn
from transformers import Cache, DynamicCache
from transformers.tokenization_utils_base import PreTrainedTokenizerBase


class Engine(nn.Module):
    """Run a base model, or PEFT models over it, on documents.

    `bank` has further soft prompts over the same base model, to be computed in one forward pass. Document i follows
    soft prompt number `documents[i].soft_prompt`; the numbers begin with those of the first model. A model has one soft
    prompt, but multitask prompt tuning has one per task.

    `packed` selects the packed way or PEFT's own, for both forward pass and generation. `ends` are the token ids that
    end a prediction; `build.make_engine` sets those of the task. It also finds whether the base model `reads_padding`,
    as FNet does; if so, only rows of one length share a batch. `sharded` says whether processes hold parts of the base
    model's layers. All processes then run these layers equally often.

    It is a module so that accelerate can wrap it for data-parallel training and mixed precision.
    """

    def __init__(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, packed: bool = False, bank: Sequence[Any] = ()
    ) -> None:
        super().__init__()
        self.bank = nn.ModuleList([model, *bank])
        self.tokenizer = tokenizer
        self.packed = packed
        self.reads_padding = False
        self.sharded = is_sharded(model)
        taught = getattr(tokenizer, "eos_token_id", None)
        self.ends: tuple[int, ...] = own_ends(self.base) if taught is None else (taught, *own_ends(self.base))
        self.owners = [(i, task) for i, member in enumerate(self.bank) for task in _tasks_of(member)]
        self._cached: PromptCache | None = None

    def forward(self, documents: Sequence[Document]) -> Scores:
        """Return the logits at the targets of all documents, in their order.

        Raises:
            ValueError: no documents.
            LayoutError: the model's attention does not follow a layout, in a packed forward pass.
            RuntimeError: a packed forward pass requires a gradient within `prompts_cached`.
        """
        return self._packed(documents) if self.packed else self._stock(documents)

    def _packed(self, documents: Sequence[Document]) -> Scores:
        """Compute each soft prompt once, followed by its texts. A text attends causally to the prompt and itself."""
        if self._cached is not None and torch.is_grad_enabled():
            raise RuntimeError("prompts_cached() has no gradient: train outside of it, or evaluate under no_grad()")
        follow_layouts(self.base)
        seen = self.seen(documents)
        batch = pack(documents, None if seen is None else seen.numpy().astype("int64"))
        used = dict.fromkeys(text.soft_prompt for text in batch.texts)
        prompts = {k: self.cached_states(k) or self.soft_prompt(k) for k in used}
        # Embeddings (P, H) are read together with the texts; keys and values are not.
        embedded = [prompt for prompt in prompts.values() if isinstance(prompt, torch.Tensor)]
        states = [prompt for prompt in prompts.values() if isinstance(prompt, list)]
        virtual = {k: positions_of(prompt) for k, prompt in prompts.items()}
        inputs, layout = lay_out(batch, virtual, prompt_queries=bool(embedded), device=self.device)
        embeds = self.model.get_input_embeddings()(inputs.input_ids)  # (N, H)
        if embedded:
            embeds = torch.cat([*(prompt.to(embeds.dtype) for prompt in embedded), embeds])  # (Q, H)
        with logits_at(self.model, inputs.predictors, torch.Size([1, len(inputs.input_ids)])):
            output = self.base(
                inputs_embeds=embeds[None],
                position_ids=inputs.position_ids[None],
                # With four dimensions, so that transformers does not make a mask. Attention with a layout ignores it.
                attention_mask=embeds.new_ones((1, 1, 1, 1), dtype=torch.bool),
                past_key_values=one_behind_the_other(states) if states else None,
                use_cache=False,
                layout=layout,
            )
        if not layout.reached:  # whether the argument arrives depends on the model's own code
            raise LayoutError("the model's layers do not pass further arguments to their attention")
        return Scores(output.logits[0].float(), inputs.targets, inputs.document)

    def _stock(self, documents: Sequence[Document]) -> Scores:
        """Run PEFT's own forward pass once for each soft prompt, which every row repeats."""
        if not documents:
            raise ValueError("empty batch")
        seen = self.seen(documents)
        groups: dict[tuple[int, int], list[int]] = {}
        for index, document in enumerate(documents):
            groups.setdefault((document.soft_prompt, self.read_with(document.prompt_ids)), []).append(index)
        missing = self._missing_passes(len(groups))  # asked before any pass: each puts layers together with the others
        parts = [self._read_together(documents, chosen, seen) for chosen in groups.values()]
        scores = parts[0]
        if len(parts) > 1:
            scores = Scores(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
            order = torch.argsort(scores.document, stable=True)
            scores = Scores(*(tensor[order] for tensor in scores))
        for _ in range(missing):
            spare = self._read_together(documents, [0], seen)
            scores = scores._replace(logits=scores.logits + 0 * spare.logits.sum())
        return scores

    def _read_together(self, documents: Sequence[Document], chosen: Sequence[int], seen: torch.Tensor | None) -> Scores:
        """Return the scores of some documents, given by their numbers, that have one soft prompt."""
        number, task = self.owners[documents[chosen[0]].soft_prompt]
        arguments = {} if task is None else {"task_ids": torch.full((len(chosen),), task, device=self.device)}
        some = None if seen is None else seen[chosen].to(self.device)
        scores = stock_forward(self.bank[number], [documents[i] for i in chosen], self.device, some, **arguments)
        return scores._replace(document=torch.tensor(chosen, device=self.device)[scores.document])

    def _missing_passes(self, own: int) -> int:
        """Return how many more passes another process makes in training, where each has a backward pass to match."""
        one = len(self.owners) == 1 and not self.reads_padding
        return 0 if one or not (self.sharded and torch.is_grad_enabled()) else most_anywhere(own, self.device) - own

    def read_with(self, prompt_ids: Sequence[int]) -> int:
        """Return the key that rows of one batch must share: the length, or 0 if any rows may."""
        return len(prompt_ids) if self.reads_padding else 0

    @property
    def model(self) -> Any:
        """The first model, the only one unless there is a bank."""
        return self.bank[0]

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self.model.get_input_embeddings().weight.device

    @property
    def base(self) -> Any:
        """The model without any adapter's wrapping; LoRA's layers stay in it."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    def soft_prompt(self, index: int) -> torch.Tensor | States | None:
        """Return the virtual tokens' embeddings (P, H), or a prefix's keys and values; None if there is neither."""
        number, task = self.owners[index]
        model: Any = self.bank[number]
        if not has_soft_prompt(model):
            return None
        prompt = model.get_prompt(1, None if task is None else torch.full((1,), task, device=self.device))
        if isinstance(prompt, Cache):
            return states_in(prompt, model.active_peft_config.num_virtual_tokens)
        return prompt[0]

    def seen(self, documents: Sequence[Document]) -> torch.Tensor | None:
        """Return (B, P): the positions of the prefix that each document attends to in a step; None for all."""
        mask = training_mask_of(self.model) if has_soft_prompt(self.model) else None
        return mask(documents) if mask is not None and mask.training else None

    def virtual_tokens(self, index: int) -> int:
        """Return the number of positions of a soft prompt; 0 without one, or if it is switched off."""
        model: Any = self.bank[self.owners[index][0]]
        return int(model.active_peft_config.num_virtual_tokens) if has_soft_prompt(model) else 0

    @contextmanager
    def prompts_cached(self) -> Iterator[None]:
        """Within this context, each soft prompt's keys and values are computed once, at their first use.

        In generation, the keys and values of the texts' common beginning, for example few-shot examples, are cached as
        well. This is for evaluation: a packed forward pass that requires a gradient is an error. Changes of parameters
        or of the active adapter are noticed, see `PromptCache`.
        """
        before = self._cached
        cache = before or PromptCache(list(self.bank))
        self._cached = cache
        try:
            with cache.emptied_by_optimizers():
                yield
        finally:
            self._cached = before

    def cached_states(self, index: int, head: tuple[int, ...] = ()) -> States | None:
        """Return keys and values of a soft prompt and a `head` after it; None without either, or if not cached."""
        if self._cached is None:
            return None
        return self._cached.get(self.owners[index][0], (index, head), lambda: self._states(index, head))

    @torch.no_grad()
    def _states(self, index: int, head: tuple[int, ...]) -> States | None:
        """Return the keys and values of a soft prompt, and of the tokens of `head` after it."""
        table = self.model.get_input_embeddings()
        if head:
            before = self.cached_states(index)
            embeds = table(torch.tensor(head, device=self.device))
        else:
            before, prompt = None, self.soft_prompt(index)
            if not isinstance(prompt, torch.Tensor):
                return prompt
            embeds = prompt.to(table.weight.dtype)
        return keys_and_values(self.base, embeds, before)


@torch.no_grad()
def keys_and_values(base: Any, embeds: torch.Tensor, before: States | None = None) -> States:
    """Return the keys and values of a decoder's layers for embeddings (P, H), including those `before` them."""
    start = positions_of(before)
    cache = one_behind_the_other([before]) if before else DynamicCache()
    nowhere = torch.zeros(0, dtype=torch.long, device=embeds.device)
    with logits_at(base, nowhere, torch.Size([1, len(embeds)])):
        base(
            inputs_embeds=embeds[None],
            position_ids=torch.arange(start, start + len(embeds), device=embeds.device)[None],
            past_key_values=cache,
            use_cache=True,
        )
    return states_in(cache, start + len(embeds))


def has_soft_prompt(model: Any) -> bool:
    """Return whether a model has a soft prompt that is not switched off."""
    if not isinstance(model, PeftModel) or not model.active_peft_config.is_prompt_learning:
        return False
    return bool(model.has_active_enabled_adapter)


def _tasks_of(model: Any) -> Sequence[int | None]:
    """Return the numbers of a model's tasks, each with its own soft prompt; [None] for a single soft prompt."""
    config = model.active_peft_config if isinstance(model, PeftModel) else None
    return range(config.num_tasks or 1) if isinstance(config, MultitaskPromptTuningConfig) else [None]
