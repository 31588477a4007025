"""Count the necessary work of a training step and the work that is wasted, and measure the machine's speed.

The useful work of a step, in multiply-add flops, for n tokens of text in D documents of L tokens each, p virtual
tokens that go through the model, t targets, and prompts or prefixes of P positions:

    linear layers      4 * N * (n + p)       N weights, frozen: forward 2, gradient of the input 2
                       6 * N * n             full fine-tuning: with the gradient of the weights
                       + 6 * N_lora * n      LoRA's own matrices
    output embedding   4 * V * H * t         6 * V * H * t for full fine-tuning; at the targets only
    attention          12 * layers * heads * head_dim * pairs

p is the number of virtual tokens, counted once per batch, in prompt tuning and P-tuning, and 0 in other methods,
because a prefix is keys and values only. pairs is the sum of L * (L + 1) / 2 + P * L over the documents, and in
addition P * (P + 1) / 2 if virtual tokens are also queries. P-tuning's small encoder, norms and optimizer are not
counted.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from softprompts.encoding.documents import Document
from softprompts.engine.batches import pack, pad

import torch
from torch import nn


@dataclass(frozen=True)
class Method:
    """A method and its batch.

    `kind` is prompt, prefix, p_tuning, lora or full. `virtual` is the number of virtual tokens; `batch` that of rows.
    """

    kind: str
    virtual: int = 0
    learning_rate: float = 0.01
    batch: int = 16

    @property
    def queries(self) -> int:
        """The virtual tokens that go through the model like text."""
        return 0 if self.kind == "prefix" else self.virtual


@dataclass(frozen=True)
class Sizes:
    """Weights of a model.

    linear: N; vocabulary: V * H of the output embedding; width: layers * heads * head_dim; lora: N_lora.
    """

    linear: int
    vocabulary: int
    width: int
    lora: int = 0


def sizes_of(base: Any) -> Sizes:
    """Measure a base model without an adapter."""
    head = base.get_output_embeddings()
    linear = sum(m.weight.numel() for m in base.modules() if isinstance(m, nn.Linear) and m is not head)
    config = base.config.get_text_config()
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Sizes(linear, head.weight.numel(), config.num_hidden_layers * config.num_attention_heads * size)


def useful_flops(method: Method, sizes: Sizes, documents: Sequence[Document]) -> float:
    """Return the flops of a step by the formula above."""
    lengths = [len(d.input_ids) for d in documents]
    targets = sum(len(d.target_ids) for d in documents)
    factor = 6 if method.kind == "full" else 4
    linear = factor * sizes.linear * (sum(lengths) + method.queries) + 6 * sizes.lora * sum(lengths)
    pairs = sum(length * (length + 1) / 2 + method.virtual * length for length in lengths)
    pairs += method.queries * (method.queries + 1) / 2
    return linear + factor * sizes.vocabulary * targets + 12 * sizes.width * pairs


def padded_whole(documents: Sequence[Document]) -> torch.Tensor:
    """Return (B, S) token ids as the stock sides read them, including the last target token."""
    # Its own target is never used. It only keeps the last token of the text in the batch.
    whole = [Document(d.prompt_ids + d.target_ids, d.target_ids[-1:]) for d in documents]
    return pad(whole, torch.device("cpu")).input_ids


def positions(method: Method, documents: Sequence[Document]) -> dict[str, int]:
    """Return the number of a batch's positions in the linear layers, packed and in the stock layout."""
    row = torch.from_numpy(pack(documents).input_ids)
    rows = padded_whole(documents)
    return {"engine": len(row) + method.queries, "stock": rows.numel() + method.queries * len(documents)}


def padding_shares(method: Method, batches: Sequence[Sequence[Document]]) -> dict[str, float]:
    """Return the share of wasted positions in the linear layers: computed over needed positions, minus 1.

    Each row of the stock layout has its own virtual tokens, which count as needed positions there.
    """
    shares = {}
    for layout, times in (("engine", [1] * len(batches)), ("stock", [len(batch) for batch in batches])):
        computed = sum(positions(method, batch)[layout] for batch in batches)
        needed = sum(len(d.input_ids) for batch in batches for d in batch) + method.queries * sum(times)
        shares[layout] = computed / needed - 1
    return shares


def matrix_product_rate(size: int = 2048, repeats: int = 8) -> float:
    """Return the flops per second of float32 matrix products on this process's threads: the best of several."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best
