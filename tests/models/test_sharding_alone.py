"""Helpers for sharded layers, in a process with whole layers: they have no effect."""

from __future__ import annotations

from pathlib import Path

from helpers import load_base
from softprompts.errors import UserError
from softprompts.models.sharding.gradients import clip_gradients
from softprompts.models.sharding.layers import (
    is_sharded,
    layers_of,
    shard_layers,
    sharded_loading,
    sharding_asked,
    stacks_of,
    weights_together,
)
from softprompts.models.sharding.tensors import any_sharded, gathered, local, part_of, put, rows_of, whole
from softprompts.models.sharding.turns import turns

import pytest
import torch
from torch import nn


def test_the_layers_of_every_kind_of_model(tiny_model: Path, tiny_t5: Path, tiny_encoder: Path) -> None:
    from transformers import AutoModel

    for folder, count in ((tiny_model, 2), (tiny_t5, 4), (tiny_encoder, 2)):
        model = AutoModel.from_pretrained(folder)
        layers = layers_of(model)
        assert len(layers) == count
        assert len({type(layer) for layer in layers}) == 1


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(UserError, match=r"^FSDP: Linear has no layers that can be shared out; launch with .*multi_gpu"):
        shard_layers(nn.Linear(2, 2), torch.device("cpu"), ahead=False)


def test_a_whole_tensor_is_its_own_part() -> None:
    parameter = nn.Parameter(torch.arange(6.0).view(2, 3))
    assert part_of(parameter) is parameter
    assert local(parameter).data_ptr() == whole(parameter).data_ptr() == parameter.data_ptr()
    assert torch.equal(rows_of(torch.ones(2, 3), parameter), torch.ones(2, 3))
    assert torch.equal(gathered(torch.ones(2, 3), parameter), torch.ones(2, 3))
    put(parameter, torch.full((2, 3), 7.0))
    assert torch.equal(parameter.detach(), torch.full((2, 3), 7.0))
    assert not any_sharded([parameter])


def test_whole_gradients_are_clipped_as_pytorch_does() -> None:
    ours, theirs = (nn.Parameter(torch.zeros(4)) for _ in range(2))
    for parameter in (ours, theirs):
        parameter.grad = torch.arange(4.0)
    assert torch.equal(clip_gradients([ours], 1.0), nn.utils.clip_grad_norm_([theirs], 1.0))
    assert torch.equal(ours.grad, theirs.grad)


def test_a_process_alone_shards_nothing(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert not sharding_asked()
    with sharded_loading(torch.device("cpu")) as arguments:
        assert arguments == {}
    base, _ = load_base(tiny_model)
    assert not is_sharded(base)
    assert stacks_of(base) == []
    assert weights_together(base, keep=True) is None
    with turns(base, torch.device("cpu")):
        base(torch.zeros(1, 3, dtype=torch.long))
