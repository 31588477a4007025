"""Tiny random base models with tokenizers of every kind, from settings that a fuzzer draws."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from made_models import ARCHITECTURES, COMMON
from softprompts.models.loading import AUTO, kind_of

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

TEXT = (
    "the film was a very and plot cast sentiment is of good great fine lovely bad awful dull poor positive negative "
    "not sure no yes Java JavaScript C C++ 1 2 3 10 11 12 A A+ billing dispute : , . ? | {} [] naïve größer 电影"
)
WORDS = TEXT.split()
CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Models with another name in the list of architectures, and models that the list lacks.
MORE: dict[str, dict[str, Any]] = {"roberta": {}, "gpt2": {"n_positions": 128}}
TYPES = ("llama", "llama", "gpt2", "qwen2", "gpt_neox", "gemma2", "opt", "bloom", "mistral", "gpt_neo", "phi", "falcon")


@dataclass(frozen=True)
class Tokens:
    """A tokenizer. `around` are the tokens that it puts around every text; `added` were added after its training."""

    kind: Literal["byte-level", "metaspace", "wordpiece"] = "byte-level"
    bos: bool = True
    eos: bool = True
    pad: bool = True
    around: Literal["nothing", "bos", "eos", "both", "sep"] = "bos"
    added: tuple[str, ...] = ()
    special: tuple[str, ...] = ()
    lowercase: bool = False
    clean_up: bool = False
    padding_side: str = "right"
    chat: bool = False


def draw_tokens(rng: random.Random) -> Tokens:
    """Draw a tokenizer; half of them have no peculiarity."""
    if rng.random() < 0.3:
        return Tokens(rng.choice(["byte-level", "metaspace"]))
    return Tokens(
        kind=rng.choice(["byte-level", "metaspace", "wordpiece"]),
        bos=rng.random() < 0.7,
        eos=rng.random() < 0.8,
        pad=rng.random() < 0.6,
        around=rng.choice(["nothing", "bos", "eos", "both", "sep"]),
        added=("<think>", "negative!")[: rng.randrange(3)],
        special=("<sep>",)[: rng.randrange(2)],
        lowercase=rng.random() < 0.3,
        clean_up=rng.random() < 0.3,
        padding_side=rng.choice(["left", "right"]),
        chat=rng.random() < 0.25,
    )


def make_tokenizer(tokens: Tokens) -> PreTrainedTokenizerFast:
    """Train a tokenizer on a few words."""
    known = ["<pad>", "<s>", "</s>", "<unk>", "[CLS]", "[SEP]", "<|im_start|>", "<|im_end|>"]
    more: dict[str, Any] = {"special_tokens": known, "show_progress": False}
    if tokens.kind == "byte-level":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer: Any = trainers.BpeTrainer(vocab_size=380, initial_alphabet=alphabet, **more)
    elif tokens.kind == "metaspace":
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=160, unk_token="<unk>", **more)
    else:
        made = Tokenizer(models.WordPiece(unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=260, **more)
    if tokens.lowercase:
        made.normalizer = normalizers.Lowercase()
    made.train_from_iterator([" ".join(WORDS), " ".join(reversed(WORDS))] * 5, trainer)
    parts = {"nothing": "$A", "bos": "<s> $A", "eos": "$A </s>", "both": "<s> $A </s>", "sep": "[CLS] $A [SEP]"}
    named = [(token, made.token_to_id(token)) for token in ("<s>", "</s>", "[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single=parts[tokens.around], special_tokens=named)
    names = {"bos_token": ("<s>", tokens.bos), "eos_token": ("</s>", tokens.eos), "pad_token": ("<pad>", tokens.pad)}
    names |= {key: (token, tokens.around == "sep") for key, token in (("cls_token", "[CLS]"), ("sep_token", "[SEP]"))}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="<unk>",
        clean_up_tokenization_spaces=tokens.clean_up,
        padding_side=tokens.padding_side,
        **{key: token for key, (token, wanted) in names.items() if wanted},
    )
    if tokens.added:
        fast.add_tokens(list(tokens.added))
    special = [*tokens.special, *(["<|im_start|>", "<|im_end|>"] if tokens.chat else [])]
    if special:
        fast.add_special_tokens({"additional_special_tokens": special})
    if tokens.chat:
        fast.chat_template = CHAT
    return fast


def save_base(
    folder: Path,
    model_type: str,
    tokenizer: PreTrainedTokenizerFast,
    seed: int = 0,
    rows: int = 0,
    positions: int = 128,
    generation: dict[str, Any] | None = None,
    **settings: Any,
) -> None:
    """Save a tiny random model with a tokenizer.

    Args:
        folder: the model's new folder.
        model_type: the type's name in transformers.
        tokenizer: its tokenizer.
        seed: seed of the weights.
        rows: number of embedding rows in addition to the tokenizer's tokens; negative for fewer.
        positions: length of the longest text.
        generation: content of generation_config.json; by default transformers makes it from the config.
        settings: settings of the model's config.
    """
    kind = CONFIG_MAPPING[model_type]
    known = {*kind().to_dict(), *kind.attribute_map}
    common = COMMON | {
        "vocab_size": len(tokenizer) + rows,
        "max_position_embeddings": positions,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    own = MORE[model_type] if model_type in MORE else ARCHITECTURES[model_type][1]
    config = kind(**{key: value for key, value in common.items() if key in known} | own | settings)
    if model_type == "t5":
        config.decoder_start_token_id = config.pad_token_id or 0
    torch.manual_seed(seed)
    model = AUTO[kind_of(config)].from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # biases of 0 and scales of 1 would not show whether they are used
                parameter.normal_(parameter.mean().item(), 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
