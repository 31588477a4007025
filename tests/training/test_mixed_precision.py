"""Float16 mixed precision: each candidate has a loss scale of its own. On a CPU, with PyTorch's autocast and scaler."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers import Build, load_base, losses, prompt_config, run_training, task_config
from softprompts.checkpoints.parameters import trainable_tensors
from softprompts.config.sections import EvaluationConfig, ModelConfig, RunConfig, TrainingConfig
from softprompts.encoding.documents import with_soft_prompt
from softprompts.encoding.tokenization import encode
from softprompts.engine.build import make_engine
from softprompts.errors import UserError
from softprompts.methods.soft_prompts.prompt_tuning import add_soft_prompt
from softprompts.models.loading import InputSpec
from softprompts.runs.run import start_run
from softprompts.tasks.task import load_task
from softprompts.training.checks import check_training
from softprompts.training.loop import train, train_side_by_side
from softprompts.training.state import Candidate, make_candidate

import pytest
import torch
from accelerate import Accelerator
from torch.optim.optimizer import register_optimizer_step_pre_hook

# The learning rates differ; adafactor and adamw step by different code of the scaler's.
TRAINING = [
    TrainingConfig(steps=6, learning_rate=0.05, batch_size=8, eval_every=3),
    TrainingConfig(steps=6, learning_rate=0.02, batch_size=5, eval_every=3, optimizer="adafactor"),
    TrainingConfig(steps=6, learning_rate=0.1, batch_size=3, eval_every=3, schedule="constant"),
]
SCALE = 2.0**14
Bank = Callable[..., list[Candidate]]


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, int], None]:
    """Make runs compute in float16 like accelerate on a GPU, with a loss scale that grows after some steps."""

    def set_up(first: float = SCALE, growth_interval: int = 2) -> None:
        def accelerator(**settings: Any) -> Accelerator:
            made = Accelerator(**settings)
            monkeypatch.setattr(made.state, "_mixed_precision", "fp16")
            made.native_amp = True
            made.scaler = torch.amp.GradScaler("cpu", init_scale=first, growth_interval=growth_interval)
            return made

        monkeypatch.setattr("softprompts.runs.run.Accelerator", accelerator)

    set_up()
    return set_up


@pytest.fixture
def norms() -> Iterator[dict[int, list[float]]]:
    """Collect the norm of the gradients, unscaled and clipped, at every step, by the number of parameters."""
    found: dict[int, list[float]] = {}

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = torch.stack([p.grad.norm() for p in parameters]).norm().item()
        found.setdefault(sum(p.numel() for p in parameters), []).append(norm)

    handle = register_optimizer_step_pre_hook(note)
    yield found
    handle.remove()


@pytest.fixture
def train_bank(tiny_model: Path, tiny_task: Path, tmp_path: Path) -> Bank:
    """Train the candidates of these numbers, of 3, 4 and 5 virtual tokens, side by side."""

    def go(name: str, numbers: Sequence[int] = (0, 1, 2), spoil: tuple[int, int] = (-1, -1)) -> list[Candidate]:
        base, tokenizer = load_base(tiny_model)
        bank = [add_soft_prompt(base, tokenizer, prompt_config(tiny_model, 3 + k), seed=k) for k in numbers]
        data = encode(load_task(task_config(tiny_task)), tokenizer, InputSpec(room=200))
        run = start_run("test", run=RunConfig(str(tmp_path / name), trackers=[]))
        engine = make_engine(
            bank[0], tokenizer, config=ModelConfig(engine="packed"), data=data, say=run.say, bank=bank[1:]
        )
        candidates = [
            make_candidate(
                engine,
                i,
                data=with_soft_prompt(data, i),
                training=TRAINING[k],
                seed=k,
                folder=run.checkpoints / str(i),
                name=f"candidate {k}",
            )
            for i, k in enumerate(numbers)
        ]
        for candidate, k in zip(candidates, numbers, strict=True):
            if k == spoil[0]:
                candidate.parameters[0].register_hook(
                    lambda gradient, c=candidate: gradient * (math.inf if c.progress.step == spoil[1] else 1)
                )
        train_side_by_side(engine, candidates, EvaluationConfig(batch_size=16, bootstrap_resamples=20), run)
        for candidate in candidates:
            candidate.take_best()
        return candidates

    return go


@pytest.mark.usefixtures("scale")
def test_c1_2_a_float16_candidate_moves_beside_others_as_it_does_alone(
    train_bank: Bank, norms: dict[int, list[float]]
) -> None:
    together = train_bank("together")
    found = dict(norms)
    assert [len(steps) for steps in found.values()] == [6, 6, 6]
    assert all(min(steps) > 1e-3 for steps in found.values()), "divided by its scale once"
    norms.clear()
    for k, candidate in enumerate(together):
        (alone,) = train_bank(f"alone {k}", [k])
        assert losses(candidate.progress.history) == pytest.approx(losses(alone.progress.history), rel=1e-2)
        assert candidate.progress.loss_scale == alone.progress.loss_scale
        assert candidate.progress.loss_scale["scale"] == SCALE * 8, "it has grown after every second step"
    for size, steps in norms.items():
        assert found[size] == pytest.approx(steps, rel=3e-2)


@pytest.mark.usefixtures("scale")
def test_c1_2_infinite_gradients_skip_the_step_of_one_candidate_alone(train_bank: Bank) -> None:
    whole, spoilt = train_bank("whole"), train_bank("spoilt", spoil=(1, 2))
    assert [c.failure for c in spoilt] == [None] * 3
    for k in (0, 2):
        assert spoilt[k].progress.history == whole[k].progress.history
        assert spoilt[k].progress.loss_scale == whole[k].progress.loss_scale
    before, after = losses(whole[1].progress.history), losses(spoilt[1].progress.history)
    assert after[:3] == before[:3]
    assert after[3] != before[3]
    assert spoilt[1].progress.loss_scale["scale"] == SCALE * 2, "doubled twice and halved once"


@pytest.mark.usefixtures("scale")
def test_c1_2_a_second_stage_divides_by_the_scale_once(make: Build, norms: dict[int, list[float]]) -> None:
    """As multitask prompt tuning: `train` twice on one engine, whose first optimizer still knows the parameters."""
    parts = make(steps=2, eval_every=2, max_grad_norm=1e9)
    run_training(parts)
    start = trainable_tensors(parts.model)
    norms.clear()
    train(*parts.arguments, stage="second")
    (second,) = norms.values()
    fresh = make("fresh", steps=2, eval_every=2, max_grad_norm=1e9)
    for name, parameter in fresh.model.named_parameters():
        if name in start:
            parameter.data.copy_(start[name])
    norms.clear()
    run_training(fresh)
    (expected,) = norms.values()
    assert expected[0] > 1e-3
    assert second == pytest.approx(expected, rel=1e-4)


def test_c1_2_a_resumed_float16_run_goes_on_with_its_loss_scale(
    make: Build, scale: Callable[[float, int], None]
) -> None:
    scale(2.0**24, 1000)  # the gradients overflow at first: the scale falls, and the steps are skipped
    settings: dict[str, Any] = {"eval_every": 2, "schedule": "constant"}
    whole = make("whole", steps=8, **settings)
    expected = run_training(whole)
    assert expected.loss_scale is not None
    assert expected.loss_scale["scale"] < 2.0**24
    run_training(make("stopped", steps=4, **settings))
    resumed = make("stopped", resume=True, steps=4, **settings)
    progress = train(resumed.engine, resumed.data, replace(whole.training), resumed.evaluation, resumed.run)
    assert progress.history == expected.history
    assert progress.loss_scale == expected.loss_scale
    assert torch.equal(resumed.prompt(), whole.prompt())


def test_c1_2_gradients_that_stay_infinite_are_an_error(make: Build, scale: Callable[[float, int], None]) -> None:
    scale(4.0, 1000)
    parts = make(steps=20, eval_every=20)
    prompt = parts.prompt()
    next(parts.model.prompt_encoder.parameters()).register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(UserError, match=r"^the loss or its gradient became (inf|nan) at step 4; the state of step 0"):
        run_training(parts)
    assert torch.equal(parts.prompt(), prompt)


@pytest.mark.parametrize(("first", "back"), [(1, (4, 0, 4.0)), (5, (8, 6, 1.0))])
def test_c1_2_gradients_that_stay_infinite_let_a_run_go_back_with_the_scale_of_its_checkpoint(
    make: Build, scale: Callable[[float, int], None], first: int, back: tuple[int, int, float]
) -> None:
    scale(4.0, 1000)
    parts = make(steps=10, eval_every=6 if first > 1 else 10, on_nan=0.5)
    calls: list[int] = []

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        calls.append(0)
        return gradient * math.inf if first <= len(calls) < first + 4 else gradient

    next(parts.model.prompt_encoder.parameters()).register_hook(spoil)
    progress = run_training(parts)
    assert progress.step == 10
    assert [(r["step"], r["to"]) for r in progress.rollbacks] == [back[:2]]
    assert progress.loss_scale["scale"] == back[2], "the checkpoint's, or the first one"


def test_c1_2_float16_is_refused_where_accelerate_would_compute_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = Accelerator(cpu=True)
    check_training(TrainingConfig(), accelerator, ["accuracy"], 40)
    monkeypatch.setattr(accelerator.state, "_mixed_precision", "fp16")
    with pytest.raises(UserError, match=r"^--mixed_precision fp16: not on this device; launch with bf16 or no"):
        check_training(TrainingConfig(), accelerator, ["accuracy"], 40)


def test_c1_2_accumulation_by_accelerate_is_refused() -> None:
    with pytest.raises(UserError, match=r"^accelerate's gradient_accumulation_steps: 4; set it to 1: "):
        check_training(TrainingConfig(), Accelerator(cpu=True, gradient_accumulation_steps=4), ["accuracy"], 40)
