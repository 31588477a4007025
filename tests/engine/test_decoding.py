"""Generation settings in the base model's folder have no effect: answers are greedy, and equal to stock PEFT's."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

from helpers import load_base, make_task
from made_tokenizers import unigram
from softprompts.config.sections import EvaluationConfig
from softprompts.encoding.documents import EncodedTask
from softprompts.encoding.endings import read_answer
from softprompts.encoding.tokenization import encode
from softprompts.engine.forward import Engine
from softprompts.engine.generation import answers, own_settings
from softprompts.evaluation.predict import predict
from softprompts.models.loading import InputSpec, input_spec, own_ends
from stock_peft import adapted, by_stock

import pytest
import torch
from accelerate import Accelerator

PROMPTS = [(5, 6), tuple(range(20, 33)), tuple(range(100, 140))]
HOSTILE: dict[str, dict[str, Any]] = {
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "offloaded cache": {"cache_implementation": "offloaded"},
    "repetition penalty": {"repetition_penalty": 1.5},
    "no repeated words": {"no_repeat_ngram_size": 1},
    "beams": {"num_beams": 3},
    "beams that return several": {"num_beams": 3, "num_return_sequences": 2, "early_stopping": True},
    "several answers": {"num_return_sequences": 2, "do_sample": True},
    "samples": {"do_sample": True, "temperature": 3.0, "top_k": 5},
    "forced end": {"forced_eos_token_id": 7},
    "forced beginning": {"forced_bos_token_id": 7},
    "suppressed tokens": {"suppress_tokens": list(range(50, 250)), "begin_suppress_tokens": list(range(250, 320))},
    "bad words": {"bad_words_ids": [[n] for n in range(3, 200)]},
    "a bias": {"sequence_bias": [[[9], 50.0]]},
    "least length": {"min_length": 500, "min_new_tokens": 6},
    "greatest length": {"max_length": 3},
    "stop texts": {"stop_strings": ["a", "e", "o"]},
    "time": {"max_time": 0.0001},
    "guidance": {"guidance_scale": 3.0},
    "penalty of length": {"exponential_decay_length_penalty": [1, 5.0]},
    "penalty of the prompt": {"encoder_repetition_penalty": 3.0},
    "prompt look-up": {"prompt_lookup_num_tokens": 3},
}
ADAPTED = ("base", "prompt tuning", "prefix tuning", "P-tuning MLP", "lora")


@pytest.fixture(scope="module")
def stock(tiny_model: Path) -> dict[str, list[list[int]]]:
    """Stock PEFT's answers with the unchanged tiny model, by method."""
    return {method: by_stock(adapted(load_base(tiny_model)[0], method), 8, PROMPTS) for method in ADAPTED}


def test_the_reference_differs_by_method_and_row(stock: dict[str, list[list[int]]]) -> None:
    written = [tuple(answer) for rows in stock.values() for answer in rows]
    assert len(set(written)) == len(written)


@pytest.mark.parametrize("name", HOSTILE)
def test_a2_a3_answers_equal_stock_pefts_whatever_the_folder_says(
    name: str, tiny_model: Path, tmp_path: Path, stock: dict[str, list[list[int]]]
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 1} | HOSTILE[name]))
    loaded, tokenizer = load_base(folder)
    for method in ADAPTED:
        base = copy.deepcopy(loaded)
        model, before = adapted(base, method), base.generation_config.to_dict()
        for packed in (True, False):
            engine = Engine(model, tokenizer, packed)
            assert answers(engine, PROMPTS, {"max_new_tokens": 8}) == stock[method], (method, packed)
            assert base.generation_config.to_dict() == before


def test_a2_the_cache_that_config_json_switches_off_is_used(
    tiny_model: Path, tmp_path: Path, stock: dict[str, list[list[int]]]
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "generation_config.json").unlink()
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"use_cache": False}))
    for method in ADAPTED:
        base, tokenizer = load_base(folder)
        engine = Engine(adapted(base, method), tokenizer, packed=True)
        assert answers(engine, PROMPTS, {"max_new_tokens": 8}) == stock[method], method


