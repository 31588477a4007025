"""One update: micro-batches of equal size, exact weights, clipped gradients, and the checks of the first step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from softprompts.batching import Document, share_out
from softprompts.candidates import Candidate
from softprompts.engine import Scores
from softprompts.errors import UserError

import torch
from accelerate import Accelerator
from torch import nn


def update(
    wrapped: nn.Module, batches: Sequence[tuple[Candidate, Sequence[Document]]], accelerator: Accelerator
) -> list[float]:
    """Make one optimizer step for each candidate on its rows; return each one's mean loss a target token, in nats.

    The candidates share the forward passes and nothing else: the loss of each reaches its own parameters only. It is
    the mean over the target tokens of its rows, however they are shared out over micro-batches and processes. Where
    loss or gradient is not finite, that number is returned and the candidate stays as it is.

    Raises:
        UserError: at a candidate's first step, where it receives no gradient, or the base does.
    """
    rows = [document for _, documents in batches for document in documents]
    # A soft prompt belongs to one candidate, which may have several.
    number = {d.soft_prompt: i for i, (_, documents) in enumerate(batches) for d in documents}
    targets = torch.zeros(len(batches), device=accelerator.device)
    for document in rows:
        targets[number[document.soft_prompt]] += len(document.target_ids)
    mine = share_out(rows, accelerator.num_processes)[accelerator.process_index]
    totals = torch.zeros_like(targets)
    parts = micro_batches(mine, batches[0][0].training.micro_batch_tokens)
    dropouts = [module for candidate, _ in batches for module in candidate.dropouts]
    if dropouts:  # drawn by seed, step and process, so that a resumed run draws what an uninterrupted one does
        first = batches[0][0]
        torch.manual_seed(hash((first.seed, first.progress.step, accelerator.process_index)))
    for index, documents in enumerate(parts):
        last = index == len(parts) - 1
        with nullcontext() if last else accelerator.no_sync(wrapped), training_mode(dropouts):
            scores = Scores(*wrapped(documents))
            owners = torch.tensor([number[d.soft_prompt] for d in documents], device=accelerator.device)
            owner = owners[scores.document]
            losses = torch.zeros_like(targets).index_add(0, owner, scores.nll() / targets[owner])
            totals += losses.detach()
            if not losses.requires_grad:
                raise UserError("nothing receives a gradient at step 0: the loss does not depend on what trains")
            # Data parallelism averages the gradients of the processes, the loss is a sum over all of their rows.
            accelerator.backward(losses.sum() * accelerator.num_processes)
    totals = accelerator.reduce(totals, "sum")
    losses_now = zip(batches, totals.tolist(), strict=True)
    return [_step(candidate, loss, accelerator) for (candidate, _), loss in losses_now]


@contextmanager
def training_mode(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Within this context these modules, dropouts say, act as in training."""
    for module in modules:
        module.train()
    try:
        yield
    finally:
        for module in modules:
            module.eval()


def micro_batches(documents: Sequence[Document], most_tokens: int | None) -> list[list[Document]]:
    """Part documents into as few lists as hold at most `most_tokens` each, of about as many tokens.

    A document that is longer by itself makes a list of its own.
    """
    sizes = [len(d.input_ids) for d in documents]
    limit = most_tokens or sum(sizes)
    parts = math.ceil(sum(min(size, limit) for size in sizes) / limit)
    while True:
        shares = share_out(documents, parts)
        if all(len(share) == 1 or sum(len(d.input_ids) for d in share) <= limit for share in shares):
            return shares
        parts += 1


def _step(candidate: Candidate, loss: float, accelerator: Accelerator) -> float:
    """Clip, step, return the loss; or leave the candidate alone and return what is not finite."""
    optimizer = candidate.optimizer
    if not math.isfinite(loss):
        optimizer.zero_grad()
        return loss
    if candidate.progress.step == 0:
        check_gradients(candidate.model)
    norm = accelerator.clip_grad_norm_(candidate.parameters, candidate.training.max_grad_norm)
    # A gradient scaler (float16) meets infinite gradients by design, and skips the update by itself.
    if accelerator.scaler is None and norm is not None and not torch.isfinite(norm):
        optimizer.zero_grad()
        return norm.item()
    optimizer.step()
    candidate.scheduler.step()
    optimizer.zero_grad()
    return loss


def check_gradients(model: nn.Module) -> None:
    """Check after the first backward pass that all that trains received a gradient, and nothing else did.

    Raises:
        UserError: names the parameter. A soft prompt without gradient would train to no effect, for hours.
    """
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    # One alone may be zero: LoRA's matrix A at first, behind a matrix B of zeros.
    nothing = not any(p.grad is not None and p.grad.any() for p in trainable.values())
    for name, parameter in trainable.items():
        if nothing or parameter.grad is None:
            raise UserError(f"{name} receives no gradient at step 0: it would never move")
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad and parameter.grad is not None:
            raise UserError(f"{name} is frozen but received a gradient")
