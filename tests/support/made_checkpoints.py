"""A small model in training, whose checkpoints tests save, load and damage."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from softprompts.checkpoints.files import Restored, load_checkpoint, save_checkpoint
from softprompts.checkpoints.parameters import set_trainable, trainable_tensors
from softprompts.runs.record import Progress

import torch
from torch import nn
from transformers import get_scheduler

OPTIMIZERS = {"adamw": torch.optim.AdamW, "adafactor": torch.optim.Adafactor}


class Part:
    """A model with a frozen and two trainable layers, its optimizer and its schedule."""

    def __init__(self, optimizer: str = "adamw", seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3), nn.LayerNorm(3))
        self.model[0].requires_grad_(False)
        trainable = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = OPTIMIZERS[optimizer](trainable, lr=0.1, weight_decay=0.01)
        self.scheduler = get_scheduler("linear", self.optimizer, 2, 20)

    def train(self, first: int, last: int) -> None:
        for step in range(first, last):
            torch.manual_seed(step)
            self.model(torch.randn(5, 4)).square().sum().backward()
            self.optimizer.step()
            self.scheduler.step()
            self.optimizer.zero_grad()

    def save(self, folder: Path, step: int, best: int = 0) -> Path:
        progress = Progress(step=step, best_step=best, best_value=-0.1, history=[{"step": 1, "loss": 1 / 3}])
        return save_checkpoint(
            folder, model=self.model, optimizer=self.optimizer, scheduler=self.scheduler, progress=progress
        )

    def load(self, folder: Path, inputs: dict[str, Any] | None = None) -> Restored | None:
        return load_checkpoint(
            folder, model=self.model, optimizer=self.optimizer, scheduler=self.scheduler, inputs=inputs
        )

    def put_back(self, tensors: dict[str, torch.Tensor]) -> None:
        set_trainable(self.model, tensors)

    def state(self) -> list[Any]:
        optimizer = self.optimizer.state_dict()
        values = [v for _, state in sorted(optimizer["state"].items()) for _, v in sorted(state.items())]
        return [*trainable_tensors(self.model).values(), *copy.deepcopy(values)]


def assert_equal(left: list[Any], right: list[Any]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
