"""Every way to tokenize several texts gives the ids of each text alone."""

from __future__ import annotations

import random
from typing import Any

from made_tokenizers import byte_level, metaspace_bytes, unigram, wordpiece, words
from softprompts.encoding.encoder import BOUNDARY, KNOWN_PATTERNS, Encoder

import pytest
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers, processors

TEXTS = ["the film was good", "a very dull cast .\nSentiment:"]
# Characters that patterns distinguish: spaces of all kinds, line breaks, signs, digits, letters, marks.
PARTS = [*"aZ9._-'’“,!…—", "good", "'s", " ", "  ", "\n", "\r\n", "\t", "\x85", "\xa0", "\u2028", "\u200b", "\u3000"]
PARTS += ["é", "e\u0301", "電影", "ไทย", "👍🏽", "²", "</s>", " </s> ", "1 000", "\u180e", "\x1f"]


def split_at(pattern: str) -> Any:
    tokenizer = byte_level()
    steps = [
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return tokenizer


def marked() -> Any:
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A </s>", special_tokens=[("</s>", 0)]
    )
    return tokenizer


def drawn_texts(count: int) -> list[str]:
    generator = random.Random(0)
    return ["".join(generator.choices(PARTS, k=generator.randrange(12))) for _ in range(count)]


MADE: dict[str, tuple[Any, bool]] = {
    "GPT-2": (byte_level, True),
    "Llama 3": (lambda: split_at(KNOWN_PATTERNS[0]), True),
    "Qwen": (lambda: split_at(KNOWN_PATTERNS[1]), True),
    "with marks": (marked, True),
    "another pattern": (lambda: split_at(r".|\n"), False),
    "Llama 2": (metaspace_bytes, False),
    "T5": (unigram, False),
    "BERT": (wordpiece, False),
    "words": (lambda: words("<x>"), False),
}


@pytest.mark.parametrize("name", MADE)
def test_ids_are_those_of_each_text_alone(name: str) -> None:
    make, in_pieces = MADE[name]
    tokenizer = make()
    texts = [*dict.fromkeys(drawn_texts(3000))]
    encoder, alone = Encoder(tokenizer, TEXTS), Encoder(tokenizer, TEXTS)
    alone._own = alone._marks = None
    assert (encoder.is_batched, encoder.is_in_pieces, alone.is_batched) == (True, in_pieces, False)
    for special in (True, False):
        assert encoder.ids(texts, special) == alone.ids(texts, special)
    assert encoder.open_ids(texts) == alone.open_ids(texts)
    assert [encoder.closing(text) for text in texts[:50]] == [alone.closing(text) for text in texts[:50]]


@pytest.mark.parametrize("name", [name for name, (_, in_pieces) in MADE.items() if in_pieces])
def test_the_tail_of_a_text_decides_on_what_follows(name: str) -> None:
    tokenizer = MADE[name][0]()
    encoder = Encoder(tokenizer, TEXTS)
    shorter = 0
    for text, behind in zip(drawn_texts(3000), [" good", "good", "\n", " ", "'s"] * 600, strict=True):
        tail = encoder.tail(text)
        shorter += len(tail) < len(text)
        own, whole = (tokenizer(t, add_special_tokens=False).input_ids for t in (text, text + behind))
        of_tail, of_both = (tokenizer(t, add_special_tokens=False).input_ids for t in (tail, tail + behind))
        assert own[: len(own) - len(of_tail)] + of_both == whole, repr((text, behind))
    assert shorter > 500


def test_what_looks_beyond_a_piece_is_not_parted() -> None:
    token = {"special": True, "normalized": False}
    for added in (AddedToken("a b", **token), AddedToken("<r>", rstrip=True, **token)):
        tokenizer = byte_level()
        tokenizer.add_tokens([added])
        assert not Encoder(tokenizer, TEXTS).is_in_pieces
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    assert not Encoder(tokenizer, TEXTS).is_in_pieces
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    assert not Encoder(tokenizer, TEXTS).is_in_pieces


def test_a_tokenizer_with_rules_of_its_own_is_asked_text_by_text(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = byte_level()
    original = type(tokenizer).__call__

    def lower(self: Any, text: str, add_special_tokens: bool = True) -> Any:
        return original(self, text.replace("good", "bad"), add_special_tokens=add_special_tokens)

    monkeypatch.setattr(type(tokenizer), "__call__", lower)
    encoder = Encoder(tokenizer, TEXTS)
    assert not encoder.is_batched
    assert encoder.ids(["good"], special=False) == [original(tokenizer, "bad").input_ids]


def test_pieces_are_parts_of_the_text() -> None:
    assert BOUNDARY.split("a film,  good \n then") == ["a", " film,", "  good", " \n then"]
