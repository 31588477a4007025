"""Tokenizers of the kinds that real models have, trained quickly on a few words."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = ["the film was good and the plot was bad", "a very dull cast . positive negative 1 2 10"] * 10


def unigram(**special: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer like T5's: pieces with a space mark before a text, `<unk>` for unknown text."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    names = ["<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(
        TEXTS, trainers.UnigramTrainer(vocab_size=120, special_tokens=names, unk_token="<unk>", show_progress=False)
    )
    given = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"} | special
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **given)


def metaspace_bytes(**special: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer like Llama 2's: a space mark before a text, bytes for unknown text."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    names = ["<unk>", "<s>", "</s>", *(f"<0x{number:02X}>" for number in range(256))]
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=380, special_tokens=names, show_progress=False))
    given = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"} | special
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **given)


def byte_level(**special: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer like GPT-2's: bytes, and one token for two line breaks at the end of a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*TEXTS, *["good\n\n"] * 100], trainer)
    given = {"eos_token": "</s>", "pad_token": "</s>"} | special
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **given)


def wordpiece() -> PreTrainedTokenizerFast:
    """Return a tokenizer like BERT's: lower case, `[CLS]` before and `[SEP]` after every text, no end of sequence."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=120, special_tokens=names, show_progress=False)
    )
    ends: Any = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def words(*names: str, **special: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words with only these special tokens, by default without end and padding."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.train_from_iterator(TEXTS, trainers.WordLevelTrainer(special_tokens=["<unk>", *names]))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **special)
