"""Muon together with AdamW: the parameters of each, one step by hand, and one state for both."""

from __future__ import annotations

import copy
from typing import Any

from helpers import Build, method_engine
from softprompts.config.sections import TrainingConfig
from softprompts.training.optimizers import make_optimizer, muon

import pytest
import torch
from torch import nn

RATE = 0.1


def stepped(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 1) -> list[torch.Tensor]:
    """Make steps on a loss that reaches every parameter; return the parameters."""
    for step in range(steps):
        torch.manual_seed(step)
        sum((p * torch.randn_like(p)).square().sum() for p in model.parameters()).backward()  # type: ignore[union-attr]
        optimizer.step()
        optimizer.zero_grad()
    return [p.detach().clone() for p in model.parameters()]


def made(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 3))


def test_matrices_go_to_muon_and_all_else_to_adamw() -> None:
    together, apart = made(), made()
    torch.testing.assert_close(
        stepped(together, muon([{"params": list(together.parameters()), "lr": RATE}], 0.01, []), 3),
        apart_stepped(apart, 3),
        rtol=0,
        atol=0,
    )


def apart_stepped(model: nn.Module, steps: int) -> list[torch.Tensor]:
    """Make the same steps with PyTorch's two optimizers, one after the other."""
    matrices = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() != 2]
    first = torch.optim.Muon(matrices, lr=RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    second = torch.optim.AdamW(others, lr=RATE, weight_decay=0.01, fused=True)

    class Both:
        def step(self) -> None:
            first.step()
            second.step()

        def zero_grad(self) -> None:
            model.zero_grad()

    return stepped(model, Both(), steps)  # type: ignore[arg-type]


def test_a_step_of_a_soft_prompt_is_as_large_as_one_of_adamw_and_has_no_preferred_direction() -> None:
    """The update's singular values lie about 0.2 sqrt(H) x rate, so that its numbers are about 0.2 x rate."""
    torch.manual_seed(0)
    prompt = nn.Parameter(torch.zeros(5, 32))
    optimizer = muon([{"params": [prompt], "lr": RATE}], 0.0, [])
    prompt.grad = torch.randn(5, 2) @ torch.randn(2, 32) + 0.1 * torch.randn(5, 32)  # two directions are far larger
    before = torch.linalg.svdvals(prompt.grad)
    optimizer.step()
    after = torch.linalg.svdvals(prompt.detach()) / (0.2 * 32**0.5 * RATE)
    assert before[0] / before[-1] > 10
    assert 0.5 < after[-1] <= after[0] < 1.5


def test_the_schedule_reaches_both_and_the_state_goes_on() -> None:
    model, other = made(), made()
    optimizer = muon([{"params": list(model.parameters()), "lr": RATE}], 0.01, [])
    for group in optimizer.param_groups:
        group["lr"] = RATE / 2
    half = muon([{"params": list(other.parameters()), "lr": RATE / 2}], 0.01, [])
    assert all(map(torch.equal, stepped(model, optimizer, 2), stepped(other, half, 2)))
    fresh = muon([{"params": list(other.parameters()), "lr": 1.0}], 0.0, [])
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # which shares its tensors
    assert all(map(torch.equal, stepped(model, optimizer), stepped(other, fresh)))


@pytest.mark.parametrize(
    ("method", "kinds"),
    [
        ("prompt tuning", [torch.optim.Muon]),
        ("P-tuning MLP", [torch.optim.Muon, torch.optim.AdamW]),
        ("full fine-tuning", [torch.optim.Muon, torch.optim.AdamW]),
    ],
)
def test_embeddings_of_the_base_model_and_vectors_are_adamws(tiny_model: Any, method: str, kinds: list[type]) -> None:
    model = method_engine(tiny_model, method).model
    optimizer: Any = make_optimizer(model, TrainingConfig(optimizer="muon", learning_rate=RATE))
    assert [type(part) for part in optimizer.parts] == kinds
    for part, dims in zip(optimizer.parts, ({2}, {1, 2}), strict=False):
        (group,) = part.param_groups
        assert {p.dim() for p in group["params"]} <= dims
    table = model.get_input_embeddings().weight
    assert not any(p is table for p in optimizer.parts[0].param_groups[0]["params"])
    trained = [p for p in model.parameters() if p.requires_grad]
    assert sum(len(part.param_groups[0]["params"]) for part in optimizer.parts) == len(trained)


def test_muon_of_a_run_moves_every_virtual_token(make: Build) -> None:
    parts = make(optimizer="muon")
    optimizer: Any = make_optimizer(parts.model, parts.training)
    before = parts.prompt()
    parts.engine([e.document for e in parts.data.train[:8]]).nll().mean().backward()
    optimizer.step()
    assert (parts.prompt() != before).any(dim=1).all()
