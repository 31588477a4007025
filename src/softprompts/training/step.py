"""One training step: micro-batches of similar size, exact weights, clipped gradients, and checks in the first step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from softprompts.config.sections import TrainingConfig
from softprompts.encoding.documents import Document
from softprompts.engine.padded import Scores
from softprompts.errors import UserError
from softprompts.models.sharding.gradients import clip_gradients, exchange_gradients
from softprompts.models.sharding.layers import most_anywhere
from softprompts.models.sharding.tensors import Part
from softprompts.system.memory import one_line_if_memory_is_full
from softprompts.training.state import Candidate
from softprompts.training.teacher import Teacher, distillation

import numpy
import torch
from accelerate import Accelerator
from torch import nn

# If gradients are infinite at this scale, they stay infinite: a loss scaler would skip steps and halve its scale for
# ever.
LEAST_LOSS_SCALE = 1.0


def update(
    wrapped: nn.Module, batches: Sequence[tuple[Candidate, Sequence[Document]]], accelerator: Accelerator
) -> list[float]:
    """Make one optimizer step for each candidate on its rows; return each one's mean loss per target token, in nats.

    The candidates share only the forward passes and the random numbers of their dropout. The loss of a candidate
    reaches only its own parameters, and has its own scale in float16. The loss is the mean over the target tokens of
    its rows; micro-batches and processes do not change it. If the loss or its gradient is not finite, the function
    returns that number, and the candidate does not change. A loss scaler skips single steps with infinite gradients.
    `Candidate.record_update` records the step, and sets the learning rate of the next one.

    `dropout_seed` seeds the dropout, so a resumed run draws the same numbers as an uninterrupted one. Together with
    other candidates, or with other micro-batches, a candidate draws different numbers than alone.

    Raises:
        UserError: in its first step a candidate received no gradient, or the base model received one; memory is full.
    """
    rows = [document for _, documents in batches for document in documents]
    # A soft prompt belongs to one candidate, which may have several.
    number = {d.soft_prompt: i for i, (_, documents) in enumerate(batches) for d in documents}
    targets = torch.zeros(len(batches), device=accelerator.device)
    for document in rows:
        targets[number[document.soft_prompt]] += len(document.target_ids)
    sharded = getattr(wrapped, "sharded", False)
    totals = torch.zeros_like(targets)
    parts, counted = _passes(rows, batches[0][0].training.micro_batch_tokens, accelerator, sharded)
    dropouts = [module for candidate, _ in batches for module in candidate.dropouts]
    torch.manual_seed(dropout_seed([candidate for candidate, _ in batches], accelerator.process_index))
    for index, documents in enumerate(parts):
        last = index == len(parts) - 1
        with (
            one_line_if_memory_is_full("in an update", _less_memory(documents, batches[0][0].training)),
            nullcontext() if last or sharded else accelerator.no_sync(wrapped),
            training_mode(dropouts),
        ):
            scores = wrapped(documents)
            owners = torch.tensor([number[d.soft_prompt] for d in documents], device=accelerator.device)
            owner = owners[scores.document]
            each = token_losses(scores, documents, batches[0][0].teacher, accelerator)
            losses = torch.zeros_like(targets).index_add(0, owner, each / targets[owner])
            if index >= counted:
                losses = 0 * losses
            totals += losses.detach()
            if not losses.requires_grad:
                raise UserError(
                    "no trainable parameter receives a gradient at step 0: the loss does not depend on any of them"
                )
            # Data parallelism averages the gradients of the processes, but the loss is a sum over all their rows.
            # accelerator.backward would divide by its own number of accumulated steps, and supports only one scale.
            (_scaled(losses, [c for c, _ in batches]).sum() * accelerator.num_processes).backward()
    totals = accelerator.reduce(totals, "sum")
    if sharded:
        for candidate, _ in batches:
            exchange_gradients(candidate.parameters)
    losses_now = zip(batches, totals.tolist(), strict=True)
    return [_step(candidate, loss) for (candidate, _), loss in losses_now]


def _passes(
    rows: Sequence[Document], most_tokens: int | None, accelerator: Accelerator, sharded: bool
) -> tuple[list[list[Document]], int]:
    """Return the micro-batches of this process, and how many of them count.

    All processes gather sharded layers at the same time, so all must make the same number of passes. A process that
    has finished reads its last row again; these passes do not count.
    """
    shares = share_out(rows, accelerator.num_processes)
    parts = micro_batches(shares[accelerator.process_index], most_tokens)
    most = max(len(micro_batches(share, most_tokens)) for share in shares) if sharded else len(parts)
    return parts + [parts[-1][-1:]] * (most - len(parts)), len(parts)


def token_losses(
    scores: Scores, documents: Sequence[Document], teacher: Teacher | None, accelerator: Accelerator
) -> torch.Tensor:
    """Return the loss of each target token, (T,), in nats: its NLL, or with a teacher the loss of `distillation`."""
    if teacher is None:
        return scores.nll()
    with accelerator.autocast():  # as accelerate does around the student's forward pass
        said = teacher.logits(documents)
    return distillation(scores, said, teacher.weights(scores, documents), teacher.temperature)


def dropout_seed(candidates: Sequence[Candidate], process: int) -> int:
    """Return the seed of a step's random numbers; it differs between seeds, steps and processes."""
    # The number of candidates makes the list unambiguous: a seed sequence reads missing numbers as zeros.
    numbers = [process, len(candidates), *(n for c in candidates for n in (c.seed, c.progress.step))]
    return int(numpy.random.SeedSequence(numbers).generate_state(1, numpy.uint64)[0])


