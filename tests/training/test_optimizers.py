"""Muon together with AdamW: the parameters of each, one step by hand, and one state for both."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

from helpers import Build, load_base, method_engine
from softprompts.checkpoints.files import load_checkpoint, save_checkpoint
from softprompts.config.methods import MultitaskConfig, PrefixConfig, PromptConfig
from softprompts.config.sections import TrainingConfig
from softprompts.errors import UserError
from softprompts.methods.soft_prompts.multitask_prompt_tuning import add_multitask_prompt
from softprompts.methods.soft_prompts.prefix_tuning import add_prefix
from softprompts.methods.soft_prompts.prompt_tuning import add_soft_prompt
from softprompts.runs.record import Progress
from softprompts.training.optimizers import make_optimizer, muon

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import Trainer, TrainingArguments, get_scheduler

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


@pytest.mark.parametrize("method", ["P-tuning MLP", "full fine-tuning", "prompt tuning", "IA3"])
def test_weight_decay_leaves_out_what_transformers_leaves_out(tiny_model: Any, tmp_path: Path, method: str) -> None:
    model = method_engine(tiny_model, method).model
    trainer = Trainer(model, TrainingArguments(str(tmp_path), report_to=[], use_cpu=True))
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    expected = set() if method == "IA3" else names.intersection(trainer.get_decay_parameter_names(model))
    assert decayed_names(model, 0.1) == expected
    assert len(make_optimizer(model, TrainingConfig()).param_groups) == 1, "as in earlier checkpoints"


def decayed_names(model: nn.Module, decay: float, optimizer: str = "adamw") -> set[str]:
    """Return the names of the parameters with a weight decay; all of them are trained."""
    made: Any = TrainingConfig(weight_decay=decay, optimizer=optimizer)  # type: ignore[arg-type]
    groups = make_optimizer(model, made).param_groups
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert sorted(id(p) for group in groups for p in group["params"]) == sorted(map(id, trained.values()))
    found = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert {group["weight_decay"] for group in groups} <= {0.0, decay}
    return {name for name, p in trained.items() if id(p) in found}


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "muon"])
def test_weight_decay_leaves_out_factors_that_are_neutral_at_one(tiny_model: Any, optimizer: str) -> None:
    def names(model: nn.Module) -> list[str]:
        return sorted(name.rpartition("weight.")[2] for name in decayed_names(model, 0.1, optimizer))

    def prompt(kind: str, **more: Any) -> nn.Module:
        base, tokenizer = load_base(tiny_model)
        config: Any = PromptConfig(num_virtual_tokens=3, prompt_tuning_init="RANDOM", parametrization=kind, **more)  # type: ignore[arg-type]
        return add_soft_prompt(base, tokenizer, config, seed=0)

    assert names(prompt("low_rank", rank=2)) == ["0.codes", "0.shift"]
    assert names(prompt("superposition", sampled_embeddings=4)) == []
    base, tokenizer = load_base(tiny_model)
    scales = add_prefix(base, tokenizer, PrefixConfig(num_virtual_tokens=3, parametrization="scales"), seed=0)
    assert names(scales) == ["original"]
    base, tokenizer = load_base(tiny_model)
    multitask = MultitaskConfig("c", 3, 1, "RANDOM")
    (name,) = decayed_names(add_multitask_prompt(base, tokenizer, multitask, tasks=["a", "b"], seed=0), 0.1, optimizer)
    assert name.endswith("embedding.weight")
    base, _ = load_base(tiny_model)
    dora = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], use_dora=True))
    assert {name.split(".")[-3] for name in decayed_names(dora, 0.1, optimizer)} == {"lora_A", "lora_B"}


def test_a_checkpoint_with_weight_decay_on_everything_is_refused(tiny_model: Any, tmp_path: Path) -> None:
    model = method_engine(tiny_model, "P-tuning MLP").model
    training = TrainingConfig(weight_decay=0.1)
    now = make_optimizer(model, training)
    before = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], weight_decay=0.1, fused=True)
    for optimizer in (before, now):
        schedule = get_scheduler("constant", optimizer)
        save_checkpoint(tmp_path, model=model, optimizer=optimizer, scheduler=schedule, progress=Progress())
        if optimizer is now:
            assert load_checkpoint(tmp_path, model=model, optimizer=now, scheduler=schedule)
            continue
        with pytest.raises(UserError, match=r"weight decay on all parameters.*; choose another run\.output_dir$"):
            load_checkpoint(tmp_path, model=model, optimizer=now, scheduler=get_scheduler("constant", now))
        shutil.rmtree(tmp_path)
