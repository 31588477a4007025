"""The random choices of the parity fuzzer: model, tokenizer, adapter, rows, labels, settings of generation."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

from bases import TYPES, WORDS, Tokens, draw_tokens

LABELS: list[list[str] | dict[str, str]] = [
    ["positive", "negative"],
    ["Java", "JavaScript"],
    ["C", "C++", "C#"],
    [str(n) for n in range(1, 13)],
    ["A", "A+", "B"],
    ["no", "not sure", "no, not sure", "yes"],
    ["billing", "billing dispute"],
    ["Positive", "positive"],
    ["good", "good "],
    ["👍", "👎"],
    ["电影", "naïve", "größer"],
    ["<sep>", "good<sep>fine"],
    ["negative", "negative!"],
    ["good", "good</s>", "</s>"],
    {"1": "bad", "2": "bad", "3": "good"},
    {"positive": "good", "negative": "bad", "not sure": "good film"},
]
TARGETS = [
    "good",
    "good<sep>fine",
    '{"a": 1}',
    "bad\nfilm",
    "yes, no",
    "don't",
    "<think> yes",
    "电影",
    "Java </s> C",
    "1",
]
# Each changes the output of stock transformers; a greedy evaluation uses only the end tokens.
GENERATION: dict[str, list[Any]] = {
    "use_cache": [False],
    "cache_implementation": ["static", "dynamic"],
    "repetition_penalty": [1.05, 3.0],
    "encoder_repetition_penalty": [3.0],
    "num_beams": [2, 3],
    "early_stopping": [True],
    "length_penalty": [2.0],
    "forced_bos_token_id": [6],
    "forced_eos_token_id": [7],
    "suppress_tokens": [list(range(8, 60))],
    "begin_suppress_tokens": [list(range(8, 70))],
    "bad_words_ids": [[[n] for n in range(8, 60)]],
    "sequence_bias": [[[[12], 50.0]]],
    "min_length": [100],
    "min_new_tokens": [4],
    "max_length": [3],
    "max_new_tokens": [1],
    "no_repeat_ngram_size": [1],
    "do_sample": [True],
    "num_return_sequences": [1, 2],
    "temperature": [5.0],
    "top_k": [2],
    "typical_p": [0.5],
    "guidance_scale": [2.0],
    "exponential_decay_length_penalty": [[1, 3.0]],
    "prompt_lookup_num_tokens": [2],
    "stop_strings": [["a", "e"]],
    "renormalize_logits": [True],
    "return_dict_in_generate": [True],
    "output_scores": [True],
    "bos_token_id": [11],
    "pad_token_id": [12],
    "eos_token_id": [2, 13, [2, 14, 15], list(range(20, 60)), None],
}


@dataclass
class Drawn:
    """One case. `labels` is None if answers are generated."""

    tokens: Tokens
    model_type: str
    method: str
    labels: list[str] | dict[str, str] | None
    rows: list[tuple[str, str]]
    prompt: str
    space: str
    generation: dict[str, Any] | None
    settings: dict[str, Any]
    extra: int
    positions: int
    engine: Any
    batch: int
    task_id: int
    said: list[str] = field(default_factory=list)


def draw(rng: random.Random) -> Drawn:
    """Draw a case."""
    model_type = rng.choice([*TYPES, "t5", "t5", "bert", "roberta"])
    tokens = draw_tokens(rng)
    if model_type == "qwen2":  # AutoTokenizer uses Qwen's tokenizer for it, and ignores the saved one
        tokens = replace(tokens, kind="byte-level")
    if model_type == "roberta":  # it counts positions from the padding's id
        tokens = replace(tokens, pad=True)
    encoder = model_type in ("bert", "roberta")
    labels = rng.choice(LABELS) if encoder or rng.random() < 0.5 else None
    targets = TARGETS[:1] + rng.sample(TARGETS, 3) if labels is None else list(labels)
    texts = [" ".join(rng.choices(WORDS, k=rng.choice([1, 2, 5, 12, 20]))) for _ in range(5)]
    names = rng.sample(sorted(GENERATION), rng.choice([1, 1, 2, 4]))
    generation = {name: rng.choice(GENERATION[name]) for name in names}
    if generation.get("num_return_sequences") == 2:  # transformers does not load a model with two greedy answers
        generation["do_sample"] = True
    config = {} if encoder or rng.random() < 0.8 else {"use_cache": False}
    return Drawn(
        tokens=tokens,
        model_type=model_type,
        method=rng.choice(["none", "prompt", "prefix", "p-tuning", "lora", "multitask"]),
        labels=labels,
        rows=[(text, rng.choice(targets)) for text in texts],
        prompt=rng.choice(["{text} sentiment", "{text}\nSentiment:", "{text}", "the {text} is"]),
        space="" if tokens.chat else rng.choice([" ", " ", ""]),
        generation=generation if rng.random() < 0.6 else None,
        settings=config,
        extra=rng.choice([0, 0, 0, 0, 0, 5, -3]),
        positions=rng.choice([512, 512, 512, 60]),
        engine=rng.choice(["auto", "auto", "stock"]),
        batch=rng.choice([1, 2, 3, 5]),
        task_id=rng.randrange(3),
    )
