"""What the base model's folder says of generation decides nothing: answers are greedy, and equal to stock PEFT's."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers import CPU, METHODS, load_base, make_task
from made_tokenizers import metaspace_bytes, unigram, wordpiece, words
from softprompts.config import EvaluationConfig, ModelConfig
from softprompts.decoding import own_settings
from softprompts.encoding import EncodedTask, encode
from softprompts.endings import read_answer
from softprompts.engine import Engine
from softprompts.errors import UserError
from softprompts.evaluation import predict
from softprompts.models import InputSpec, input_spec, load_base_model, max_positions, own_ends
from softprompts.prompts.initial import sampled_ids

import pytest
import torch
from accelerate import Accelerator
from peft import get_peft_model
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

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


def adapted(base: Any, method: str) -> Any:
    """Put one of METHODS on a base model, at values that a seed decides."""
    torch.manual_seed(3)
    config = METHODS[method]
    return base if config is None else get_peft_model(base, replace(config)).eval()


def by_stock(model: Any, new: int, prompts: list[tuple[int, ...]]) -> list[list[int]]:
    """Return what stock PEFT writes, one row without padding at a time, with plain settings."""
    plain = GenerationConfig(max_new_tokens=new, do_sample=False, eos_token_id=1, pad_token_id=0, use_cache=True)
    written = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        (row,) = model.generate(input_ids=ids, attention_mask=mask, generation_config=plain).tolist()
        answer = row[len(prompt) :]
        written.append(answer[: answer.index(1)] if 1 in answer else answer)
    return written


@pytest.fixture(scope="module")
def stock(tiny_model: Path) -> dict[str, list[list[int]]]:
    """What stock PEFT writes over the tiny model as it is, by method."""
    return {method: by_stock(adapted(load_base(tiny_model)[0], method), 8, PROMPTS) for method in ADAPTED}


def test_the_reference_differs_by_method_and_row(stock: dict[str, list[list[int]]]) -> None:
    answers = [tuple(answer) for rows in stock.values() for answer in rows]
    assert len(set(answers)) == len(answers)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", HOSTILE)
def test_a2_a3_answers_equal_stock_pefts_whatever_the_folder_says(
    name: str, packed: bool, tiny_model: Path, tmp_path: Path, stock: dict[str, list[list[int]]]
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 1} | HOSTILE[name]))
    for method in ADAPTED:
        base, tokenizer = load_base(folder)
        engine = Engine(adapted(base, method), tokenizer, packed)
        before = base.generation_config.to_dict()
        assert engine.answers(PROMPTS, [0] * 3, (), {"max_new_tokens": 8}) == stock[method], method
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
        assert engine.answers(PROMPTS, [0] * 3, (), {"max_new_tokens": 8}) == stock[method], method


def test_a3_an_encoder_decoder_writes_by_settings_of_our_own(tiny_t5: Path) -> None:
    plain = load_base(tiny_t5)
    expected = Engine(*plain).answers(PROMPTS, [0] * 3, (), {"max_new_tokens": 8})
    base, tokenizer = load_base(tiny_t5)
    base.generation_config.update(num_beams=3, repetition_penalty=1.8, min_new_tokens=8, num_return_sequences=2)
    assert Engine(base, tokenizer).answers(PROMPTS, [0] * 3, (), {"max_new_tokens": 8}) == expected


def test_a3_samples_are_drawn_from_all_tokens(tiny_model: Path) -> None:
    base, _ = load_base(tiny_model)
    with own_settings(base, (1,), {"do_sample": True, "max_new_tokens": 4}) as settings:
        assert settings.top_k == 0
    with own_settings(base, (1,), {"do_sample": True, "top_k": 7, "max_new_tokens": 4}) as settings:
        assert settings.top_k == 7


def scripted(engine: Engine, script: list[int]) -> Any:
    """Let a model write these tokens, whatever it reads; remove the hook that is returned afterwards."""
    left = iter(script)

    def shifted(_: object, __: object, logits: torch.Tensor) -> torch.Tensor:
        if logits.shape[1] == 0:
            return logits
        forced = torch.full_like(logits, -50.0)
        forced[:, -1, next(left)] = 50.0
        return forced

    return engine.base.get_output_embeddings().register_forward_hook(shifted)


def written(engine: Engine, data: EncodedTask, script: list[int]) -> str:
    """Return what the library takes for the answer to the first test row if a model writes these tokens."""
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


def test_b1_a_tokenizer_without_an_end_is_one_line(tmp_path: Path) -> None:
    endless = words()
    task = make_task([("the film", "good")])
    with pytest.raises(
        UserError, match=r"has no end-of-sequence token \(eos_token\): a written answer would never end"
    ):
        encode(task, endless)
    data = encode(task, endless, needs_end=False)
    assert data.ends == ()
    assert data.test[0].document.target_ids == tuple(endless("good").input_ids)
    nested = make_task([("the film", "good"), ("the plot", "good film")], choices=("good", "good film"))
    with pytest.raises(UserError, match=r"choice 'good' begins choice 'good film', and needs an end"):
        encode(nested, endless)


@pytest.mark.parametrize("packed", [True, False])
def test_b1_rows_without_padding_and_end_tokens_are_written(tiny_model: Path, packed: bool) -> None:
    base, tokenizer = load_base(tiny_model)
    expected = Engine(base, tokenizer, packed).generate(PROMPTS, 6)
    tokenizer.pad_token = tokenizer.eos_token = None
    assert Engine(base, tokenizer, packed).generate(PROMPTS, 6) == expected


def test_b1_a_separator_is_an_end_where_there_is_no_other() -> None:
    data = encode(make_task([("the film", "good")]), wordpiece())
    assert data.test[0].document.target_ids[-1] == 3
    assert data.ends == (3,)


def test_b2_an_answer_follows_its_prompt_without_what_ends_a_text() -> None:
    tokenizer = wordpiece()
    document = encode(make_task([("the film", " good")], choices=(" good", " bad")), tokenizer).test[0].document
    assert tokenizer.convert_ids_to_tokens([*document.prompt_ids, *document.target_ids]) == [
        "[CLS]",
        "the",
        "film",
        "good",
    ]


@pytest.mark.parametrize(("prompt", "target"), [("the new", " good"), ("the film", " new")])
def test_b3_tokens_without_an_embedding_are_one_line(tiny_model: Path, prompt: str, target: str) -> None:
    base, tokenizer = load_base(tiny_model)
    tokenizer.add_tokens(["new"])
    said = r"row 1: token 'new' has the number 326, and the base model has embeddings of 326 tokens only"
    with pytest.raises(UserError, match=said):
        encode(make_task([(prompt, target)]), tokenizer, input_spec(base))


def test_b3_initial_values_are_drawn_among_the_embeddings(tiny_model: Path) -> None:
    _, tokenizer = load_base(tiny_model)
    before = len(tokenizer)
    tokenizer.add_tokens([f"new{n}" for n in range(2000)])
    assert max(sampled_ids(tokenizer, 500, rows=before)) < before


@pytest.fixture(scope="module")
def short_gpt2(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Folder of a random GPT-2 with 24 learned positions."""
    folder = tmp_path_factory.mktemp("gpt2") / "model"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=24, bos_token_id=0, eos_token_id=1
    )
    model = GPT2LMHeadModel(config)
    torch.nn.init.normal_(model.transformer.wte.weight, std=0.5)
    torch.nn.init.normal_(model.transformer.wpe.weight, std=0.5)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("method", ["base", "prompt tuning", "prefix tuning", "lora"])