def test_a3_an_encoder_decoder_writes_by_settings_of_our_own(tiny_t5: Path) -> None:
    plain = load_base(tiny_t5)
    expected = answers(Engine(*plain), PROMPTS, {"max_new_tokens": 8})
    base, tokenizer = load_base(tiny_t5)
    base.generation_config.update(num_beams=3, repetition_penalty=1.8, min_new_tokens=8, num_return_sequences=2)
    assert answers(Engine(base, tokenizer), PROMPTS, {"max_new_tokens": 8}) == expected


def test_a3_samples_are_drawn_from_all_tokens(tiny_model: Path) -> None:
    base, _ = load_base(tiny_model)
    with own_settings(base, (1,), {"do_sample": True, "max_new_tokens": 4}) as settings:
        assert settings.top_k == 0
    with own_settings(base, (1,), {"do_sample": True, "top_k": 7, "max_new_tokens": 4}) as settings:
        assert settings.top_k == 7


def scripted(engine: Engine, script: list[int]) -> Any:
    """Make a model write these tokens for any input; the caller removes the returned hook."""
    left = iter(script)

    def shifted(_: object, __: object, logits: torch.Tensor) -> torch.Tensor:
        if logits.shape[1] == 0:
            return logits
        forced = torch.full_like(logits, -50.0)
        forced[:, -1, next(left)] = 50.0
        return forced

    return engine.base.get_output_embeddings().register_forward_hook(shifted)


def written(engine: Engine, data: EncodedTask, script: list[int]) -> str:
    """Return the library's answer to the first test row if a model writes these tokens."""
    engine.ends = data.ends
    hook = scripted(engine, [script[0], *script])  # the loss of the target is computed first
    evaluation = EvaluationConfig(max_new_tokens=len(script))
    outcome = predict(engine, data.test[:1], evaluation, Accelerator(), "")
    hook.remove()
    return outcome.predictions[0].prediction


@pytest.mark.parametrize("packed", [True, False])
def test_a4_an_answer_ends_where_training_taught_and_where_the_base_does(tiny_model: Path, packed: bool) -> None:
    base, tokenizer = load_base(tiny_model)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] }}{{ '<pad>' if m['role'] == 'assistant' else ':' }}{% endfor %}"
    )
    data = encode(make_task([("the film", "good")], chat=True), tokenizer, input_spec(base))
    good, taught, own = tokenizer("good", add_special_tokens=False).input_ids, tokenizer.pad_token_id, 1
    assert data.test[0].document.target_ids == (*good, taught)
    assert own_ends(base) == (own,)
    for end in (taught, own):
        assert written(Engine(base, tokenizer, packed), data, [*good, end, *good, *good]) == "good"


@pytest.mark.parametrize("packed", [True, False])
def test_a11_special_tokens_of_a_target_come_back(
    tiny_model: Path, packed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    base, tokenizer = load_base(tiny_model)
    data = encode(make_task([("the film", "good<pad>fine")]), tokenizer, input_spec(base))
    assert not capsys.readouterr().err, "no warning of it"
    target = data.test[0].document.target_ids
    assert tokenizer.pad_token_id in target
    assert written(Engine(base, tokenizer, packed), data, list(target)) == "good<pad>fine"


def test_a11_a_target_that_holds_its_own_end_is_said(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, tokenizer = load_base(tiny_model)
    encode(make_task([("the film", "good</s>fine")]), tokenizer, input_spec(base))
    assert "row 1: 'good</s>fine' comes back as 'good'" in capsys.readouterr().err


def test_an_answer_is_read_up_to_its_end() -> None:
    tokenizer = unigram()
    ids = tokenizer("good film", add_special_tokens=False).input_ids
    assert read_answer(tokenizer, [*ids, 1, *ids], (1,)) == read_answer(tokenizer, ids, ())
    assert InputSpec().ends == ()
