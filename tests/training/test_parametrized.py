"""Training of a parametrised soft prompt: stopped and resumed, side by side with others, and its best checkpoint."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from helpers import TEXT, load_base, losses, task_config
from softprompts.checkpoints.folders import FROZEN
from softprompts.checkpoints.parameters import frozen_parts, trainable_tensors
from softprompts.config.methods import PrefixConfig, PromptConfig
from softprompts.config.sections import EvaluationConfig, ModelConfig, RunConfig, TrainingConfig
from softprompts.encoding.documents import with_soft_prompt
from softprompts.encoding.tokenization import encode
from softprompts.engine.build import make_engine
from softprompts.errors import Interrupted, UserError
from softprompts.methods.soft_prompts.prefix_tuning import add_prefix
from softprompts.methods.soft_prompts.prompt_tuning import add_soft_prompt
from softprompts.models.loading import InputSpec
from softprompts.runs.record import Progress
from softprompts.runs.run import start_run
from softprompts.tasks.task import load_task
from softprompts.training import loop
from softprompts.training.state import make_candidate

import pytest
import torch
from safetensors.torch import load_file

PROMPTS: list[dict[str, Any]] = [
    {},
    {"parametrization": "residual_mlp", "bottleneck": 12},
    {"parametrization": "low_rank", "rank": 3},
    {"parametrization": "superposition", "sampled_embeddings": 9},
]
PREFIXES: list[dict[str, Any]] = [
    {"parametrization": "scales"},
    {"key_rate": 0},
    {"key_rate": 0.1, "layer_rates": [0.5, 1], "frozen_first": 1},
]
SLOW = [*PROMPTS[2:], *PREFIXES[:2]]
EVALUATION = EvaluationConfig(batch_size=16, bootstrap_resamples=20)
TRAINING = TrainingConfig(steps=6, batch_size=8, eval_every=3, learning_rate=0.05, weight_decay=0.1)


class Parts:
    """A run on the tiny model and task, with soft prompts side by side, or one prefix."""

    def __init__(
        self, model: Path, task: Path, output: Path, *settings: dict[str, Any], resume: bool = False, text: str = TEXT
    ) -> None:
        base, tokenizer = load_base(model)
        self.data = encode(load_task(task_config(task)), tokenizer, InputSpec(room=200))
        self.run = start_run("test", training=TRAINING, run=RunConfig(str(output), resume=resume, trackers=[]))
        if settings[0] in PREFIXES:
            config = PrefixConfig(num_virtual_tokens=5, init_text=text, **settings[0])
            self.bank = [add_prefix(base, tokenizer, config, seed=0)]
        else:
            configs = [PromptConfig(num_virtual_tokens=5, prompt_tuning_init_text=text, **own) for own in settings]
            self.bank = [add_soft_prompt(base, tokenizer, config, seed=0) for config in configs]
        self.engine = make_engine(
            self.bank[0], tokenizer, config=ModelConfig(), data=self.data, say=self.run.say, bank=self.bank[1:]
        )

    def train(self) -> Progress:
        return loop.train(self.engine, self.data, TRAINING, EVALUATION, self.run)

    def values(self, number: int = 0) -> torch.Tensor:
        return self.bank[number].prompt_encoder["default"].embedding.weight.detach().clone()


def stop_at_step_4(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Send SIGTERM in the fourth update; return a list with an entry per update."""
    original, calls = loop.update, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(0)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGTERM)
        return original(*arguments)

    monkeypatch.setattr(loop, "update", interrupted)
    return calls


