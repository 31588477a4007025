"""Time training steps of prompt tuning on a GPU, with base models of random weights and the sizes of known models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

from benchmarks.gpu.clock import WARM_UP, all_seconds, median_seconds
from benchmarks.throughput.flops import Method, sizes_of, useful_flops
from benchmarks.throughput.sides import SIDES, attach
from softprompts.config.sections import TaskConfig
from softprompts.encoding.documents import Document
from softprompts.encoding.tokenization import encode
from softprompts.engine.forward import Engine
from softprompts.models.bundled import resolve
from softprompts.models.reading import read_tokenizer
from softprompts.tasks.task import load_task

import torch
from transformers import LlamaConfig, LlamaForCausalLM

PROMPT = Method("prompt", 100)


@dataclass(frozen=True)
class Sizes:
    """A base model and its batch.

    Args:
        name: of the model whose sizes these are.
        layers, width, heads, groups, inner: as in its config.json.
        batch: rows per step.
        steps: counted steps.
        prompts: soft prompts of a bank.
    """

    name: str
    layers: int
    width: int
    heads: int
    groups: int
    inner: int
    batch: int = 64
    steps: int = 8
    prompts: int = 16


LLAMA_1B = Sizes("Llama 3.2 1B", 16, 2048, 32, 8, 8192)
LLAMA_8B = Sizes("Llama 3.1 8B", 32, 4096, 32, 8, 14336, batch=32, steps=5)


def base_of(sizes: Sizes, device: torch.device) -> Any:
    """Return a frozen base model of random weights in bfloat16, and the bundled model's tokenizer."""
    folder = resolve("bundled:smollm2-135m-instruct")
    tokenizer = read_tokenizer(folder, None)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes.width,
        intermediate_size=sizes.inner,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.groups,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)  # otherwise a model of 8 billion weights needs 32 GB at first
    try:
        with device:
            base = LlamaForCausalLM(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)
    base.name_or_path = folder  # PEFT reads the tokenizer of the initial text there
    return base, tokenizer


def rows_of(tokenizer: Any, count: int) -> list[Document]:
    """Return training rows of the embedded task docstrings."""
    config = TaskConfig(
        dataset="embedded:docstrings",
        prompt="{signature}\n{description}\nSummary:",
        target=" {summary}",
        max_rows={"train": count, "validation": 1, "test": 1},
    )
    return [example.document for example in encode(load_task(config), tokenizer).train]


def steps(sizes: Sizes, device: torch.device, side: str) -> dict[str, Any]:
    """Return speed and memory of one side: `engine`, `peft` under Trainer, or `trl`."""
    base, tokenizer = base_of(sizes, device)
    rows = rows_of(tokenizer, sizes.batch * (WARM_UP + sizes.steps))
    shape = sizes_of(base)
    seconds, losses = SIDES[side](
        attach(base, tokenizer, PROMPT), tokenizer, rows, replace(PROMPT, batch=sizes.batch), WARM_UP + sizes.steps
    )
    batches = [rows[i : i + sizes.batch] for i in range(WARM_UP * sizes.batch, len(rows), sizes.batch)]
    counted = seconds[WARM_UP:]
    rate = product_rate(device)
    flops = [useful_flops(PROMPT, shape, batch) / s for batch, s in zip(batches, counted, strict=True)]
    tokens = [sum(len(d.input_ids) for d in batch) / s for batch, s in zip(batches, counted, strict=True)]
    return {
        "base": sizes.name,
        "side": side,
        "seconds_per_step": median(counted),
        "tokens_per_second": median(tokens),
        "share_of_product_rate": median(flops) / rate,
        "product_flops": rate,
        "peak_memory_gib": _peak(device),
        "losses": losses,
    }


def bank(sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """Return the seconds of a step of many prompts in one forward pass, and of as many passes of one prompt."""
    base, tokenizer = base_of(sizes, device)
    few = max(1, sizes.batch // sizes.prompts)
    rows = rows_of(tokenizer, few)
    models = [attach(base, tokenizer, PROMPT) for _ in range(sizes.prompts)]
    together = Engine(models[0], tokenizer, packed=True, bank=models[1:])
    alone = [Engine(model, tokenizer, packed=True) for model in models]
    every = [replace(d, soft_prompt=k) for k in range(sizes.prompts) for d in rows]
    one = median_seconds(lambda: _learn(together, every), sizes.steps, device)
    many = median_seconds(lambda: _learn_each(alone, rows), sizes.steps, device)
    return {"base": sizes.name, "prompts": sizes.prompts, "rows_per_prompt": few, "bank": one, "one_by_one": many}


def compiled(sizes: Sizes, device: torch.device, backend: str = "inductor") -> dict[str, Any]:
    """Return the seconds of a step as it is, and with each decoder layer compiled; a failure is its reason."""
    found: dict[str, Any] = {"base": sizes.name}
    for name in ("eager", "compiled"):
        base, tokenizer = base_of(sizes, device)
        engine = Engine(attach(base, tokenizer, PROMPT), tokenizer, packed=True)
        rows = rows_of(tokenizer, sizes.batch)
        try:
            if name == "compiled":
                for layer in base.model.layers:
                    layer.compile(dynamic=True, backend=backend)
            found[name] = median_seconds(partial(_learn, engine, rows), sizes.steps, device)
        except Exception as error:  # of the compiler, of any kind; it is the result of this measurement
            found[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    return found


def product_rate(device: torch.device, size: int = 8192, repeats: int = 20) -> float:
    """Return the FLOP per second of bfloat16 matrix products: the best of several. The size is smaller on a CPU."""
    side = size if device.type == "cuda" else 512
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / min(all_seconds(lambda: left @ right, repeats, device))


def _learn(engine: Engine, rows: Sequence[Document]) -> None:
    engine(rows).nll().mean().backward()
    for parameter in engine.parameters():
        parameter.grad = None


def _learn_each(engines: Sequence[Engine], rows: Sequence[Document]) -> None:
    for engine in engines:
        _learn(engine, rows)


def _peak(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