def test_b4_answers_stop_at_the_last_learned_position(short_gpt2: Path, method: str, packed: bool) -> None:
    base, tokenizer = load_base(short_gpt2)
    engine = Engine(adapted(base, method), tokenizer, packed)
    engine.ends = (1,)
    virtual = 5 if method in ("prompt tuning", "prefix tuning") else 0
    prompts = [(5, 6), tuple(range(20, 30)), tuple(range(40, 59 - virtual))]
    answers = engine.answers(prompts, [0] * 3, (), {"max_new_tokens": 100})
    room = [24 - virtual - len(prompt) + 1 for prompt in prompts]
    assert all(len(answer) <= most for answer, most in zip(answers, room, strict=True))
    for prompt, answer, most in zip(prompts, answers, room, strict=True):
        assert [answer] == by_stock(engine.model, most, [prompt]), "neither cut short by the others, nor other words"
    assert any(len(answer) == most for answer, most in zip(answers, room, strict=True))


def test_b4_an_encoder_decoder_stops_at_its_last_learned_position(tiny_model: Path, tmp_path: Path) -> None:
    config = BartConfig(
        vocab_size=326,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=16,
        forced_eos_token_id=None,
    )
    torch.manual_seed(0)
    BartForConditionalGeneration(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path)
    (answer,) = Engine(*load_base(tmp_path)).answers([(5, 6)], [0], (), {"max_new_tokens": 60})
    assert len(answer) <= 16


