"""The moving average of trainable parameters: by hand, in validation, in checkpoints and at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers import Build, losses, run_training
from softprompts.checkpoints.folders import AVERAGE
from softprompts.errors import Interrupted, UserError
from softprompts.evaluation.predict import predict
from softprompts.training import loop as training_module
from softprompts.training.averaging import add_to_average, averaged, new_average

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

SETTINGS: dict[str, Any] = {"ema": 0.6, "steps": 6, "eval_every": 2, "learning_rate": 0.1}


def by_hand(values: list[torch.Tensor], decay: float) -> torch.Tensor:
    """Return the mean of values, the one that is n updates old with a weight of decay**n."""
    weights = [decay ** (len(values) - 1 - i) for i in range(len(values))]
    return sum((w * v for w, v in zip(weights, values, strict=True)), torch.zeros(())) / sum(weights)


def watched(parts: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return lists that collect the soft prompt of each step, and of each validation."""
    moved: list[torch.Tensor] = []
    validated: list[torch.Tensor] = []
    update = training_module.update

    def updating(*arguments: Any) -> list[float]:
        found = update(*arguments)
        moved.append(parts.prompt())
        return found

    def predicting(*arguments: Any, **more: Any) -> Any:
        validated.append(parts.prompt())
        return predict(*arguments, **more)

    monkeypatch.setattr(training_module, "update", updating)
    monkeypatch.setattr(training_module, "predict", predicting)
    return moved, validated


def test_the_average_of_hand_computed_values() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    frozen = nn.Linear(1, 1).requires_grad_(False)
    both = nn.ModuleList([model, frozen])
    average = new_average(both)
    assert set(average) == {"0.weight"}
    for step, (value, expected) in enumerate([(4.0, 4.0), (1.0, 2.0), (9.0, 6.0)], 1):  # (4+2)/3; (4+2+36)/7
        nn.init.constant_(model.weight, value)
        add_to_average(average, both, 0.5, step)
        assert average["0.weight"].item() == pytest.approx(expected, rel=1e-15), step
    with averaged(both, average):
        assert model.weight.item() == pytest.approx(6.0)
    assert model.weight.item() == 9.0


def test_values_in_16_bits_are_averaged_in_32() -> None:
    model = nn.Linear(2, 2).bfloat16()
    assert {tensor.dtype for tensor in new_average(model).values()} == {torch.float32}


def test_averages_are_validated_and_left_while_training_goes_on_without_them(
    make: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, parts = make("plain", **SETTINGS | {"ema": 0.0}), make(**SETTINGS)
    expected = run_training(plain)
    moved, validated = watched(parts, monkeypatch)
    progress = run_training(parts)
    assert losses(progress.history) == losses(expected.history), "the updates are the same"
    assert [e["validation_loss"] for e in progress.history if "validation_loss" in e] != [
        e["validation_loss"] for e in expected.history if "validation_loss" in e
    ]
    averages = {step: by_hand(moved[:step], 0.6) for step in (2, 4, 6)}
    for step, prompt in zip((2, 4, 6), validated[1:], strict=True):
        torch.testing.assert_close(prompt, averages[step], rtol=1e-5, atol=1e-6)
    assert progress.best_step in averages
    torch.testing.assert_close(parts.prompt(), averages[progress.best_step], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(parts.prompt(), moved[progress.best_step - 1], rtol=1e-3)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_stopped_run_goes_on_bit_for_bit(make: Build, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SETTINGS | {"optimizer": optimizer, "weight_decay": 0.01}
    whole = make("whole", **settings)
    expected = run_training(whole)
    parts, update = make(**settings), training_module.update
    calls = []

    def stopping(*arguments: Any) -> list[float]:
        calls.append(0)
        if len(calls) == 3:
            training_module.signal.raise_signal(training_module.signal.SIGTERM)
        return update(*arguments)

    monkeypatch.setattr(training_module, "update", stopping)
    with pytest.raises(Interrupted):
        run_training(parts)
    monkeypatch.setattr(training_module, "update", update)
    resumed = make(resume=True, **settings)
    assert run_training(resumed).history == expected.history
    assert torch.equal(resumed.prompt(), whole.prompt())


def newest(parts: Any) -> Path:
    return max(parts.run.checkpoints.glob("step-*"))


def test_a_damaged_average_is_a_damaged_checkpoint(make: Build) -> None:
    parts = make(**SETTINGS)
    run_training(parts)
    file = newest(parts) / AVERAGE
    (value,) = load_file(file).values()
    assert value.shape == parts.prompt().shape
    file.write_bytes(file.read_bytes()[:-1])
    resumed = make(resume=True, **SETTINGS)
    run_training(resumed)
    assert torch.equal(resumed.prompt(), parts.prompt()), "the checkpoint before it was gone on from"
    (newest(resumed) / AVERAGE).unlink()
    assert run_training(make(resume=True, **SETTINGS)).step == 6


def test_without_an_average_no_file_is_written(make: Build) -> None:
    parts = make(**SETTINGS | {"ema": 0.0})
    run_training(parts)
    assert not list(parts.run.checkpoints.rglob(AVERAGE))


@pytest.mark.parametrize("ema", [-0.1, 1.0, float("nan")])
def test_a_decay_without_sense_is_refused(make: Build, ema: float) -> None:
    with pytest.raises(UserError, match=rf"^training.ema: expected 0 or more and less than 1, found {ema}$"):
        run_training(make(ema=ema))
