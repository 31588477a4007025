"""Rows that join and leave while others continue have the same answers as alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers import METHODS, by_hand, load_base, method_engine
from made_models import make_base
from softprompts.config.sections import ModelConfig
from softprompts.encoding.endings import read_answer
from softprompts.engine.forward import Engine
from softprompts.engine.kv_cache import positions_of
from softprompts.errors import UserError
from softprompts.serving.batch import Batch, Row, Sampling, check_base, check_served
from softprompts.serving.slots import COLUMNS

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM, RwkvConfig, RwkvForCausalLM

PROMPTS = [(5, 6), tuple(range(20, 33)), tuple(range(100, 140)), (7, 8, 9), (50, 51)]


@pytest.fixture(scope="module")
def engines(tiny_model: Path) -> dict[str, Engine]:
    return {method: method_engine(tiny_model, method) for method in METHODS}


def rows_of(engine: Engine, most: int = 8, **settings: Any) -> list[Row]:
    with engine.prompts_cached(), torch.no_grad():
        front = engine.cached_states(0)
    return [Row(prompt, front, most, Sampling(**settings)) for prompt in PROMPTS]


def run(batch: Batch, arrivals: dict[int, list[Row]]) -> None:
    """Let rows join before the steps of these numbers, and write until all have ended."""
    number = 0
    while batch.rows or arrivals:
        batch.join(arrivals.pop(number, []))
        batch.step()
        number += 1


@pytest.mark.parametrize("method", ["prompt tuning", "prefix tuning", "P-tuning MLP"])
def test_rows_that_join_at_any_time_answer_as_alone(engines: dict[str, Engine], method: str) -> None:
    engine = engines[method]
    rows = rows_of(engine)
    run(Batch(engine.base, engine.ends), {0: [rows[0]], 2: [rows[1], rows[2]], 3: [rows[3]], 12: [rows[4]]})
    written = [read_answer(engine.tokenizer, row.written, engine.ends) for row in rows]
    assert written == [by_hand(engine, prompt, 8) for prompt in PROMPTS]


def test_rows_of_different_soft_prompts_and_of_none_share_a_batch(engines: dict[str, Engine]) -> None:
    chosen = [engines["prompt tuning"], engines["prefix tuning"]]
    assert [p.sum() for p in chosen[0].base.parameters()] == [p.sum() for p in chosen[1].base.parameters()]
    rows = [rows_of(engine)[1] for engine in chosen] + [Row(PROMPTS[1], None, 8)]
    run(Batch(chosen[0].base, chosen[0].ends), {0: rows[:2], 1: rows[2:]})
    for engine, row in zip(chosen, rows, strict=False):
        assert read_answer(engine.tokenizer, row.written, engine.ends) == by_hand(engine, PROMPTS[1], 8)
    alone = Row(PROMPTS[1], None, 8)
    run(Batch(chosen[0].base, chosen[0].ends), {0: [alone]})
    assert (alone.written, len({tuple(row.written) for row in rows})) == (rows[2].written, 3)


def test_a_row_that_is_taken_out_changes_no_other(engines: dict[str, Engine]) -> None:
    engine = engines["prompt tuning"]
    rows, batch = rows_of(engine), Batch(engine.base, engine.ends)
    batch.join(rows)
    batch.step()
    batch.leave(rows[2:3])
    while batch.rows:
        batch.step()
    assert len(rows[2].written) <= 2
    for row, prompt in zip([*rows[:2], *rows[3:]], [*PROMPTS[:2], *PROMPTS[3:]], strict=True):
        assert read_answer(engine.tokenizer, row.written, engine.ends) == by_hand(engine, prompt, 8)


def test_room_that_nobody_needs_is_given_back(engines: dict[str, Engine]) -> None:
    engine = engines["prompt tuning"]
    rows, batch = rows_of(engine), Batch(engine.base, ())
    long = Row(tuple(range(20, 220)), rows[0].front, 4)
    batch.join([rows[0], long])
    assert batch.slots is not None
    assert batch.slots.width == len(long.prompt_ids) + positions_of(long.front)
    most = batch.slots.nbytes
    batch.leave([long])
    batch.join([rows[1]])
    assert batch.slots.width == len(PROMPTS[1]) + positions_of(rows[1].front)
    assert batch.slots.nbytes < most / 2
    batch.leave(list(batch.rows))
    assert batch.slots is None


def test_room_for_many_short_rows_is_no_room_for_many_long_ones(engines: dict[str, Engine]) -> None:
    engine = engines["prompt tuning"]
    front = rows_of(engine)[0].front
    many, batch = [Row((5, 6), front, 4) for _ in range(16)], Batch(engine.base, ())
    batch.join(many)
    batch.leave(many[1:])
    assert batch.slots is not None
    batch.join([Row(tuple(range(20, 220)), front, 4)])
    own = Batch(engine.base, ())
    own.join([Row((5, 6), front, 4), Row(tuple(range(20, 220)), front, 4)])
    assert own.slots is not None
    assert batch.slots.nbytes == own.slots.nbytes


def test_a_row_that_outgrows_its_room_answers_as_alone(engines: dict[str, Engine]) -> None:
    engine = engines["prefix tuning"]
    rows = rows_of(engine, COLUMNS + 8)[:2]
    run(Batch(engine.base, ()), {0: rows[:1], COLUMNS - 4: rows[1:]})
    alone = rows_of(engine, COLUMNS + 8)[:2]
    for row, expected in zip(rows, alone, strict=True):
        run(Batch(engine.base, ()), {0: [expected]})
        assert row.written == expected.written


def test_draws_are_the_rows_own(engines: dict[str, Engine]) -> None:
    """The same seed samples the same tokens in any batch; another seed samples others."""
    engine = engines["prompt tuning"]
    first, again, other = (rows_of(engine, 12, temperature=1.5, seed=seed)[1] for seed in (3, 3, 4))
    run(Batch(engine.base, ()), {0: [first]})
    run(Batch(engine.base, ()), {0: rows_of(engine, 12, temperature=1.5, seed=9)[:1], 2: [again, other]})
    assert first.written == again.written != other.written


def test_top_p_draws_among_the_likeliest_alone(engines: dict[str, Engine]) -> None:
    engine = engines["prompt tuning"]
    greedy = rows_of(engine)[1]
    drawn = [rows_of(engine, temperature=1.0, top_p=1e-6, seed=seed)[1] for seed in range(3)]
    run(Batch(engine.base, ()), {0: [greedy, *drawn]})
    assert [row.written for row in drawn] == [greedy.written] * 3


def test_log_probabilities_are_those_of_the_model(engines: dict[str, Engine]) -> None:
    engine = engines["prompt tuning"]
    (row,) = rows_of(engine, 4)[1:2]
    run(Batch(engine.base, ()), {0: [row]})
    ids = torch.tensor([[*PROMPTS[1], *row.written]])
    with torch.no_grad():
        logits = engine.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].log_softmax(-1)
    expected = [logits[-len(row.written) - 1 + k, token].item() for k, token in enumerate(row.written)]
    assert row.logprobs == pytest.approx(expected, abs=1e-4)


def test_an_answer_ends_by_its_length_or_by_an_end(engines: dict[str, Engine]) -> None:
    engine = engines["prompt tuning"]
    row = rows_of(engine, 6)[1]
    run(Batch(engine.base, ()), {0: [row]})
    assert len(row.written) == 6
    third = row.written[2]
    short = rows_of(engine, 6)[1]
    run(Batch(engine.base, (third,)), {0: [short]})
    assert short.written == row.written[: row.written.index(third)]
    one = rows_of(engine, 1)[1]
    batch = Batch(engine.base, ())
    assert batch.join([one]) == [one]
    assert (one.written, batch.rows) == (row.written[:1], [])


def test_logits_that_are_not_finite_are_no_answer(tiny_model: Path) -> None:
    base, _ = load_base(tiny_model)
    with torch.no_grad():
        base.get_output_embeddings().weight.fill_(float("nan"))
    row, batch = Row((1, 2), None, 3), Batch(base, ())
    assert batch.join([row]) == [row]
    assert (row.failed, row.written, batch.rows) == (True, [], [])


def test_a_row_that_fails_takes_no_other_with_it(engines: dict[str, Engine]) -> None:
    engine = engines["prompt tuning"]
    rows, batch = rows_of(engine), Batch(engine.base, engine.ends)
    batch.join(rows[:2])
    front = [(keys.fill_(float("nan")), values) for keys, values in rows[2].front or ()]
    bad = Row((5, 6, 7), [(keys.clone(), values.clone()) for keys, values in front], 8)
    assert batch.join([bad]) == [bad]
    assert bad.failed
    again = Row(PROMPTS[3], rows_of(engine)[3].front, 8)
    batch.join([again])  # in the slot that held NaN
    while batch.rows:
        batch.step()
    for row, prompt in zip([*rows[:2], again], [*PROMPTS[:2], PROMPTS[3]], strict=True):
        assert read_answer(engine.tokenizer, row.written, engine.ends) == by_hand(engine, prompt, 8)


def test_extreme_draws_are_still_draws(engines: dict[str, Engine]) -> None:
    engine = engines["prompt tuning"]
    greedy = rows_of(engine)[1]
    rows = [rows_of(engine, temperature=t, top_p=p)[1] for t, p in ((1e-40, 1.0), (1e-300, 1.0), (1.0, 1e-46))]
    run(Batch(engine.base, ()), {0: [greedy, *rows]})
    assert [row.written for row in rows] == [greedy.written] * 3


def test_a_base_model_with_a_window_is_refused() -> None:
    with pytest.raises(UserError, match="cannot be served in continuous batches: it has layers that look back"):
        check_base(make_base("mistral"))


def test_a_base_model_with_a_recurrent_state_is_refused() -> None:
    mamba = MambaForCausalLM(MambaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, state_size=4))
    rwkv = RwkvForCausalLM(RwkvConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2))
    for base, reason in (
        (mamba, "it does not support layers of linear_attention"),
        (rwkv, "it has layers with a recur"),
    ):
        with pytest.raises(UserError, match=f"cannot be served in continuous batches: {reason}"):
            check_base(base)


@pytest.mark.parametrize("kind", ["tiny_t5", "tiny_encoder"])
def test_another_kind_of_base_model_is_refused_by_its_config(kind: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(kind)
    with pytest.raises(UserError, match=r"^model\.name_or_path: \S+: cannot be served .*: it is not a decoder$"):
        check_served(ModelConfig(str(model)))


@pytest.mark.parametrize("changes", [{"engine": "stock"}, {"gradient_checkpointing": True}])
def test_the_forward_pass_of_a_server_is_its_own(tiny_model: Path, changes: dict[str, Any]) -> None:
    check_served(ModelConfig(str(tiny_model)))
    with pytest.raises(UserError, match=rf"^model\.{next(iter(changes))}: recipes/serve.py has its own forward pass"):
        check_served(ModelConfig(str(tiny_model), **changes))
