"""Tokenizers and models with limits: no end, no padding, too few embeddings, too few positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers import CPU, load_base, make_task
from made_tokenizers import metaspace_bytes, wordpiece, words
from softprompts.config.sections import EvaluationConfig, ModelConfig
from softprompts.encoding.tokenization import encode
from softprompts.engine.forward import Engine
from softprompts.engine.generation import answers, generate
from softprompts.errors import UserError
from softprompts.evaluation.predict import predict
from softprompts.methods.attach import sampled_ids
from softprompts.models.loading import InputSpec, input_spec, load_base_model, max_positions
from stock_peft import adapted, by_stock

import pytest
import torch
from accelerate import Accelerator
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LEDConfig,
    LEDForConditionalGeneration,
    RobertaConfig,
    RobertaForSequenceClassification,
)

PROMPTS = [(5, 6), tuple(range(20, 33)), tuple(range(100, 140))]


def test_b1_a_tokenizer_without_an_end_is_one_line(tmp_path: Path) -> None:
    endless = words()
    task = make_task([("the film", "good")])
    with pytest.raises(
        UserError, match=r"has no end-of-sequence token \(eos_token\): a generated prediction would never end"
    ):
        encode(task, endless)
    data = encode(task, endless, needs_end=False)
    assert data.ends == ()
    assert data.test[0].document.target_ids == tuple(endless("good").input_ids)
    nested = make_task([("the film", "good"), ("the plot", "good film")], choices=("good", "good film"))
    with pytest.raises(UserError, match=r"choice 'good' begins choice 'good film' and requires an end"):
        encode(nested, endless)


def test_more_virtual_tokens_than_positions_are_named(tiny_model: Path) -> None:
    with pytest.raises(
        UserError, match=r"^num_virtual_tokens: 300 virtual tokens leave no room in the model's 256 positions$"
    ):
        input_spec(load_base(tiny_model)[0], 300)


@pytest.mark.parametrize("packed", [True, False])
def test_b1_rows_without_padding_and_end_tokens_are_written(tiny_model: Path, packed: bool) -> None:
    base, tokenizer = load_base(tiny_model)
    expected = generate(Engine(base, tokenizer, packed), PROMPTS, 6)
    tokenizer.pad_token = tokenizer.eos_token = None
    assert generate(Engine(base, tokenizer, packed), PROMPTS, 6) == expected


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
    said = r"row 1: token 'new' has the number 326, and the base model has only embeddings of 326 tokens"
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
    written = answers(engine, prompts, {"max_new_tokens": 100})
    room = [24 - virtual - len(prompt) + 1 for prompt in prompts]
    assert all(len(answer) <= most for answer, most in zip(written, room, strict=True))
    for prompt, answer, most in zip(prompts, written, room, strict=True):
        assert [answer] == by_stock(engine.model, most, [prompt]), "neither cut short by the others, nor other words"
    assert any(len(answer) == most for answer, most in zip(written, room, strict=True))


SMALL_BART: dict[str, Any] = {
    "vocab_size": 326,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "forced_eos_token_id": None,
}


def test_b4_an_encoder_decoder_stops_at_its_last_learned_position(tiny_model: Path, tmp_path: Path) -> None:
    config = BartConfig(**SMALL_BART, max_position_embeddings=16)
    torch.manual_seed(0)
    BartForConditionalGeneration(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path)
    (answer,) = answers(Engine(*load_base(tmp_path)), [(5, 6)], {"max_new_tokens": 60})
    assert len(answer) <= 16


def test_prompt_and_target_of_an_encoder_decoder_have_positions_of_their_own(tiny_model: Path) -> None:
    tokenizer = load_base(tiny_model)[1]
    spec = InputSpec("encoder-decoder", room=12, target_room=16)
    long = " good" * 7
    document = encode(make_task([(" film" * 10, long)], long_rows="cut_prompt"), tokenizer, spec).test[0].document
    assert len(document.prompt_ids) + len(document.target_ids) > 16
    assert tokenizer.decode(document.prompt_ids, skip_special_tokens=True) == " film" * 10, "nothing is cut"
    message = (
        r"^row 1: \d+ tokens of the prompt do not fit into 12; the base model has no more positions, shorten the row"
    )
    with pytest.raises(UserError, match=message):
        encode(make_task([(" film" * 13, " good")]), tokenizer, spec)
    cut = encode(make_task([(" film" * 13, long)], long_rows="cut_prompt"), tokenizer, spec).test[0].document
    assert len(cut.prompt_ids) == 12
    message = r"^row 1: \d+ tokens of the target do not fit into 16; the base model has no more positions, shorten"
    with pytest.raises(UserError, match=message):
        encode(make_task([(" film", " good" * 20)], long_rows="cut_prompt"), tokenizer, spec)
    with pytest.raises(
        UserError, match=r"^row 1: \d+ tokens \(\d+ of them target\) do not fit into 14; raise task.max_len"
    ):
        encode(make_task([(" film" * 10, long)], max_length=14), tokenizer, spec)


def test_a_soft_prompt_takes_no_room_from_the_targets_of_an_encoder_decoder() -> None:
    spec = input_spec(BartForConditionalGeneration(BartConfig(**SMALL_BART, max_position_embeddings=64)), 20)
    assert (spec.room, spec.target_room) == (44, 64)
    positions = {"max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 16, "attention_window": 8}
    spec = input_spec(LEDForConditionalGeneration(LEDConfig(**SMALL_BART, **positions)), 20)
    assert (spec.room, spec.target_room) == (44, 16)


def roberta(folder: Path, tiny_model: Path) -> Path:
    config = RobertaConfig(
        vocab_size=326,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=18,
        pad_token_id=2,
        id2label={0: "good", 1: "bad"},
        label2id={"good": 0, "bad": 1},
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
    ["电影很好看，演员也很好，情节却有点无聊。" * 4, "👍🏽 naïve — très bien " * 8, "the film was good " * 12],
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
