"""The forward pass: a model with any PEFT method, and documents, give logits at the target positions only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from softprompts.engine.attention import make_layout, packed
from softprompts.engine.batches import common_head, pack
from softprompts.engine.decoding import decode, stock_decode
from softprompts.engine.kv_cache import States, one_behind_the_other, positions_of, states_in
from softprompts.engine.padded import hidden_states_in_one_piece, logits_at, stock_forward
from softprompts.engine.prompt_cache import PromptCache
from softprompts.models.loading import kind_of, max_positions, own_ends, position_table
from softprompts.models.windows import window_of
from softprompts.tasks.documents import Document
from softprompts.tasks.endings import before, read_answer

import torch
from peft import MultitaskPromptTuningConfig, PeftModel
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

    `bank` holds more soft prompts over the same base, to be computed side by side: document i stands behind number
    `documents[i].soft_prompt` of all soft prompts, those of the first model coming first. A model has one, but for
    multitask prompt tuning, which has one for each task.

    `packed` says which way: PEFT's own, for forward pass and generation alike, or the one of this project. `ends` are
    the token ids that end an answer; `build.make_engine` puts those of the task there. It also finds out whether the
    base model `reads_padding`, as an FNet does: then only rows of one length are read together.

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
        taught = getattr(tokenizer, "eos_token_id", None)
        self.ends: tuple[int, ...] = own_ends(self.base) if taught is None else (taught, *own_ends(self.base))
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
        groups = [(d.soft_prompt, self._read_with(d.prompt_ids)) for d in documents]
        for group in dict.fromkeys(groups):
            chosen = [index for index, other in enumerate(groups) if other == group]
            number, task = self.owners[group[0]]
            arguments = {} if task is None else {"task_ids": torch.full((len(chosen),), task, device=self.device)}
            together = [documents[index] for index in chosen]
            logits, targets, document = stock_forward(self.bank[number], together, self.device, **arguments)
            parts.append((logits, targets, torch.tensor(chosen, device=self.device)[document]))
        if len(parts) == 1:
            return parts[0]
        logits, targets, document = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        order = torch.argsort(document, stable=True)
        return logits[order], targets[order], document[order]

    def _read_with(self, prompt_ids: Sequence[int]) -> int:
        """Return what rows have to have in common to be read side by side: their length, or nothing."""
        return len(prompt_ids) if self.reads_padding else 0

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

    def virtual_tokens(self, index: int) -> int:
        """Return the positions that a soft prompt takes, (P,); 0 without one, or with one that is switched off."""
        model = self.bank[self.owners[index][0]]
        if not isinstance(model, PeftModel) or model._adapters_disabled:
            return 0
        config = model.active_peft_config
        return int(config.num_virtual_tokens) if config.is_prompt_learning else 0

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
        """Continue each prompt until one of the tokens in `ends`; greedily, unless `sampling` says otherwise.

        Special tokens inside an answer are part of its text. A model with a table of learned positions stops at its
        last one.

        Args:
            prompts: token ids of each row.
            max_new_tokens: longest answer.
            soft_prompts: for each row the model of the bank whose soft prompt it stands behind; by default the first.
            stop: texts that end an answer, beside that token; they are cut off.
            sampling: fields of transformers' `GenerationConfig`; nothing else decides, see `decoding.own_settings`.
        """
        how = {"max_new_tokens": max_new_tokens} | sampling
        answers = self.answers(prompts, list(soft_prompts or [0] * len(prompts)), stop, how)
        return [before(read_answer(self.tokenizer, ids, self.ends), stop) for ids in answers]

    def answers(
        self, prompts: Sequence[Sequence[int]], owners: Sequence[int], stop: Sequence[str], how: dict[str, Any]
    ) -> list[list[int]]:
        """Return the token ids of each answer, without its end; the arguments are those of `generate`."""
        if not prompts:
            raise ValueError("empty batch")
        positions = max_positions(self.base) if position_table(self.base) is not None else None
        if kind_of(self.base.config) == "encoder-decoder":
            most = how["max_new_tokens"] if positions is None else min(how["max_new_tokens"], positions)
            return self._stock_answers(prompts, owners, stop, how | {"max_new_tokens": most})
        write = self._shared_answers if self.packed else self._stock_answers
        virtual = {k: self.virtual_tokens(k) for k in dict.fromkeys(owners)}
        longest = max(virtual[k] + len(ids) for ids, k in zip(prompts, owners, strict=True)) + how["max_new_tokens"]
        if longest <= min(window_of(self.base), math.inf if positions is None else positions):
            return write(prompts, owners, stop, how)
        # Padding counts in a layer that looks back so many positions, and a longer row would use up the positions of a
        # shorter one: rows of one length have neither.
        found: dict[int, list[int]] = {}
        lengths = [(virtual[k], len(ids)) for ids, k in zip(prompts, owners, strict=True)]
        for length in dict.fromkeys(lengths):
            chosen = [i for i, other in enumerate(lengths) if other == length]
            # The last token that is written is not read.
            room = math.inf if positions is None else positions - sum(length) + 1
            some = how | {"max_new_tokens": int(min(how["max_new_tokens"], max(room, 1)))}
            written = write([prompts[i] for i in chosen], [owners[i] for i in chosen], stop, some)
            found |= dict(zip(chosen, written, strict=True))
        return [found[i] for i in range(len(prompts))]

    def _stock_answers(
        self, prompts: Sequence[Sequence[int]], owners: Sequence[int], stop: Sequence[str], how: dict[str, Any]
    ) -> list[list[int]]:
        """PEFT's own generation, one call for each soft prompt."""
        answers: dict[int, list[int]] = {}
        groups = [(k, self._read_with(ids)) for k, ids in zip(owners, prompts, strict=True)]
        for group in dict.fromkeys(groups):
            chosen = [i for i, other in enumerate(groups) if other == group]
            number, task = self.owners[group[0]]
            model: Any = self.bank[number]
            # PEFT would go on with a soft prompt that is switched off.
            off = isinstance(model, PeftModel) and model._adapters_disabled
            arguments = {} if task is None or off else {"task_ids": torch.tensor([task], device=self.device)}
            rows = [prompts[i] for i in chosen]
            written = stock_decode(
                self.base if off else model,
                self.base,
                self.tokenizer,
                rows,
                stop,
                self.ends,
                how,
                self.device,
                **arguments,
            )
            answers |= dict(zip(chosen, written, strict=True))
        return [answers[i] for i in range(len(prompts))]

    def _shared_answers(
        self, prompts: Sequence[Sequence[int]], owners: Sequence[int], stop: Sequence[str], how: dict[str, Any]
    ) -> list[list[int]]:
        """Compute the keys and values of the soft prompts, and of what all texts behind one begin with, once.

        They are cached in front of all rows; text is padded on the left, and its positions follow its soft prompt's
        without a gap. PEFT's own `generate` counts the padding in, so that its answers depend on the batch.
        """
        window = window_of(self.base)
        with self.prompts_cached():
            behind = {k: [tuple(p) for p, o in zip(prompts, owners, strict=True) if o == k] for k in owners}
            longest = {k: self.virtual_tokens(k) + max(map(len, texts)) for k, texts in behind.items()}
            # A layer that looks back so few positions would keep the end of a head only.
            fits = max(longest.values()) + how["max_new_tokens"] <= window
            heads = {k: common_head(texts) if fits else 0 for k, texts in behind.items()}
            fronts = [self._cached_states(k, behind[k][0][: heads[k]]) for k in owners]
            rest = [ids[heads[k] :] for ids, k in zip(prompts, owners, strict=True)]
            with hidden_states_in_one_piece(self.model):
                return decode(self.base, self.tokenizer, rest, fronts, stop, self.ends, how)


def _tasks_of(model: Any) -> Sequence[int | None]:
    """Return the numbers of a model's tasks, each with a soft prompt of its own; [None] where it has but one."""
    config = model.active_peft_config if isinstance(model, PeftModel) else None
    return range(config.num_tasks or 1) if isinstance(config, MultitaskPromptTuningConfig) else [None]