# Two stay in the quick tier.
@pytest.mark.parametrize(
    "settings", [*PROMPTS[1:2], *PREFIXES[2:], *(pytest.param(s, marks=pytest.mark.slow) for s in SLOW)], ids=str
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    tiny_model: Path, tiny_task: Path, tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = stop_at_step_4(monkeypatch)
    with pytest.raises(Interrupted):
        Parts(tiny_model, tiny_task, tmp_path / "run", settings).train()
    torch.manual_seed(99)  # repeated random values must not depend on it
    resumed = Parts(tiny_model, tiny_task, tmp_path / "run", settings, resume=True)
    ours = resumed.train()
    assert len(calls) == 6, "each update was made once"
    whole = Parts(tiny_model, tiny_task, tmp_path / "whole", settings)
    before = whole.values()
    assert ours.history == whole.train().history
    assert torch.equal(resumed.values(), whole.values())
    assert not torch.equal(before, whole.values())
    best = load_file(whole.run.checkpoints / f"step-{ours.best_step:06d}" / "trainable.safetensors")
    trained = trainable_tensors(whole.bank[0])
    assert best.keys() == trained.keys()
    assert all(torch.equal(best[name], trained[name]) for name in best)
    if settings.get("key_rate") == 0:
        keys, values = (whole.values() == before).view(5, 2, 2, -1).unbind(2)
        assert keys.all()
        assert not values.any(-1).all()


@pytest.mark.parametrize("settings", [*PROMPTS[2:], *PREFIXES[1:]], ids=str)
def test_a_frozen_start_that_has_changed_is_refused_on_resume(
    tiny_model: Path, tiny_task: Path, tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at_step_4(monkeypatch)
    folder = tmp_path / "run"
    with pytest.raises(Interrupted):
        Parts(tiny_model, tiny_task, folder, settings).train()
    other = " ".join(reversed(TEXT.split()))
    changed = Parts(tiny_model, tiny_task, folder, settings, resume=True, text=other)
    with pytest.raises(
        UserError, match=r"^--resume: .* was trained on something else: the frozen part of the soft prompt starts from"
    ):
        changed.train()
    for place in (folder / "checkpoints").glob("step-*"):
        sums = place / "SHA256SUMS"
        sums.write_text("".join(line for line in sums.read_text().splitlines(True) if FROZEN not in line))
        (place / FROZEN).unlink()
    Parts(tiny_model, tiny_task, folder, settings, resume=True, text=other).train()  # an older version had no such file


@pytest.mark.parametrize("settings", [PROMPTS[2], PREFIXES[1]], ids=str)
def test_a_frozen_start_that_differs_by_rounding_becomes_that_of_the_checkpoint(
    tiny_model: Path, tiny_task: Path, tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at_step_4(monkeypatch)
    with pytest.raises(Interrupted):
        Parts(tiny_model, tiny_task, tmp_path / "run", settings).train()
    resumed = Parts(tiny_model, tiny_task, tmp_path / "run", settings, resume=True)
    for tensor in frozen_parts(resumed.bank[0]).values():
        if tensor.is_floating_point():
            tensor.mul_(1 + 1e-3 * torch.rand_like(tensor))
    whole = Parts(tiny_model, tiny_task, tmp_path / "whole", settings)
    assert resumed.train().history == whole.train().history
    assert torch.equal(resumed.values(), whole.values())


@pytest.mark.parametrize("settings", [PROMPTS[1], PREFIXES[0]], ids=str)
def test_without_a_frozen_part_a_checkpoint_holds_none(
    tiny_model: Path, tiny_task: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    parts = Parts(tiny_model, tiny_task, tmp_path / "run", settings)
    parts.train()
    assert not list(parts.run.checkpoints.rglob(FROZEN))


@pytest.mark.slow
def test_parametrisations_side_by_side_train_as_each_alone(tiny_model: Path, tiny_task: Path, tmp_path: Path) -> None:
    bank = Parts(tiny_model, tiny_task, tmp_path / "bank", *PROMPTS)
    candidates = [
        make_candidate(
            bank.engine,
            number,
            data=with_soft_prompt(bank.data, number),
            training=TRAINING,
            seed=0,
            folder=tmp_path / f"bank-{number}",
        )
        for number in range(len(PROMPTS))
    ]
    loop.train_side_by_side(bank.engine, candidates, EVALUATION, bank.run)
    curves = [losses(candidate.progress.history) for candidate in candidates]
    assert len({round(curve[0], 4) for curve in curves}) == 1, "all start at the same values"
    assert len({round(curve[-1], 4) for curve in curves}) == len(PROMPTS)
    for number, settings in enumerate(PROMPTS):
        alone = Parts(tiny_model, tiny_task, tmp_path / f"alone-{number}", settings)
        assert losses(alone.train().history) == pytest.approx(curves[number], rel=1e-3)
        torch.testing.assert_close(bank.values(number), alone.values(), rtol=0.01, atol=0.01)
