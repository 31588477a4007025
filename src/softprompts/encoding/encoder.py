"""Tokenize many texts at a time, if the ids are the same as for each text alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from itertools import chain

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

# Between a visible character and a space. No tokenizer treats `\w` or visible ASCII as white space.
BOUNDARY = re.compile(r"(?<=[\w!-~])(?= )")
GOOD = r"[\w!-~]\Z"  # the end of a word: a space after it is a boundary
# Some patterns join a line break to a mark such as a full stop, but none to a letter.
END = re.compile(rf"{BOUNDARY.pattern}|(?<=[^\W_])(?=\n)")
# The patterns by which GPT-4 and Llama 3, and Qwen, split a text first. That of GPT-2 is `ByteLevel` itself.
KNOWN_PATTERNS = tuple(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    + digits
    + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    for digits in ("{1,3}", "")
)
REMEMBERED = 2**18  # pieces of texts
LONGEST = 64  # most characters of a remembered piece; a text without a space is one piece


class Encoder:
    """Tokenize texts in one of three ways with the same ids.

    `is_batched` is true if it avoids the slow work of `transformers` around each text, by the tokenizer's backend or in
    pieces. Many tokenizers always split a text before a space, and tokenize each piece alone. These pieces are words,
    which occur again and again, so their ids are remembered.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, sample: Sequence[str], remembered: int = REMEMBERED) -> None:
        """Choose the way by a sample of texts. A faster way must give the same ids as the tokenizer.

        The ids of at most `remembered` pieces are kept.
        """
        self.tokenizer, self.remembered = tokenizer, remembered
        self._own: Callable[[Sequence[str]], list[list[int]]] | None = None  # ids without marks, by a faster way
        self._marks: tuple[list[int], list[int]] | None = None  # before each text and after it; None if unknown
        self._forget()
        if not getattr(tokenizer, "is_fast", False):
            return
        alone = [tokenizer(text, add_special_tokens=False).input_ids for text in sample]
        marked = [tokenizer(text).input_ids for text in sample]  # this also sets padding and truncation of the backend
        ways = [self._backend, *([self._in_pieces] if _parts_at_spaces(tokenizer) else [])]
        self._own = next((way for way in reversed(ways) if way(sample) == alone), None)
        if self._own and self._backend(sample, special=True) == marked:
            self._marks = _marks(int(tokenizer.num_special_tokens_to_add()), marked, alone)
        else:
            self._own = None

    @property
    def is_batched(self) -> bool:
        """Whether ids are made by a faster way than text by text."""
        return self._own is not None

    @property
    def is_in_pieces(self) -> bool:
        """Whether ids are made in pieces. The ids of a text then depend only on the `tail` of the text before it."""
        return self._own == self._in_pieces

    def _backend(self, texts: Sequence[str], special: bool = False) -> list[list[int]]:
        found = self.tokenizer.backend_tokenizer.encode_batch_fast(list(texts), add_special_tokens=special)
        return [encoding.ids for encoding in found]

    def _in_pieces(self, texts: Sequence[str]) -> list[list[int]]:
        if sum(map(len, (self._pieces, self._first, self._words))) > self.remembered:
            self._forget()
        return [self._of_text(text) for text in texts]

    def _of_text(self, text: str) -> list[int]:
        first, *words = text.split(" ")
        try:  # most texts are words with single spaces between them, which is quickly found
            return list(chain(self._first[first], chain.from_iterable(map(self._words.__getitem__, words))))
        except KeyError:
            return list(chain.from_iterable(map(self._pieces.__getitem__, BOUNDARY.split(text))))

    def _forget(self) -> None:
        self._pieces = _Known(self._backend)
        self._words = _Known(self._backend, " ", GOOD)
        self._first = _Known(self._backend, "", GOOD)
        self._first[""] = ()

    def ids(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        """Return the ids of each text, with the special tokens that the tokenizer puts around it or without."""
        if self._own is None:
            return [self.tokenizer(text, add_special_tokens=special).input_ids for text in texts]
        if not special:
            return self._own(texts)
        if self._marks is None:
            return self._backend(texts, special=True)
        front, closing = self._marks
        own = self._own(texts)
        return [front + ids + closing for ids in own] if front or closing else own

    def open_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of texts that continue: without the end or separator that some tokenizers add to every text.

        `_added` handles empty texts, and texts that begin with the tokens that the tokenizer would add.
        """
        whole = self.ids(texts, special=True)
        unsure = list(range(len(texts)))
        closing = 0
        if self._marks is not None:
            front, closing = map(len, self._marks)
            unsure = [n for n, ids in enumerate(whole) if len(ids) <= front + closing or ids[front] in ids[:front]]
        opened = [ids[: len(ids) - closing] for ids in whole] if closing else list(whole)
        for n, own in zip(unsure, self.ids([texts[n] for n in unsure], special=False), strict=True):
            opened[n] = whole[n][: len(whole[n]) - _added(whole[n], own)[1]]
        return opened

    def closing(self, text: str) -> int:
        """Return the number of tokens that the tokenizer adds after a text."""
        (whole,), (own,) = (self.ids([text], special) for special in (True, False))
        return _added(whole, own)[1]

    def tail(self, text: str) -> str:
        """Return the end of a text. Only this part affects the tokens of a following text."""
        at = len(text)
        while (at := max(text.rfind(" ", 0, at), text.rfind("\n", 0, at))) > 0:
            if END.match(text, at):
                return text[at:]
        return text


class _Known(dict[str, tuple[int, ...]]):
    """Ids of texts after a prefix, made at their first access. A text that does not fit is a `KeyError`."""

    def __init__(self, ids: Callable[[list[str]], list[list[int]]], prefix: str = "", fits: str = "") -> None:
        super().__init__()
        self._ids, self._prefix, self._fits = ids, prefix, re.compile(fits)

    def __missing__(self, text: str) -> tuple[int, ...]:
        if not self._fits.search(text):
            raise KeyError(text)
        (ids,) = self._ids([self._prefix + text])
        return self.setdefault(text, tuple(ids)) if len(text) <= LONGEST else tuple(ids)


def _added(ids: list[int], own: list[int]) -> tuple[int, int]:
    """Return the number of ids that the tokenizer added before a text's own ids, and after them."""
    front = next((i for i in range(len(ids) - len(own) + 1) if ids[i : i + len(own)] == own), None)
    return (0, 0) if front is None else (front, len(ids) - front - len(own))


def _marks(count: int, marked: list[list[int]], alone: list[list[int]]) -> tuple[list[int], list[int]] | None:
    """Return the ids before and after every text, `count` in all; None if they differ between texts."""
    pairs = list(zip(marked, alone, strict=True))
    found = []
    for front in range(count + 1):
        closing = count - front
        around = {(tuple(ids[:front]), tuple(ids[len(ids) - closing :])) for ids in marked}
        if len(around) == 1 and all(ids[front : len(ids) - closing] == own for ids, own in pairs):
            found += [(list(a), list(b)) for a, b in around]
    return found[0] if len(found) == 1 else None


def _parts_at_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a tokenizer always splits a text at a `BOUNDARY`, and tokenizes each part alone."""
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    model, steps = parts["model"], parts["pre_tokenizer"] or {}
    steps = steps["pretokenizers"] if steps.get("type") == "Sequence" else [steps]
    return (
        parts["normalizer"] is None
        and model["type"] == "BPE"
        and not model.get("dropout")
        and any(map(_splits_at_spaces, steps))
        and all(_splits_at_spaces(s) or s.get("type") in ("Digits", "ByteLevel") for s in steps)
        and not any(s.get("add_prefix_space") for s in steps)
        and not any(
            t["lstrip"] or t["rstrip"] or t["single_word"] or re.search(r"\s", t["content"])
            for t in parts["added_tokens"]
        )
    )


def _splits_at_spaces(step: dict[str, object]) -> bool:
    if step.get("type") == "ByteLevel":
        return bool(step["use_regex"])
    known = [{"Regex": pattern} for pattern in KNOWN_PATTERNS]
    return step.get("type") == "Split" and step["pattern"] in known and step["behavior"] == "Isolated"
