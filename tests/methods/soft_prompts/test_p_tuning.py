"""P-tuning: the network that computes the virtual tokens, and the soft prompt that is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers import load_base, scores
from softprompts.adapters.saving import folded
from softprompts.encoding.documents import Document
from softprompts.engine.build import disagreement
from softprompts.engine.forward import Engine
from softprompts.errors import UserError
from softprompts.methods.soft_prompts.p_tuning import add_prompt_encoder
from softprompts.models.loading import count_parameters

import pytest
import torch
from peft import PeftModel, PromptEncoderConfig, PromptTuningConfig
from torch import nn

DOCUMENTS = [Document((0, 5, 6), (7,)), Document((0, *range(20, 33)), (40, 41, 42))]
LSTM = {"encoder_reparameterization_type": "LSTM"}


def attach(folder: Path, seed: int | None = 0, **settings: Any) -> PeftModel:
    config = PromptEncoderConfig(**{"num_virtual_tokens": 5, "encoder_hidden_size": 16} | settings)
    return add_prompt_encoder(load_base(folder)[0], config, seed=seed).eval()


def mlp(hidden: int) -> int:
    """Return the parameters of embeddings (5, 32) and an MLP of two hidden layers."""
    return 5 * 32 + (32 + 1) * hidden + (hidden + 1) * hidden + (hidden + 1) * 32


def lstm(hidden: int, layers: int) -> int:
    """Return the parameters of embeddings (5, 32), an LSTM in both directions and an MLP with one hidden layer.

    A direction of a layer has four gates with two biases each.
    """
    widths = [32] + [2 * hidden] * (layers - 1)
    inner = sum(2 * 4 * hidden * (width + hidden + 2) for width in widths)
    return 5 * 32 + inner + (2 * hidden + 1) * 2 * hidden + (2 * hidden + 1) * 32


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ({}, mlp(16)),
        ({"encoder_hidden_size": None}, mlp(32)),
        (LSTM, lstm(16, 2)),
        (LSTM | {"encoder_num_layers": 1, "encoder_dropout": 0.0}, lstm(16, 1)),
        (LSTM | {"encoder_num_layers": 3}, lstm(16, 3)),
    ],
)
def test_the_network_has_the_size_that_is_asked_for_and_nothing_else_trains(
    tiny_model: Path, settings: dict[str, Any], parameters: int
) -> None:
    model = attach(tiny_model, **settings)
    assert count_parameters(model).trainable == parameters
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert all("prompt_encoder" in name for name, p in model.named_parameters() if p.requires_grad)
    assert any(isinstance(m, nn.LSTM) for m in model.modules()) == (LSTM.items() <= settings.items())


@pytest.mark.parametrize("settings", [{}, LSTM])
def test_it_writes_virtual_tokens_that_the_engine_puts_in_front(tiny_model: Path, settings: dict[str, Any]) -> None:
    model = attach(tiny_model, **settings)
    engine = Engine(model, None)  # type: ignore[arg-type]
    prompt = engine.soft_prompt(0)
    assert isinstance(prompt, torch.Tensor)
    assert prompt.shape == (5, 32)
    assert disagreement(engine, DOCUMENTS) is None


@pytest.mark.parametrize("settings", [{}, LSTM])
def test_what_it_writes_stands_alone(tiny_model: Path, settings: dict[str, Any]) -> None:
    model = attach(tiny_model, **settings)
    with torch.no_grad():
        for parameter in model.prompt_encoder.parameters():
            parameter.mul_(3)  # far from its initial values
        expected = scores(Engine(model, None), DOCUMENTS, packed=False).logits  # type: ignore[arg-type]
        plain = folded(model)
        found = scores(Engine(plain, None), DOCUMENTS, packed=False).logits  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected)
    assert isinstance(plain.active_peft_config, PromptTuningConfig)
    assert count_parameters(plain).trainable == 5 * 32
    assert plain.get_base_model() is model.get_base_model()


@pytest.mark.parametrize("settings", [{}, LSTM])
def test_the_seed_decides_the_network_whatever_was_drawn_before(tiny_model: Path, settings: dict[str, Any]) -> None:
    def draw(seed: int, state: int) -> torch.Tensor:
        torch.manual_seed(state)
        parameters = attach(tiny_model, seed, **settings).prompt_encoder.parameters()
        return torch.cat([p.detach().flatten() for p in parameters])

    assert torch.equal(draw(3, 0), draw(3, 1))
    assert not torch.equal(draw(3, 0), draw(4, 0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder_dropout": 0.2}, r"^prompt\.encoder_dropout: applies only to encoder_reparameterization_type: LSTM$"),
        (
            {"encoder_num_layers": 3},
            r"^prompt\.encoder_num_layers: applies only to encoder_reparameterization_type: LSTM$",
        ),
        ({"num_virtual_tokens": 0}, r"^prompt\.num_virtual_tokens: expected a number above 0, found 0$"),
        (
            {"num_virtual_tokens": 300},
            r"^prompt\.num_virtual_tokens: 300 virtual tokens leave no room in the model's 256 positions",
        ),
    ],
)
def test_settings_without_sense_are_refused(tiny_model: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        attach(tiny_model, **settings)


def test_the_settings_handed_in_stay_as_they_are(tiny_model: Path) -> None:
    config = PromptEncoderConfig(num_virtual_tokens=5)
    before = config.to_dict()
    add_prompt_encoder(load_base(tiny_model)[0], config)
    assert config.to_dict() == before


@pytest.mark.parametrize("settings", [{}, LSTM])
def test_the_check_of_its_gradient_runs_without_cudnn(
    tiny_model: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CuDNN has no backward pass of an LSTM in evaluation mode, and PyTorch's own kernels have one."""
    engine = Engine(attach(tiny_model, **settings), None)  # type: ignore[arg-type]
    seen = []
    original = torch.autograd.grad

    def grad(*given: Any, **named: Any) -> Any:
        seen.append(torch.backends.cudnn.enabled)
        return original(*given, **named)

    monkeypatch.setattr(torch.autograd, "grad", grad)
    assert disagreement(engine, DOCUMENTS) is None
    assert seen == [False, False]
    assert torch.backends.cudnn.enabled
