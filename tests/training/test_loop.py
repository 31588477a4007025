"""The training loop: changed and unchanged weights, equivalent settings, and how it stops."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from helpers import Build, load_base, losses, run_training
from softprompts.encoding.documents import Document
from softprompts.engine.forward import Engine
from softprompts.errors import UserError
from softprompts.evaluation.predict import Outcome, predict
from softprompts.training import loop as training_module
from softprompts.training.state import batch_order

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook


def digest(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    total = hashlib.sha256()
    for name, tensor in sorted(tensors):
        total.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "muon"])
@pytest.mark.parametrize("mode", ["packed", "stock"])
def test_the_loss_goes_down(make: Build, optimizer: str, mode: str) -> None:
    parts = make(mode=mode, optimizer=optimizer, steps=15, eval_every=15, learning_rate=0.1, schedule="constant")
    progress = run_training(parts)
    curve = losses(progress.history)
    assert (progress.step, len(curve)) == (15, 15)
    assert sum(curve[-3:]) < 0.85 * sum(curve[:3])
    first, last = (e["validation_loss"] for e in progress.history if "validation_loss" in e)
    assert last < first


@pytest.mark.parametrize(
    ("schedule", "warmup", "shares"),
    [
        ("linear", 2, [0, 1 / 2, 1, 3 / 4, 2 / 4, 1 / 4]),
        ("cosine", 0, [(1 + math.cos(math.pi * n / 6)) / 2 for n in range(6)]),
        ("constant", 0, [1] * 6),
        ("constant", 2, [0, 1 / 2, 1, 1, 1, 1]),
        ("constant_with_warmup", 2, [0, 1 / 2, 1, 1, 1, 1]),
        ("constant", 5, [n / 5 for n in range(6)]),
    ],
)
def test_the_history_has_the_rate_of_each_step_and_every_schedule_warms_up(
    make: Build, schedule: str, warmup: int, shares: list[float]
) -> None:
    used: list[float] = []
    handle = register_optimizer_step_pre_hook(lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"]))
    history = run_training(make(schedule=schedule, warmup_steps=warmup, learning_rate=0.04)).history
    handle.remove()
    assert used == pytest.approx([0.04 * share for share in shares])
    assert [entry["lr"] for entry in history if "lr" in entry] == used


def test_the_prompt_moves_and_the_base_does_not(make: Build, tiny_model: Path) -> None:
    parts = make()
    prompt, base = parts.prompt(), parts.model.get_base_model()
    before = digest(base.state_dict().items())
    run_training(parts)
    assert (parts.prompt() != prompt).any(dim=1).all(), "every virtual token moves"
    assert digest(base.state_dict().items()) == before
    original = load_base(tiny_model)[0]
    assert digest(original.state_dict().items()) == before
    ids = torch.tensor([[0, 9, 17, 30, 4]])
    with torch.inference_mode():
        expected = original(ids).logits
        assert not torch.equal(parts.model(ids).logits[:, -5:], expected)
        with parts.model.disable_adapter():
            assert torch.equal(parts.model(ids).logits, expected)
        assert torch.equal(base(ids).logits, expected)
    assert {n for n, p in parts.engine.named_parameters() if p.grad is not None} <= {
        "bank.0.prompt_encoder.default.embedding.weight"
    }


@pytest.mark.parametrize("mode", ["packed", "stock"])
def test_one_batch_of_8_equals_micro_batches(make: Build, mode: str) -> None:
    def curve(size: int | None) -> tuple[list[float], torch.Tensor]:
        parts = make(f"{mode}-{size}", mode=mode, micro_batch_tokens=size, steps=6, eval_every=6)
        return losses(run_training(parts).history), parts.prompt()

    whole, prompt = curve(None)
    for size in (1, 40, 10_000):
        accumulated, moved = curve(size)
        assert accumulated == pytest.approx(whole, rel=1e-5)
        torch.testing.assert_close(moved, prompt, rtol=1e-3, atol=1e-4)


def test_packed_and_stock_train_alike_for_50_steps(make: Build) -> None:
    settings: dict[str, Any] = {"steps": 50, "eval_every": 25, "learning_rate": 0.02}
    parts = {mode: make(mode, mode=mode, **settings) for mode in ("packed", "stock")}
    curves = {mode: losses(run_training(p).history) for mode, p in parts.items()}
    assert len(curves["packed"]) == 50
    assert curves["packed"] == pytest.approx(curves["stock"], rel=1e-3)
    torch.testing.assert_close(parts["packed"].prompt(), parts["stock"].prompt(), rtol=1e-2, atol=1e-3)
    assert curves["packed"][-1] < 0.9 * curves["packed"][0]


def test_a_loss_is_the_mean_over_the_target_tokens_of_its_rows(make: Build) -> None:
    parts = make(steps=1, eval_every=1)
    rows = [parts.data.train[i].document for i in next(batch_order(40, 8, parts.run.seed))]
    with torch.inference_mode():
        expected = parts.engine(rows).nll().mean().item()
    progress = run_training(parts)
    assert losses(progress.history) == pytest.approx([expected], rel=1e-5)
    assert progress.tokens == sum(len(d.input_ids) for d in rows)


def test_the_same_run_twice_is_the_same_to_the_last_bit(make: Build) -> None:
    first, second = make("first"), make("second")
    assert run_training(first).history == run_training(second).history
    assert torch.equal(first.prompt(), second.prompt())


@pytest.mark.parametrize("factor", [0.0, None])
def test_a_prompt_without_gradient_is_found_at_the_first_step(
    make: Build, factor: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = make(mode="packed")
    original = Engine.soft_prompt

    def detached(engine: Engine, index: int) -> torch.Tensor:
        prompt = original(engine, index)
        assert prompt is not None
        return prompt.detach() if factor is None else prompt.detach() + factor * prompt

    monkeypatch.setattr(Engine, "soft_prompt", detached)
    with pytest.raises(UserError, match=r"(receives no|parameter receives a) gradient at step 0"):
        run_training(parts)


def test_a_base_that_receives_a_gradient_is_found_at_the_first_step(
    make: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = make()
    weight = parts.model.get_input_embeddings().weight
    original = Engine.forward

    def leaks(engine: Engine, documents: list[Document]) -> tuple[torch.Tensor, ...]:
        weight.grad = torch.zeros_like(weight)
        return original(engine, documents)

    monkeypatch.setattr(Engine, "forward", leaks)
    with pytest.raises(UserError, match=r"embed_tokens.weight is frozen but received a gradient$"):
        run_training(parts)


def test_nothing_to_train_is_an_error(make: Build) -> None:
    parts = make()
    parts.model.requires_grad_(False)
    with pytest.raises(UserError, match=r"^nothing to train"):
        run_training(parts)


@pytest.mark.parametrize(
    ("best_by", "values", "best"),
    [("loss", [3.0, 1.0, 2.0, 5.0], 2), ("accuracy", [0.3, 0.4, 0.9, 0.9], 4), ("loss", [3.0, 2.0, 1.5, 1.0], 6)],
)
def test_the_best_checkpoint_is_restored_not_the_last(
    make: Build, best_by: str, values: list[float], best: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = make(steps=6, eval_every=2, best_by=best_by)
    remaining, prompts = iter(values), []

    def scripted(*arguments: Any, **more: Any) -> Outcome:
        prompts.append(parts.prompt())
        outcome = predict(*arguments, **more)
        return Outcome(outcome.predictions, next(remaining) if best_by == "loss" else outcome.loss)

    monkeypatch.setattr(training_module, "predict", scripted)
    if best_by == "accuracy":
        monkeypatch.setattr(training_module, "compute_metrics", lambda *_: {"accuracy": next(remaining)})
    progress = run_training(parts)
    assert progress.best_step == best
    assert progress.best_value == max(values if best_by == "accuracy" else [-v for v in values])
    assert torch.equal(parts.prompt(), prompts[best // 2])
    assert not any(torch.equal(parts.prompt(), p) for i, p in enumerate(prompts) if i != best // 2)
    kept = sorted(p.name for p in parts.run.checkpoints.iterdir())
    assert kept == sorted({f"step-{best:06d}", "step-000004", "step-000006"}), "the one before the last as well"


def test_validation_never_sees_test_rows(make: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = make(eval_rows=5)
    seen: set[str] = set()

    def watch(engine: Engine, examples: list[Any], *more: Any, **named: Any) -> Outcome:
        seen.update(e.row.place for e in examples)
        return predict(engine, examples, *more, **named)

    monkeypatch.setattr(training_module, "predict", watch)
    run_training(parts)
    assert seen == {e.row.place for e in parts.data.validation[:5]}
