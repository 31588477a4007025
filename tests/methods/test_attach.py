"""Initial values of a soft prompt, and how it is attached: PEFT's ways, without PEFT's traps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from helpers import TEXT, load_base, load_tuned, make_task, prompt_config
from made_models import make_base
from softprompts.config.methods import PromptConfig
from softprompts.errors import UserError
from softprompts.methods import attach as initial
from softprompts.methods.soft_prompts.prompt_tuning import add_soft_prompt
from softprompts.models.loading import count_parameters

import pytest
import torch
from peft import PeftModel, PromptTuningConfig, get_peft_model
from transformers import MambaConfig, MambaForCausalLM


def attach(folder: Path, tokens: int, dtype: str = "float32", **settings: Any) -> PeftModel:
    base, tokenizer = load_base(folder, dtype=dtype)
    return add_soft_prompt(base, tokenizer, prompt_config(folder, tokens, **settings))


def text(words: str) -> dict[str, str]:
    return {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": words}


def values(model: PeftModel) -> torch.Tensor:
    (parameter,) = model.prompt_encoder.parameters()
    return parameter.detach()


def rows(model: PeftModel, ids: list[int]) -> torch.Tensor:
    return model.get_input_embeddings().weight[ids].detach()


def ids_of(folder: Path, words: str, special: bool = False) -> list[int]:
    return load_base(folder)[1](words, add_special_tokens=special).input_ids


def test_text_starts_from_the_embeddings_of_the_text_without_special_tokens(tiny_model: Path) -> None:
    ids = ids_of(tiny_model, TEXT)
    tokenizer = load_base(tiny_model)[1]
    assert tokenizer.bos_token_id in ids_of(tiny_model, TEXT, special=True), "a tokenizer that adds special tokens"
    model = attach(tiny_model, len(ids), **text(TEXT))
    assert torch.equal(values(model), rows(model, ids))
    for special in tokenizer.all_special_ids:
        assert not (values(model) == rows(model, [special])).all(1).any()


def test_peft_by_itself_would_make_the_special_token_part_of_the_prompt(tiny_model: Path) -> None:
    # When PEFT has fixed this trap, `add_soft_prompt` can pass the text to PEFT.
    base, tokenizer = load_base(tiny_model)
    config = PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=4, tokenizer_name_or_path=str(tiny_model), **text(TEXT)
    )
    model = get_peft_model(base, config)
    assert torch.equal(values(model)[0], rows(model, [tokenizer.bos_token_id])[0])


@pytest.mark.parametrize("tokens", [1, 3, 8, 20, 41])
def test_a_short_text_repeats_and_a_long_one_is_cut(tiny_model: Path, tokens: int) -> None:
    ids = ids_of(tiny_model, "the film was very good")
    model = attach(tiny_model, tokens, **text("the film was very good"))
    assert torch.equal(values(model), rows(model, (ids * tokens)[:tokens]))


def test_sample_vocab_leaves_out_special_tokens_and_follows_the_seed(tiny_model: Path) -> None:
    def draw(seed: int) -> PeftModel:
        torch.manual_seed(seed)
        return attach(tiny_model, 250, prompt_tuning_init="SAMPLE_VOCAB")

    model, tokenizer = draw(0), load_base(tiny_model)[1]
    weight = rows(model, list(range(len(tokenizer))))
    chosen = [int((weight == row).all(1).nonzero()[0]) for row in values(model)]
    assert set(chosen).isdisjoint(tokenizer.all_special_ids)
    assert len(set(chosen)) > 100
    assert torch.equal(values(draw(0)), values(model))
    assert not torch.equal(values(draw(1)), values(model))


def test_sample_vocab_can_draw_nothing_but_ordinary_tokens(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Every special token's place in the list of those to draw from would show here.
    monkeypatch.setattr(torch, "randint", lambda low, high, size: torch.arange(low, high)[: size[0]])
    model, tokenizer = attach(tiny_model, 10, prompt_tuning_init="SAMPLE_VOCAB"), load_base(tiny_model)[1]
    first = [i for i in range(20) if i not in tokenizer.all_special_ids][:10]
    assert torch.equal(values(model), rows(model, first))


def test_random_is_standard_normal_and_follows_the_seed(tiny_model: Path) -> None:
    first, again, other = (values(load_tuned(tiny_model, tokens=100, seed=s)[0]) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.mean().abs() < 0.1
    assert 0.9 < first.std() < 1.1


@pytest.mark.parametrize("start", ["RANDOM", "SAMPLE_VOCAB"])
def test_a_seed_decides_the_values_whatever_was_drawn_before(tiny_model: Path, start: str) -> None:
    base, tokenizer = load_base(tiny_model)
    config = prompt_config(tiny_model, 20, prompt_tuning_init=start)

    def draw(seed: int | None, state: int) -> torch.Tensor:
        torch.manual_seed(state)
        return values(add_soft_prompt(base, tokenizer, config, seed=seed))

    assert torch.equal(draw(3, state=0), draw(3, state=1))
    assert not torch.equal(draw(3, state=0), draw(4, state=0))
    assert not torch.equal(draw(None, state=0), draw(None, state=1)), "without a seed the generator decides"
    assert torch.equal(draw(3, state=0), draw(None, state=3))


def test_a_base_takes_several_soft_prompts_that_share_nothing_but_it(tiny_model: Path) -> None:
    base, tokenizer = load_base(tiny_model)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    first, second = (add_soft_prompt(base, tokenizer, prompt_config(tiny_model, n), seed=n) for n in (2, 3))
    assert first.get_base_model() is second.get_base_model() is base
    assert [tuple(values(model).shape) for model in (first, second)] == [(2, 32), (3, 32)]
    kept = values(second).clone()
    with torch.no_grad():
        next(first.prompt_encoder.parameters()).zero_()
    assert torch.equal(values(second), kept)
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())


@pytest.mark.parametrize(
    "start", [text(TEXT), {"prompt_tuning_init": "SAMPLE_VOCAB"}, {"prompt_tuning_init": "RANDOM"}]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_only_the_prompt_trains_and_it_is_float32(tiny_model: Path, start: dict[str, str], dtype: str) -> None:
    model = attach(tiny_model, 7, dtype=dtype, **start)
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert [(p.dtype, tuple(p.shape)) for p in trainable] == [(torch.float32, (7, 32))]
    assert count_parameters(model).trainable == 7 * 32
    assert {p.dtype for p in model.get_base_model().parameters()} == {getattr(torch, dtype)}
    assert model.peft_config["default"].prompt_tuning_init == start["prompt_tuning_init"]


def test_the_settings_handed_in_stay_as_they_are(tiny_model: Path) -> None:
    base, tokenizer = load_base(tiny_model)
    config = prompt_config(tiny_model, 4, **text(TEXT))
    before = config.to_dict()
    add_soft_prompt(base, tokenizer, config)
    assert config.to_dict() == before


@pytest.mark.parametrize(
    ("tokens", "start", "message"),
    [
        (0, {}, r"prompt.num_virtual_tokens: expected a number above 0, found 0"),
        (-3, {}, r"prompt.num_virtual_tokens: expected a number above 0, found -3"),
        (None, {}, r"prompt.num_virtual_tokens: expected a number above 0, found None"),
        (256, {}, r"prompt.num_virtual_tokens: 256 virtual tokens leave no room in the model's 256 positions"),
        (4, text(""), r"prompt.prompt_tuning_init_text: TEXT requires a text that has tokens"),
    ],
)
def test_settings_without_sense_are_refused(tiny_model: Path, tokens: Any, start: dict[str, str], message: str) -> None:
    base, tokenizer = load_base(tiny_model)
    config = prompt_config(tiny_model, 4, **(text(TEXT) if start else {}))
    config.num_virtual_tokens = tokens
    if start:
        config.prompt_tuning_init_text = start["prompt_tuning_init_text"]
    with pytest.raises(UserError, match=f"^{message}$"):
        add_soft_prompt(base, tokenizer, config)


def test_of_an_encoder_decoder_the_encoder_gets_a_text_of_its_own_tokens(tiny_t5: Path) -> None:
    model = attach(tiny_t5, 4, **text(TEXT))
    assert torch.equal(values(model), rows(model, ids_of(tiny_t5, TEXT)[:4]))
    assert count_parameters(model).trainable == 4 * 32, "PEFT's default has as many again that nothing reads"


def test_what_peft_refuses_is_one_line(tiny_model: Path) -> None:
    base = MambaForCausalLM(MambaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, state_size=4))
    with pytest.raises(UserError, match=r"^prompt: .*num_attention_heads") as caught:
        add_soft_prompt(base, load_base(tiny_model)[1], prompt_config(tiny_model, 4))
    assert "\n" not in str(caught.value)


CHOICES = (" positive", " a very dull film", " awful")


def begin(folder: Path, start: str, tokens: int, seed: int = 0, choices: Any = CHOICES, **settings: Any) -> PeftModel:
    base, tokenizer = load_base(folder)
    config = PromptConfig(num_virtual_tokens=tokens, init_from=start, **settings)
    task = make_task([("a film", choice) for choice in choices], choices) if choices else None
    return add_soft_prompt(base, tokenizer, config, seed=seed, task=task)


def label_means(folder: Path, labels: tuple[str, ...]) -> torch.Tensor:
    weight = load_base(folder)[0].get_input_embeddings().weight
    return torch.stack([weight[ids_of(folder, label)].mean(0) for label in labels])


def places(model: PeftModel, found: torch.Tensor) -> list[int]:
    """Return the ids of the tokens whose embeddings these are."""
    weight = model.get_input_embeddings().weight
    return [int((weight == row).all(1).nonzero()[0]) for row in found]


def test_uniform_values_lie_between_minus_a_half_and_a_half(tiny_model: Path) -> None:
    found = values(begin(tiny_model, "uniform", 200))
    assert found.shape == (200, 32)
    assert -0.5 <= found.min() < -0.49
    assert 0.49 < found.max() <= 0.5
    assert found.mean().abs() < 0.02
    assert abs(found.std() - 12**-0.5) < 0.02, "the spread of a uniform distribution, not of a normal one"


def test_frequent_tokens_are_the_first_ordinary_ones(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initial, "FREQUENT", 20)
    model, tokenizer = begin(tiny_model, "frequent", 200), load_base(tiny_model)[1]
    first = [i for i in range(50) if i not in tokenizer.all_special_ids][:20]
    assert set(places(model, values(model))) == set(first), "all of them, in 200 draws, and nothing else"


def test_tokens_that_were_added_by_hand_are_not_frequent(tiny_model: Path) -> None:
    tokenizer = load_base(tiny_model)[1]
    tokenizer.add_tokens(["<repo_name>"])
    added = tokenizer.convert_tokens_to_ids("<repo_name>")
    assert added not in tokenizer.all_special_ids
    assert added in initial.sampled_ids(tokenizer, 5000)
    assert added not in initial.sampled_ids(tokenizer, 5000, 5000)


def test_a_vocabulary_of_fewer_tokens_is_taken_whole(tiny_model: Path) -> None:
    model, tokenizer = begin(tiny_model, "frequent", 250), load_base(tiny_model)[1]
    found = places(model, values(model))
    assert set(found).isdisjoint(tokenizer.all_special_ids)
    assert max(found) > 200


@pytest.mark.parametrize("count", [1, 2, 3])
def test_labels_come_first_and_are_cut_where_there_is_no_room(
    tiny_model: Path, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert [len(ids_of(tiny_model, label)) > 1 for label in CHOICES] == [False, True, False]
    assert torch.equal(values(begin(tiny_model, "labels", count)), label_means(tiny_model, CHOICES)[:count])
    said = f"3 labels do not fit into {count} virtual tokens; the soft prompt starts from the first {count}"
    assert (said in caplog.text) == (count < 3)


def test_a_text_that_is_no_start_is_not_saved_as_one(tiny_model: Path) -> None:
    for start, saved in (("labels", None), ("uniform", None), ("outputs", "the film")):
        model = begin(tiny_model, start, 9, prompt_tuning_init_text="the film")
        assert model.active_peft_config.prompt_tuning_init_text == saved, start


def test_behind_the_labels_stand_frequent_tokens(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initial, "FREQUENT", 10)
    model, tokenizer = begin(tiny_model, "labels", 12), load_base(tiny_model)[1]
    found = values(model)
    assert torch.equal(found[:3], label_means(tiny_model, CHOICES))
    assert set(places(model, found[3:])) <= set(range(10 + len(tokenizer.all_special_ids)))
    assert not torch.equal(values(begin(tiny_model, "labels", 12, seed=1))[3:], found[3:])


def test_labels_of_the_config_come_before_those_of_the_task(tiny_model: Path) -> None:
    model = begin(tiny_model, "labels", 1, init_labels=[" plot"])
    assert torch.equal(values(model), label_means(tiny_model, (" plot",)))


@pytest.mark.parametrize("start", ["uniform", "frequent", "labels"])
def test_a_start_of_ours_follows_the_seed_and_is_saved_as_peft_knows_it(
    tiny_model: Path, tmp_path: Path, start: str
) -> None:
    model = begin(tiny_model, start, 9, seed=3)
    assert torch.equal(values(begin(tiny_model, start, 9, seed=3)), values(model))
    assert not torch.equal(values(begin(tiny_model, start, 9, seed=4)), values(model))
    assert type(model.active_peft_config) is PromptTuningConfig
    assert values(model).dtype == torch.float32
    model.save_pretrained(str(tmp_path))
    saved = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert [key for key in saved if key.startswith("init_")] == []
    again = PeftModel.from_pretrained(load_base(tiny_model)[0], str(tmp_path))
    assert torch.equal(values(again), values(model))


def test_without_a_start_of_ours_all_is_as_with_peft_s_config(tiny_model: Path) -> None:
    base, tokenizer = load_base(tiny_model)
    for settings in (text(TEXT), {"prompt_tuning_init": "SAMPLE_VOCAB"}, {"prompt_tuning_init": "RANDOM"}):
        ours = PromptConfig(num_virtual_tokens=5, **settings)
        models = [add_soft_prompt(base, tokenizer, c, seed=0) for c in (ours, prompt_config(tiny_model, 5, **settings))]
        assert torch.equal(*map(values, models))
        assert models[0].active_peft_config == models[1].active_peft_config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"init_from": "labels"} | text(TEXT),
            "init_from: labels requires prompt_tuning_init: RANDOM, found TEXT; set that, or init_from to null",
        ),
        (
            {"init_from": "frequent", "prompt_tuning_init": "SAMPLE_VOCAB"},
            (
                "init_from: frequent requires prompt_tuning_init: RANDOM, found SAMPLE_VOCAB; "
                "set that, or init_from to null"
            ),
        ),
        (
            {"init_labels": [" a"]},
            "init_labels: applies only to init_from: labels; set that, or init_labels to null",
        ),
        (
            {"init_from": "uniform", "init_labels": [" a"]},
            "init_labels: applies only to init_from: labels; set that, or init_labels to null",
        ),
        (
            {"init_from": "labels", "init_labels": []},
            "init_labels: expected at least one label; null means the task's choices",
        ),
    ],
)
def test_ways_to_start_that_exclude_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        PromptConfig(num_virtual_tokens=4, **settings)
    assert str(caught.value) == f"prompt.{message}"


def test_labels_that_are_none_are_refused(tiny_model: Path) -> None:
    with pytest.raises(
        UserError, match=r"^prompt.init_from: labels requires a task with choices; otherwise set prompt"
    ):
        begin(tiny_model, "labels", 4, choices=None)
    with pytest.raises(UserError, match=r"^prompt.init_labels: '' tokenizes to nothing$"):
        begin(tiny_model, "labels", 4, init_labels=[" plot", ""])


@pytest.mark.parametrize(
    "settings",
    [
        {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": TEXT},
        {"prompt_tuning_init": "SAMPLE_VOCAB"},
        {"init_from": "frequent"},
        {"init_from": "labels"},
        {"init_from": "outputs"},
    ],
    ids=str,
)
def test_values_of_a_model_that_scales_its_embeddings_are_those_that_it_reads(
    tiny_model: Path, settings: dict[str, Any]
) -> None:
    base, tokenizer = scaling(tiny_model)
    task = make_task([("a film", " a"), ("a plot", " b")], (" a", " b"))
    config = PromptConfig(num_virtual_tokens=6, **settings)
    found = values(add_soft_prompt(base, tokenizer, config, seed=0, task=task))
    words = base.get_input_embeddings()(torch.arange(len(tokenizer)))
    if "labels" in settings.values():
        means = [words[tokenizer(label, add_special_tokens=False).input_ids].mean(0) for label in (" a", " b")]
        assert torch.equal(found[:2], torch.stack(means))
        found = found[2:]
    assert all((words == row).all(1).any() for row in found)
    if "prompt_tuning_init_text" in settings:
        ids = tokenizer(TEXT, add_special_tokens=False).input_ids
        assert torch.equal(found, words[[ids[i % len(ids)] for i in range(6)]])


def test_normal_values_of_a_model_that_scales_its_embeddings_have_the_scale_that_it_reads(tiny_model: Path) -> None:
    base, tokenizer = scaling(tiny_model)
    words = base.get_input_embeddings()(torch.arange(len(tokenizer)))
    torch.testing.assert_close(initial.words_of(base, tokenizer), words)
    found = values(add_soft_prompt(base, tokenizer, PromptConfig(num_virtual_tokens=100, init_from="normal"), seed=0))
    assert abs(found.std() / words.std() - 1) < 0.1


def scaling(folder: Path) -> tuple[Any, Any]:
    """Return a Gemma 3, whose embedding layer multiplies by the root of the width, with a tokenizer."""
    tokenizer = load_base(folder)[1]
    base = make_base("gemma3_text")
    base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return base.requires_grad_(False), tokenizer
