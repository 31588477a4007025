"""The parity benchmark: equal answers, its tables and its exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.engines.parity import __main__ as parity, local
from benchmarks.engines.parity.engine import arguments
from benchmarks.engines.parity.table import COLUMNS, compared, table
from helpers import load_tuned

import pytest

END = 2
EXPECTED = [{"answer": [5, 6, END], "margins": [1.5, 0.25, 3.0]}, {"answer": [5, 7, 8], "margins": [2.0, 0.5, 1.0]}]


def test_equal_answers_may_or_may_not_hold_their_end() -> None:
    assert compared(EXPECTED, [[5, 6], [5, 7, 8]], [END]) == {"of": 2, "equal": 2, "differ": []}
    assert compared(EXPECTED, [[5, 6, END, END], [5, 7, 8]], [END])["equal"] == 2


def test_where_answers_part_first_is_kept_with_the_margin_there() -> None:
    found = compared(EXPECTED, [[5, 9], [5, 7]], [END])
    assert found == {
        "of": 2,
        "equal": 0,
        "differ": [{"row": 0, "at": 1, "margin": 0.25}, {"row": 1, "at": 2, "margin": 1.0}],
    }
    assert compared(EXPECTED, [[5, 6, 7], [5, 7, 8]], [END])["differ"] == [{"row": 0, "at": 2, "margin": 3.0}]


def test_a_form_that_does_not_take_an_adapter_is_a_dash() -> None:
    part = {"of": 2, "equal": 1, "differ": [{"row": 0, "at": 1, "margin": 0.251}]}
    made = table({"sentiment/prefix_tuning": {"vllm kv_cache": part}})
    cells = [cell.strip() for cell in made.splitlines()[2].strip("|").split("|")]
    assert cells[0] == "sentiment, prefix"
    assert dict(zip(COLUMNS, cells[1:], strict=True))["vllm kv_cache"] == "1 of 2, margin ≤ 0.251"
    assert cells.count("-") == len(COLUMNS) - 1


def test_only_what_must_be_equal_decides() -> None:
    equal, other = ({"of": 2, "equal": count, "differ": []} for count in (2, 1))
    good: dict[str, Any] = {
        "float32": {"a/prompt_tuning": {"transformers": equal}},
        "bfloat16": {"a/prompt_tuning": {"vllm vocabulary, bfloat16": other}},
        "crossings": {"request_text": 0, "chat template": 0, "no helper": 20},
    }
    assert parity.passes(good)
    assert not parity.passes(good | {"float32": {"a/prompt_tuning": {"transformers": other}}})
    assert not parity.passes(good | {"crossings": {"request_text": 1, "no helper": 20}})


def test_settings_become_arguments() -> None:
    made = arguments({"max_model_len": 8, "enforce_eager": True, "kv_transfer_config": {"kv_role": "kv_consumer"}})
    assert made == ["--max-model-len", "8", "--enforce-eager", "--kv-transfer-config", '{"kv_role": "kv_consumer"}']


@pytest.mark.slow
def test_the_server_is_asked_as_it_runs(tiny_model: Path, tmp_path: Path) -> None:
    adapters = {}
    for seed, name in enumerate(("one/prompt_tuning", "two/prompt_tuning")):
        model, tokenizer = load_tuned(tiny_model, 5, seed)
        model.save_pretrained(str(tmp_path / name))
        texts = ["the film was good", "a plot", "very dull"]
        ids = [tokenizer(text).input_ids for text in texts]
        adapters[name] = {"folder": str(tmp_path / name), "texts": texts, "ids": ids}
    record = {"model": str(tiny_model), "new_tokens": 8, "adapters": adapters}
    ends = [tokenizer.eos_token_id]
    expected, found = local.peft(record, "float32"), local.own_server(tmp_path, record)
    for name in adapters:
        assert compared(expected[name], found[name], ends) == {"of": 3, "equal": 3, "differ": []}
    assert found["one/prompt_tuning"] != found["two/prompt_tuning"]