def roberta(folder: Path, tiny_model: Path) -> Path:
    config = RobertaConfig(
        vocab_size=326,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=18,
        pad_token_id=2,
        num_labels=2,
    )
    RobertaForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


def test_b5_positions_that_begin_behind_the_padding_are_counted(tmp_path: Path, tiny_model: Path) -> None:
    folder = roberta(tmp_path, tiny_model)
    base, tokenizer = load_base_model(ModelConfig(str(folder)), CPU, (" good", " bad"))
    assert max_positions(base) == 18 - 3
    text = "the film was a very dull plot and a good cast and a bad film and a dull plot"
    task = make_task([(text, " good")], choices=(" good", " bad"), long_rows="cut_prompt")
    data = encode(task, tokenizer, input_spec(base))
    assert len(data.test[0].document.prompt_ids) == 15, "all of the room is used: the target takes none of it"
    outcome = predict(Engine(base, tokenizer), data.test, EvaluationConfig(), Accelerator(), "")
    assert outcome.predictions[0].prediction in (" good", " bad")


@pytest.mark.parametrize(
    "text",
    [
        "电影很好看，演员也很好，情节却有点无聊。" * 4,
        "👍🏽 naïve — très bien " * 8,
        "the film was good " * 12,
        "▁▁▁" * 30,
    ],
)
@pytest.mark.parametrize("length", [24, 40, 41])
def test_b6_a_long_message_loses_its_beginning(text: str, length: int) -> None:
    tokenizer = metaspace_bytes()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}:{{ m['content'] }}{{ '</s>' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    task = make_task([(text, "good")], chat=True, long_rows="cut_prompt", max_length=length)
    document = encode(task, tokenizer).test[0].document
    assert len(document.prompt_ids) + len(document.target_ids) <= length
    shown = tokenizer.decode(document.prompt_ids)
    assert shown.rstrip().endswith("assistant:")
    message = shown.partition("user:")[2].partition("</s>")[0].strip()
    assert message
    assert text.strip().endswith(message), "what is left is the end of the text, whole characters only"


def test_b6_a_message_of_which_nothing_would_be_left_is_one_line() -> None:
    tokenizer = metaspace_bytes()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}" + "the film " * 10
    task = make_task([("电影很好看", "good")], chat=True, long_rows="cut_prompt", max_length=12)
    with pytest.raises(UserError, match=r"row 1: .*shorten the row"):
        encode(task, tokenizer)


def test_an_answer_is_read_up_to_its_end() -> None:
    tokenizer = unigram()
    ids = tokenizer("good film", add_special_tokens=False).input_ids
    assert read_answer(tokenizer, [*ids, 1, *ids], (1,)) == read_answer(tokenizer, ids, ())
    assert InputSpec().ends == ()
