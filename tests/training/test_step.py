"""One step: the division of rows into micro-batches, and the checks of the first step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from helpers import Build, losses, run_training
from softprompts.encoding.documents import Document
from softprompts.errors import UserError
from softprompts.runs.record import Progress
from softprompts.training.step import check_gradients, dropout_seed, micro_batches, share_out, training_mode

import pytest
import torch
from hypothesis import given, strategies
from torch import nn, ones_like, zeros_like

texts = strategies.lists(strategies.integers(1, 30), min_size=1, max_size=25).map(
    # Numbered, so that each can be told from the others.
    lambda sizes: [Document((number,) * size, (1,)) for number, size in enumerate(sizes)]
)


def tokens(documents: list[Document]) -> int:
    return sum(len(d.input_ids) for d in documents)


def bursts(part: list[Document], most: int) -> bool:
    """Say whether a part is too large although it could be parted."""
    return len(part) > 1 and tokens(part) > most


@given(texts, strategies.integers(1, 100))
def test_micro_batches_hold_every_document_once_and_keep_to_the_limit(documents: list[Document], most: int) -> None:
    parts = micro_batches(documents, most)
    assert all(parts), "none is empty"
    numbers = [[documents.index(d) for d in part] for part in parts]
    assert sorted(n for part in numbers for n in part) == list(range(len(documents)))
    assert all(part == sorted(part) for part in numbers), "in the order that they came in"
    assert not [part for part in parts if bursts(part, most)]


@given(texts, strategies.integers(1, 100))
def test_micro_batches_are_few_and_balanced(documents: list[Document], most: int) -> None:
    parts = micro_batches(documents, most)
    sizes = [tokens(part) for part in parts]
    assert max(sizes) - min(sizes) <= max(tokens([d]) for d in documents)
    fewer = share_out(documents, len(parts) - 1) if len(parts) > 1 else []
    assert len(parts) == 1 or any(bursts(part, most) for part in fewer)


@pytest.mark.parametrize(
    ("sizes", "most", "expected"),
    [
        ([5, 5, 5, 5], 10, [[5, 5], [5, 5]]),
        ([5, 5, 5, 5], 19, [[5, 5], [5, 5]]),
        ([5, 5, 5, 5], 20, [[5, 5, 5, 5]]),
        ([9, 1, 1, 1], 4, [[9], [1, 1, 1]]),
        ([9, 1, 1, 1, 1, 1, 1], 4, [[9], [1, 1, 1], [1, 1, 1]]),
        ([6, 6, 6], 12, [[6, 6], [6]]),
        ([7, 7, 7], 12, [[7], [7], [7]]),  # two lists would do by number of tokens, but not by documents
        ([3, 2], 1, [[3], [2]]),
    ],
)
def test_micro_batches_by_hand(sizes: list[int], most: int, expected: list[list[int]]) -> None:
    documents = [Document((number,) * size, (1,)) for number, size in enumerate(sizes)]
    assert [[tokens([d]) for d in part] for part in micro_batches(documents, most)] == expected


@given(texts)
def test_without_a_limit_there_is_one_micro_batch(documents: list[Document]) -> None:
    assert micro_batches(documents, None) == [documents]


def test_check_gradients_names_the_parameter() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False))
    with pytest.raises(UserError, match=r"^0.weight receives no gradient at step 0"):
        check_gradients(model)
    for parameter in model[0].parameters():
        parameter.grad = ones_like(parameter)
    check_gradients(model)
    frozen = model[1].weight
    assert isinstance(frozen, nn.Parameter)
    frozen.grad = ones_like(frozen)
    with pytest.raises(UserError, match=r"^1.weight is frozen but received a gradient$"):
        check_gradients(model)


def test_one_part_may_begin_without_a_gradient_that_reaches_it_but_not_all() -> None:
    """LoRA's matrix A receives zeros at first, because matrix B is zero."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    for layer in model:
        layer.weight.grad = zeros_like(layer.weight)
    with pytest.raises(UserError, match=r"^0.weight receives no gradient at step 0"):
        check_gradients(model)
    model[1].weight.grad = ones_like(model[1].weight)
    check_gradients(model)
    model[0].weight.grad = None
    with pytest.raises(UserError, match=r"^0.weight receives no gradient at step 0: training would not change it$"):
        check_gradients(model)


def test_training_mode_ends_with_its_context_even_after_an_error() -> None:
    dropouts = [nn.Dropout(0.5).eval(), nn.Dropout(0.5).eval()]
    other = nn.Dropout(0.5).eval()
    with training_mode(dropouts):
        assert all(module.training for module in dropouts)
        assert not other.training
    assert not any(module.training for module in dropouts)
    with pytest.raises(ValueError, match="out of memory"), training_mode(dropouts):
        raise ValueError("out of memory")
    assert not any(module.training for module in dropouts)


def candidate(seed: int, step: int) -> Any:
    return SimpleNamespace(seed=seed, progress=Progress(step=step))


def test_c1_5_every_seed_step_and_process_draws_other_numbers() -> None:
    """The sums that were the seed before were equal for seed 0 at step 1009 and process 0, and others."""
    small = [0, 1, 2, 1_009, 1_000_003, 2**32 - 1]
    seeds = {dropout_seed([candidate(seed, step)], process) for seed in small for step in small for process in range(4)}
    assert len(seeds) == len(small) ** 2 * 4
    assert all(0 <= seed < 2**64 for seed in seeds), "PyTorch takes no other"
    several = [
        [candidate(0, 0)],
        [candidate(0, 0)] * 2,
        [candidate(0, 0), candidate(0, 1)],
        [candidate(0, 1), candidate(0, 0)],
        [candidate(1, 0), candidate(0, 0)],
    ]
    assert len({dropout_seed(c, 0) for c in several}) == len(several)
    assert dropout_seed([candidate(3, 4)], 5) == dropout_seed([candidate(3, 4)], 5)


class Dropping(nn.Embedding):
    """Virtual tokens that lose half of their numbers in training."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.drop = nn.Dropout(0.5).eval()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.drop(super().forward(ids))


def dropped(make: Build, folder: str, before: int) -> list[float]:
    """Return two losses of a soft prompt with a dropout, after this number of other random numbers."""
    parts = make(folder, mode="stock", steps=2, eval_every=2)
    encoder = parts.model.prompt_encoder["default"]
    dropping = Dropping(*encoder.embedding.weight.shape)
    dropping.load_state_dict(encoder.embedding.state_dict())
    encoder.embedding = dropping
    torch.rand(before)
    return losses(run_training(parts).history)


def test_c1_5_dropout_draws_by_the_step_and_nothing_before_it(make: Build) -> None:
    first = dropped(make, "one", 0)
    assert dropped(make, "two", 100) == first
    assert losses(run_training(make("three", mode="stock", steps=2, eval_every=2)).history) != first
