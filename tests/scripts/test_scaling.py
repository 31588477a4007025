"""The scaling model, against numbers worked out by hand."""

from __future__ import annotations

from scripts.build_docs.scaling import GPUS, Machine, Step, table, tokens_per_second, tokens_to_hide

import pytest

SIMPLE = Machine(matrix_rate=100.0, share=0.5, within=10.0, between=1.0, node=2)
STEP = Step(weights=5.0, bytes_each=2, tokens=10)


def test_a_whole_base_model_scales_with_the_gpus() -> None:
    # 4 x 5 FLOP a token, at 50 FLOP/s.
    assert tokens_per_second(1, SIMPLE, STEP, sharded=False) == pytest.approx(2.5)
    assert tokens_per_second(8, SIMPLE, STEP, sharded=False) == pytest.approx(20)


def test_moving_weights_counts_where_it_takes_longer() -> None:
    # Two GPUs: half of 10 bytes, twice, at 10 bytes/s: one second, and 4 seconds of computing.
    assert tokens_per_second(2, SIMPLE, STEP, sharded=True) == pytest.approx(5)
    # Four GPUs in two nodes: three quarters of 10 bytes, twice, at 1 byte/s: 15 seconds for 40 tokens.
    assert tokens_per_second(4, SIMPLE, STEP, sharded=True) == pytest.approx(40 / 15)


def test_tokens_that_hide_the_moving_of_weights() -> None:
    tokens = tokens_to_hide(SIMPLE.between, SIMPLE, STEP)
    assert tokens == 50
    many = 10_000
    assert tokens_per_second(many, SIMPLE, Step(5.0, 2, int(tokens)), sharded=True) == pytest.approx(
        tokens_per_second(many, SIMPLE, STEP, sharded=False), rel=1e-3
    )


def test_the_table_has_a_row_for_each_number_of_gpus() -> None:
    assert [line.split("|")[1].strip() for line in table().splitlines()[2:]] == [str(n) for n in GPUS]
