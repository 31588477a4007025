"""Token ids of texts: many at a time, if that gives what the tokenizer gives for each alone."""

from __future__ import annotations

from collections.abc import Sequence

from transformers.tokenization_utils_base import PreTrainedTokenizerBase


class Encoder:
    """Tokenizes texts. `is_batched` says whether it does so with the tokenizer's backend, many at a time.

    That saves what `transformers` does around each text, and takes all cores.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, sample: Sequence[str]) -> None:
        """Look at a sample of texts: the backend is used only if it gives the very ids of the tokenizer for them."""
        self.tokenizer = tokenizer
        self.is_batched = False
        self._front: int | None = None  # marks in front of each text, if that is the same for all
        alone = {special: self.ids(sample, special) for special in (True, False)}
        if tokenizer.is_fast:  # after a call of it, which sets padding and truncation of the backend
            self.is_batched = all(self._batch(sample, special) == ids for special, ids in alone.items())
        self._marks = int(tokenizer.num_special_tokens_to_add()) if self.is_batched else 0
        pairs = list(zip(alone[True], alone[False], strict=True))
        fronts = [f for f in range(self._marks + 1) if all(w[f : f + len(own)] == own for w, own in pairs)]
        if self.is_batched and len(fronts) == 1:
            self._front = fronts[0]

    def _batch(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        found = self.tokenizer.backend_tokenizer.encode_batch_fast(list(texts), add_special_tokens=special)
        return [encoding.ids for encoding in found]

    def ids(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        """Return the ids of each text, with the special tokens that the tokenizer puts around it or without."""
        if self.is_batched:
            return self._batch(texts, special)
        return [self.tokenizer(text, add_special_tokens=special).input_ids for text in texts]

    def open_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of texts that go on: without what some tokenizers put behind every text, an end or a separator.

        What is put around a text is the same for all, unless a text begins with such a token itself.
        """
        whole = self.ids(texts, special=True)
        front = self._front
        unsure = list(range(len(texts)))
        if front is not None:
            unsure = [n for n, ids in enumerate(whole) if len(ids) <= self._marks or ids[front] in ids[:front]]
        closing = 0 if front is None else self._marks - front
        open_ = [ids[: len(ids) - closing] for ids in whole] if closing else list(whole)
        for n, own in zip(unsure, self.ids([texts[n] for n in unsure], special=False), strict=True):
            open_[n] = whole[n][: len(whole[n]) - _added(whole[n], own)[1]]
        return open_

    def closing(self, text: str) -> int:
        """Return how many tokens the tokenizer puts behind a text that stands alone."""
        (whole,), (own,) = (self.ids([text], special) for special in (True, False))
        return _added(whole, own)[1]


def _added(ids: list[int], own: list[int]) -> tuple[int, int]:
    """Return how many of the ids of a text are put in front of its own and behind them."""
    front = next((i for i in range(len(ids) - len(own) + 1) if ids[i : i + len(own)] == own), None)
    return (0, 0) if front is None else (front, len(ids) - front - len(own))