def _less_memory(documents: Sequence[Document], training: TrainingConfig) -> str:
    """Return advice for a forward and backward pass over these documents that does not fit into memory."""
    tokens = sum(len(d.input_ids) for d in documents)
    if len(documents) == 1:
        return (
            f"training.micro_batch_tokens cannot split a single row, and this one has {tokens} tokens; lower "
            "task.max_length, or set model.gradient_checkpointing"
        )
    now = training.micro_batch_tokens or "not set"
    return f"{len(documents)} rows had {tokens} tokens; set training.micro_batch_tokens (now {now}) to fewer"


def _scaled(losses: torch.Tensor, candidates: Sequence[Candidate]) -> torch.Tensor:
    """Scale the loss of each candidate by its own scaler, if it has one."""
    return torch.stack([c.scaler.scale(loss) if c.scaler else loss for c, loss in zip(candidates, losses, strict=True)])


@contextmanager
def training_mode(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Within this context these modules, for example dropouts, are in training mode."""
    for module in modules:
        module.train()
    try:
        yield
    finally:
        for module in modules:
            module.eval()


def micro_batches(documents: Sequence[Document], most_tokens: int | None) -> list[list[Document]]:
    """Divide documents into few lists of similar size, each with at most `most_tokens` tokens.

    A longer document gets its own list.
    """
    sizes = [len(d.input_ids) for d in documents]
    limit = most_tokens or sum(sizes)
    parts = math.ceil(sum(min(size, limit) for size in sizes) / limit)
    while True:
        shares = share_out(documents, parts)
        if all(len(share) == 1 or sum(len(d.input_ids) for d in share) <= limit for share in shares):
            return shares
        parts += 1


def _step(candidate: Candidate, loss: float) -> float:
    """Clip, step and return the loss; if loss or norm is not finite, return it and do not change the candidate."""
    optimizer, scaler = candidate.optimizer, candidate.scaler
    if not math.isfinite(loss):
        optimizer.zero_grad()
        return loss
    if candidate.progress.step == 0:
        check_gradients(candidate.model, candidate.parameters)
    if scaler is not None:
        scaler.unscale_(optimizer)
    norm = clip_gradients(candidate.parameters, candidate.training.max_grad_norm).item()
    # Infinite gradients are normal for a scaler: it skips the step and lowers its scale.
    if not math.isfinite(norm) and (scaler is None or scaler.get_scale() < LEAST_LOSS_SCALE):
        optimizer.zero_grad()
        return norm
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
        candidate.progress.loss_scale = scaler.state_dict()
    optimizer.zero_grad()
    return loss


def check_gradients(model: nn.Module, moved: Sequence[nn.Parameter] = ()) -> None:
    """Check after the first backward pass that the trainable parameters, and only they, received a gradient.

    Args:
        model: model with trainable and frozen parameters.
        moved: the parameters that the optimizer updates; if weights are sharded, their gradients are here.

    Raises:
        UserError: a parameter fails the check; otherwise a soft prompt might train for hours without an effect.
    """
    parts: dict[Any, Any] = {p.of: p for p in moved if isinstance(p, Part)}
    trainable = {name: parts.get(p, p) for name, p in model.named_parameters() if p.requires_grad}
    # A single gradient may be zero: LoRA's matrix A has none while matrix B is zero.
    something = any(p.grad is not None and p.grad.any() for p in trainable.values())
    nothing = not (most_anywhere(int(something), next(iter(parts)).device) if parts else something)
    for name, parameter in trainable.items():
        if nothing or parameter.grad is None:
            raise UserError(f"{name} receives no gradient at step 0: training would not change it")
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad and parameter.grad is not None:
            raise UserError(f"{name} is frozen but received a gradient")


def share_out(documents: Sequence[Document], parts: int) -> list[list[Document]]:
    """Divide documents into `parts` lists with similar numbers of tokens; each list keeps the documents' order.

    The longest document comes first, and each goes to the list with the fewest tokens so far. The largest list has at
    most 4/3 of the tokens of the best division (Graham 1969).
    """
    shares: list[list[int]] = [[] for _ in range(parts)]
    tokens = [0] * parts
    for index in sorted(range(len(documents)), key=lambda i: -len(documents[i].input_ids)):
        emptiest = tokens.index(min(tokens))
        shares[emptiest].append(index)
        tokens[emptiest] += len(documents[index].input_ids)
    return [[documents[i] for i in sorted(share)] for share in shares]
