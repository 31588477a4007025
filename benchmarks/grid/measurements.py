"""Further measurements of a trained method: sampled predictions, forgetting, transfer, and the time of a request."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from softprompts.config.sections import EvaluationConfig
from softprompts.encoding.documents import Document, Example
from softprompts.engine.forward import Engine
from softprompts.engine.generation import generate
from softprompts.evaluation.predict import answers_and_targets, document_losses, predict
from softprompts.metrics.scoring import Metric, compute_metrics

import torch
from accelerate import Accelerator


def sampled(
    engine: Engine,
    examples: Sequence[Example],
    metrics: dict[str, Metric],
    evaluation: EvaluationConfig,
    temperature: float = 0.7,
    draws: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """Sample several predictions per row; return the metrics' mean over the draws, and how often two draws agree.

    `agreement` is the share of all pairs of draws of a row that are the same text. Sampling uses the whole
    distribution, without top-k or top-p.
    """
    prompts = [e.document.prompt_ids for e in examples]
    soft_prompts = [e.document.soft_prompt for e in examples]
    targets = [e.row.target.strip() for e in examples]
    rows = evaluation.batch_size
    drawn: list[list[str]] = []
    with torch.inference_mode(), engine.prompts_cached():
        for draw in range(draws):
            torch.manual_seed(seed * draws + draw)
            texts: list[str] = []
            for start in range(0, len(prompts), rows):
                part = slice(start, start + rows)
                how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
                texts += generate(
                    engine,
                    prompts[part],
                    evaluation.max_new_tokens,
                    soft_prompts=soft_prompts[part],
                    stop=evaluation.stop,
                    **how,
                )
            drawn.append([text.strip() for text in texts])
    numbers = [compute_metrics(metrics, texts, targets) for texts in drawn]
    return {
        "temperature": temperature,
        "draws": draws,
        "rows": len(examples),
        "metrics": {name: mean(n[name] for n in numbers) for name in numbers[0]},
        "agreement": mean(agreement(drawn)),
        "agreement_by_row": agreement(drawn),
        "answers": drawn,
        "targets": targets,
    }


def agreement(drawn: Sequence[Sequence[str]]) -> list[float]:
    """Return the share of equal pairs of draws of each row. `drawn` has a list of texts per draw."""
    return [mean(a == b for a, b in itertools.combinations(row, 2)) for row in zip(*drawn, strict=True)]


@dataclass(frozen=True)
class Score:
    """A number that is a quotient of sums over rows: "loss", nats per token, or "accuracy".

    sums: a row's nats, or 1 if it is right; counts: its tokens, or 1.
    """

    metric: str
    sums: list[float]
    counts: list[int]

    @property
    def value(self) -> float:
        return math.fsum(self.sums) / sum(self.counts)


@torch.inference_mode()
def losses_of(engine: Engine, documents: Sequence[Document], batch_size: int = 32) -> Score:
    """Return the loss of documents behind their soft prompts."""
    sums: list[float] = []
    with engine.prompts_cached():
        for start in range(0, len(documents), batch_size):
            sums += document_losses(engine, documents[start : start + batch_size]).double().tolist()
    return Score("loss", sums, [len(d.target_ids) for d in documents])


def text_loss(engine: Engine, texts: Sequence[str]) -> Score:
    """Return the loss of plain texts behind the engine's first soft prompt.

    The first token of each is only read. Texts of a single token are left out.
    """
    ids = [engine.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    return losses_of(engine, [Document((i[0],), tuple(i[1:])) for i in ids if len(i) > 1])


def score_on(engine: Engine, examples: Sequence[Example], evaluation: EvaluationConfig) -> Score:
    """Return the accuracy on a task with choices, otherwise the loss of the targets."""
    if not examples[0].choices:
        return losses_of(engine, [e.document for e in examples], evaluation.batch_size)
    outcome = predict(engine, examples, evaluation, Accelerator(), "another task")
    right = [float(a == t) for a, t in zip(*answers_and_targets(outcome.predictions), strict=True)]
    return Score("accuracy", right, [1] * len(right))


def transferred(
    engine: Engine, examples: Sequence[Example], metrics: dict[str, Metric], evaluation: EvaluationConfig
) -> dict[str, Any]:
    """Return the metrics of rows that the method was not trained on, and the predictions."""
    outcome = predict(engine, examples, evaluation, Accelerator(), "other rows")
    answers, targets = answers_and_targets(outcome.predictions)
    found = {"rows": len(examples), "metrics": compute_metrics(metrics, answers, targets)}
    return found | {"answers": answers, "targets": targets}


@torch.inference_mode()
def latency(engine: Engine, examples: Sequence[Example], new_tokens: int = 32) -> dict[str, float]:
    """Time single requests, one at a time. Nothing is cached between them.

    Returns:
        Medians over the rows: prompt_tokens read as text, first_token_ms, answer_ms of `new_tokens` tokens.
    """
    prompts = [e.document.prompt_ids for e in examples]
    generate(engine, prompts[:1], 2)  # the first call includes PyTorch's own set-up

    def milliseconds(prompt: Sequence[int], tokens: int) -> float:
        started = time.perf_counter()
        generate(engine, [prompt], tokens, min_new_tokens=tokens)
        return 1000 * (time.perf_counter() - started)

    return {
        "rows": float(len(prompts)),
        "new_tokens": float(new_tokens),
        "prompt_tokens": float(median(len(p) for p in prompts)),
        "first_token_ms": median(milliseconds(p, 1) for p in prompts),
        "answer_ms": median(milliseconds(p, new_tokens) for p in prompts),
    }
