"""Stock PEFT's results, one unpadded row at a time, and their differences from the library's.

It shares no code with the library: it reads token ids, and checks separately that these are the right ones.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drawn import Drawn
from softprompts.encoding.documents import EncodedTask, Example
from softprompts.engine.forward import Engine
from softprompts.engine.generation import generate
from softprompts.evaluation.predict import Outcome
from softprompts.models.loading import Kind

import torch
from peft import PeftModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

NEW_TOKENS = 6
TOLERANCE = 1e-4
TIE = 1e-3  # closer logits or scores may change places by rounding


@dataclass
class Reference:
    """Stock PEFT on one row at a time. `names` are a classifier's outputs."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    kind: Kind
    drawn: Drawn
    data: EncodedTask
    names: dict[int, str] | None

    def logits(self, read: Sequence[int], written: Sequence[int] = ()) -> torch.Tensor:
        """Return the logits after the prompt, and after each written token: (1 + written, V)."""
        more: dict[str, Any] = {}
        if self.drawn.method == "multitask":
            more["task_ids"] = torch.tensor([self.drawn.task_id])
        if self.kind == "encoder-decoder":
            start = self.model.config.decoder_start_token_id
            more["decoder_input_ids"] = torch.tensor([[start, *written]])
        if self.kind == "decoder":
            more["use_cache"] = True
        ids = torch.tensor([[*read, *written] if self.kind == "decoder" else [*read]])
        output = self.model(input_ids=ids, attention_mask=torch.ones_like(ids), **more).logits
        return output if self.kind == "encoder" else output[0, -1 - len(written) :]

    def score(self, read: Sequence[int], target: Sequence[int]) -> float:
        """Return the log-likelihood of the target tokens, in nats."""
        likelihoods = self.logits(read, target[:-1]).log_softmax(-1)
        return sum(likelihoods[i, token].item() for i, token in enumerate(target))

    def scores(self, example: Example) -> list[float]:
        """Return the log-likelihood of each choice, or of the target without choices."""
        if self.names is not None:
            outputs = self.logits(example.document.prompt_ids)[0].log_softmax(-1)
            numbers = {name: number for number, name in self.names.items()}
            return [outputs[numbers[text.strip()]].item() for text in example.choice_texts]
        documents = example.choices or (example.document,)
        return [self.score(d.prompt_ids, d.target_ids) for d in documents]

    def ends(self, example: Example) -> set[int]:
        """Return the tokens that end an answer: the one that training teaches, and the base model's own."""
        settings = json.loads((Path(self.tokenizer_folder) / "generation_config.json").read_text(encoding="utf-8"))
        own = settings.get("eos_token_id")
        return {example.document.target_ids[-1], *(own if isinstance(own, list) else [] if own is None else [own])}

    @property
    def tokenizer_folder(self) -> str:
        """Folder of the base model."""
        base = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        return str(base.name_or_path)

    def greedy(self, example: Example) -> tuple[list[int], bool]:
        """Return the likeliest tokens up to the end, and whether two tokens were equally likely at any place."""
        written: list[int] = []
        ends, tie = self.ends(example), False
        while len(written) < NEW_TOKENS:
            top = self.logits(example.document.prompt_ids, written)[-1].topk(2)
            tie |= (top.values[0] - top.values[1]).item() < TIE
            if int(top.indices[0]) in ends:
                break
            written.append(int(top.indices[0]))
        return written, tie

    def ids_are_right(self) -> Iterator[str]:
        """Check prompts and choices: no choice begins another one, and each decodes to its text."""
        for (text, _), example in zip(self.drawn.rows, self.data.test, strict=True):
            prompt = self.drawn.prompt.format(text=text)
            if (expected := self.prompt_ids(prompt)) != list(example.document.prompt_ids):
                yield f"prompt ids: {prompt!r} is {example.document.prompt_ids} instead of {expected}"
            if self.kind == "encoder":
                continue
            for one, other in itertools.permutations((d.target_ids for d in example.choices), 2):
                if other[: len(one)] == one:
                    yield f"choices begin one another: {one} and {other} in {example.choice_texts}"
            for text, document in zip(example.choice_texts, example.choices, strict=True):
                # As the tokenizer decodes the text; after a prompt it may begin in the middle of a word.
                back = self.decode(self.tokenize(text.strip())).strip()
                whole = self.decode(document.prompt_ids + document.target_ids)
                if not self.reads(document.target_ids, back) and back not in whole:
                    yield f"choice ids: {text!r} is {document.target_ids}, read as {whole!r}"

    def prompt_ids(self, prompt: str) -> list[int]:
        """Return the tokens of a prompt, with the tokens that the tokenizer adds before it, without those after it."""
        if self.drawn.tokens.chat:
            messages = [{"role": "user", "content": prompt}]
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            return self.tokenize(str(text))
        whole, own = self.tokenizer(prompt).input_ids, self.tokenize(prompt)
        front = {"bos": 1, "both": 1, "sep": 1}.get(self.drawn.tokens.around, 0)
        return whole[:front] + own if self.kind == "decoder" else whole

    def tokenize(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    def reads(self, ids: Sequence[int], text: str) -> bool:
        """Return whether the tokens, with or without an end token, decode to the text."""
        return text.strip() in (self.decode(ids).strip(), self.decode(ids[:-1]).strip())

    def scores_agree(self, outcome: Outcome) -> Iterator[str]:
        """Compare the loss, each choice's score and the chosen one."""
        total, count = 0.0, 0
        for example, prediction in zip(self.data.test, outcome.predictions, strict=True):
            expected = self.scores(example)
            target = expected[example.choice_texts.index(example.row.target) if example.choices else 0]
            total, count = total - target, count + len(example.document.target_ids)
            if prediction.scores is None:
                continue
            if not all(map(_near, prediction.scores, expected)):
                yield f"scores: {prediction.scores} instead of {expected} for {example.choice_texts}"
            first, *others = sorted(expected, reverse=True)
            best = example.choice_texts[expected.index(first)]
            if prediction.prediction != best and not (others and first - others[0] < TIE):
                yield f"decision: {prediction.prediction!r} instead of {best!r}, scores {expected}"
        if not _near(outcome.loss, total / count):
            yield f"loss: {outcome.loss} instead of {total / count}"

    def answers_agree(self, outcome: Outcome) -> Iterator[str]:
        """Compare generated answers, including special tokens."""
        for example, prediction in zip(self.data.test, outcome.predictions, strict=True):
            ids, tie = self.greedy(example)
            text = self.decode(ids)
            if prediction.prediction.strip() != text.strip() and not tie:
                yield f"answer: {prediction.prediction!r} instead of {text!r} = {ids}"

    def targets_come_back(self, engine: Engine, said: str) -> Iterator[str]:
        """Make the model write each target's tokens, and compare the decoded text with the library's."""
        lost = []
        for example in self.data.test:
            document = example.document
            with _writing(engine.base, document.target_ids):
                tokens = len(document.target_ids) + 2
                text = generate(engine, [document.prompt_ids], tokens, soft_prompts=[document.soft_prompt])[0]
            if text.strip() != example.row.target.strip():
                lost.append(f"{text!r} instead of {example.row.target!r}")
        warning = re.search(r"cannot reproduce (\d+) of", said)
        splits = 3  # of the same rows
        if len(lost) * splits != (warned := int(warning[1]) if warning else 0):
            yield f"targets do not come back: {lost}, {len(lost) * splits} in all, and the warning says {warned}"


@contextlib.contextmanager
def _writing(base: Any, ids: Sequence[int]) -> Iterator[None]:
    """Within this context a model's likeliest tokens are these, one after another, then always the last one."""
    left = iter(ids)

    def hook(_: Any, __: Any, logits: torch.Tensor) -> torch.Tensor:
        if not logits.numel():
            return logits
        forced = torch.full_like(logits, -1e4)
        forced[..., next(left, ids[-1])] = 1e4
        return forced

    handle = base.get_output_embeddings().register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _near(found: float, expected: float) -> bool:
    return abs(found - expected) <= TOLERANCE * max(1.0, abs(expected))
