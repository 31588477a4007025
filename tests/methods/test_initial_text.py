"""What soft prompts and prefixes start from: texts of the task, filled up, and values of the base model's scale."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers import TEXT, load_base, make_task, scores
from softprompts.config.methods import PrefixConfig, PromptConfig
from softprompts.config.sections import ModelConfig
from softprompts.encoding.documents import Document
from softprompts.engine.forward import Engine
from softprompts.errors import UserError
from softprompts.methods import attach as initial, initial_text
from softprompts.methods.initial_text import demonstrations
from softprompts.methods.soft_prompts import prefix_tuning
from softprompts.methods.soft_prompts.prefix_tuning import add_prefix
from softprompts.methods.soft_prompts.prompt_tuning import add_soft_prompt
from softprompts.models.bundled import resolve
from softprompts.models.loading import load_base_model
from softprompts.models.peft_compat import encoder_of
from softprompts.tasks.task import Task, in_words

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, PromptTuningConfig
from transformers import AutoTokenizer, DynamicCache

CHOICES = (" positive", " negative")
ROWS = [
    ("the film was good", " positive"),
    ("a very fine plot and a lovely cast", " positive"),
    ("great", " positive"),
    ("the plot was dull and the cast was poor", " negative"),
    ("awful", " negative"),
]
SCHEMA = {"properties": {"intent": {"enum": ["on", "off"]}, "slots": {"properties": {"area": {"type": "string"}}}}}
DOCUMENTS = [Document((0, 5, 6), (7,)), Document((0, *range(20, 33)), (40, 41, 42))]
NO_TEXT = (
    "init_fill: frequent requires a text for the initial values; set it to repeat, or init_from to outputs or "
    "demonstrations"
)
NETWORK = (
    "for the network cannot reproduce given keys and values; set init_adapter to null, or prefix_projection to false"
)
WAYS = {"prompt": ["normal", "outputs", "demonstrations"]}
WAYS["prefix"] = [*WAYS["prompt"], "instruction", "zero"]
EACH = [(section, way) for section, ways in WAYS.items() for way in ways]


def task_of(rows: list[tuple[str, str]] = ROWS, choices: Any = CHOICES) -> Task:
    return make_task(rows, choices)


def begin(folder: Path, section: str, count: int, seed: int | None = 0, task: Any = None, **settings: Any) -> PeftModel:
    """Return the tiny model with a soft prompt or a prefix."""
    base, tokenizer = load_base(folder)
    task = task or task_of()
    if section == "prompt":
        config = PromptConfig(num_virtual_tokens=count, **settings)
        return add_soft_prompt(base, tokenizer, config, seed=seed, task=task).eval()
    return add_prefix(base, tokenizer, PrefixConfig(num_virtual_tokens=count, **settings), seed=seed, task=task).eval()


def values(model: PeftModel) -> torch.Tensor:
    found: torch.Tensor = encoder_of(model).embedding.weight
    return found.detach()


def ids_of(folder: Path, text: str) -> list[int]:
    found: list[int] = load_base(folder)[1](text, add_special_tokens=False).input_ids
    return found


def of_tokens(folder: Path, section: str, ids: list[int]) -> torch.Tensor:
    """Return the values of tokens: their embeddings, or the keys and values of every layer."""
    base = load_base(folder)[0]
    if section == "prompt":
        return base.get_input_embeddings().weight[ids].detach()
    cache = DynamicCache()
    with torch.no_grad():
        base(torch.tensor([ids]), past_key_values=cache)
    layers: Any = cache.layers
    both = [part[0].transpose(0, 1).flatten(1) for layer in layers for part in (layer.keys, layer.values)]
    return torch.cat(both, dim=1)


def check_text(folder: Path, section: str, count: int, text: str, **settings: Any) -> None:
    ids = ids_of(folder, text)
    expected = of_tokens(folder, section, (ids * count)[:count])
    torch.testing.assert_close(values(begin(folder, section, count, **settings)), expected)


@pytest.mark.parametrize("section", WAYS)
@pytest.mark.parametrize("count", [3, 25])
def test_outputs_are_the_choices_or_the_names_in_the_schema(tiny_model: Path, section: str, count: int) -> None:
    check_text(tiny_model, section, count, "positive, negative", init_from="outputs")
    task = replace(task_of(choices=None), schema=SCHEMA)
    check_text(tiny_model, section, count, "intent slots on off area", init_from="outputs", task=task)


@pytest.mark.parametrize(("section", "key"), [("prompt", "prompt_tuning_init_text"), ("prefix", "init_text")])
def test_a_given_text_goes_first(tiny_model: Path, section: str, key: str) -> None:
    check_text(tiny_model, section, 20, f"{TEXT} positive, negative", init_from="outputs", **{key: TEXT})
    model = begin(tiny_model, section, 60, init_from="demonstrations", init_fill="frequent", **{key: TEXT})
    written = initial_text.initial_text(
        "demonstrations", task_of(), seeded(tiny_model, section, 60), 60, first=TEXT, section=section
    )
    assert written.startswith(f"{TEXT}\n\n")
    ids = ids_of(tiny_model, written)
    if section == "prompt":
        assert torch.equal(values(model)[-len(ids) :], of_tokens(tiny_model, section, ids))


def seeded(folder: Path, section: str, count: int, seed: int = 0) -> Any:
    """Return the tokenizer; PyTorch's generator has the state after a soft prompt of this length was attached."""
    base, tokenizer = load_base(folder)
    config = PromptTuningConfig if section == "prompt" else PrefixTuningConfig
    initial.attach(base, config(num_virtual_tokens=count), section=section, seed=seed)
    return tokenizer


def test_an_instruction_of_a_prefix_is_the_task_in_words(tiny_model: Path) -> None:
    check_text(tiny_model, "prefix", 12, "text: positive or negative", init_from="instruction")


@pytest.mark.parametrize(
    ("prompt", "target", "words"),
    [
        ("{text}\nSummary:", " {summary}", "Write the summary for the following text."),
        ("{name}\n{text}", "{a} {b}", "Write the a and b for the following name and text."),
        ("Translate into German: {text}", " {german}", "Translate into German:"),
        ("{text}", "yes", "Write the answer for the following text."),
    ],
)
def test_an_open_task_in_words_is_an_instruction(prompt: str, target: str, words: str) -> None:
    task = make_task([("a", "b")])
    assert in_words(replace(task, config=replace(task.config, prompt=prompt, target=target))) == words


@pytest.mark.parametrize("section", WAYS)
def test_a_short_text_is_filled_up_with_frequent_tokens(
    tiny_model: Path, section: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(initial, "FREQUENT", 1)
    tokenizer = load_base(tiny_model)[1]
    frequent = next(n for n in range(len(tokenizer)) if n not in tokenizer.all_special_ids)
    ids = ids_of(tiny_model, "positive, negative")
    filled = [*ids, *[frequent] * (12 - len(ids))]
    assert len(ids) < 12
    found = values(begin(tiny_model, section, 12, init_from="outputs", init_fill="frequent"))
    torch.testing.assert_close(found, of_tokens(tiny_model, section, filled))
    short = values(begin(tiny_model, section, 2, init_from="outputs", init_fill="frequent"))
    torch.testing.assert_close(short, of_tokens(tiny_model, section, ids[:2]))


def test_frequent_tokens_fill_up_a_text_of_ones_own(tiny_model: Path) -> None:
    ids = ids_of(tiny_model, TEXT)
    own = {"prompt_tuning_init_text": TEXT, "init_fill": "frequent"}
    found, other = (values(begin(tiny_model, "prompt", len(ids) + 9, seed=seed, **own)) for seed in (0, 1))
    assert torch.equal(found[: len(ids)], of_tokens(tiny_model, "prompt", ids))
    assert torch.equal(found[: len(ids)], other[: len(ids)])
    assert not torch.equal(found, other)
    repeated = values(begin(tiny_model, "prompt", len(ids) + 9, prompt_tuning_init_text=TEXT))
    assert torch.equal(repeated[len(ids) :], of_tokens(tiny_model, "prompt", ids[:9])), "the default, as before"


def test_demonstrations_take_turns_between_choices(tiny_model: Path) -> None:
    tokenizer = load_base(tiny_model)[1]
    rows = [("good", CHOICES[n > 8]) for n in range(10)]  # one of ten is negative
    for seed in range(5):
        torch.manual_seed(seed)
        found = demonstrations(task_of(rows), tokenizer, 3 * len(ids_of(tiny_model, "good positive\n\n")), "prompt")
        assert {row.target for row in found[:2]} == set(CHOICES)


def test_demonstrations_of_written_targets_cover_most_tokens_first(tiny_model: Path) -> None:
    tokenizer = load_base(tiny_model)[1]
    rows = [("a", target) for target in (" film plot", " bad film bad film", " film plot cast", " bad dull")]
    for seed in range(5):
        torch.manual_seed(seed)
        found = [row.target for row in demonstrations(task_of(rows, None), tokenizer, 1000, "prompt")]
        assert found[:2] == [" film plot cast", " bad dull"]
        assert set(found[2:]) == {" film plot", " bad film bad film"}, "all was covered, and it began again"


@pytest.mark.parametrize("room", [8, 20, 33, 60])
def test_as_many_demonstrations_as_fit(tiny_model: Path, room: int) -> None:
    tokenizer = load_base(tiny_model)[1]
    torch.manual_seed(1)
    found = demonstrations(task_of(), tokenizer, room, "prompt")
    length = {row.place: len(ids_of(tiny_model, f"{row.prompt}{row.target}\n\n")) for row in task_of().splits["train"]}
    left = room - sum(length[row.place] for row in found)
    assert left >= 0
    assert len({row.place for row in found}) == len(found)
    assert all(n > left for place, n in length.items() if place not in {row.place for row in found})


@pytest.mark.parametrize("start", ["", f"{TEXT}\n\n"])
def test_demonstrations_fit_together_with_a_real_tokenizer(start: str) -> None:
    """In SmolLM2's, two line ends are one token at the end of a text, and two before another row."""
    tokenizer = AutoTokenizer.from_pretrained(resolve("bundled:smollm2-135m-instruct"))

    def length(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False).input_ids)

    row = "good positive\n\n"
    assert length(row + row) > 2 * length(row)
    task = task_of([("good", CHOICES[0])] * 12)
    for count in range(length(start + row), length(start + 9 * row)):
        found = demonstrations(task, tokenizer, count, "prompt", start=start)
        assert length(start + len(found) * row) <= count < length(start + (len(found) + 1) * row)


def test_demonstrations_come_from_the_rows_that_are_drawn(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initial_text, "CANDIDATES", 2)
    monkeypatch.setattr(initial_text, "FEWEST", 2)
    found = demonstrations(task_of(), load_base(tiny_model)[1], 1000, "prompt")
    assert len(found) == 2


def test_rows_that_are_too_long_take_no_place_among_the_candidates(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row of forty fits: it is found with every seed, although few rows are looked at together."""
    monkeypatch.setattr(initial_text, "CANDIDATES", 3)
    monkeypatch.setattr(initial_text, "FEWEST", 1)
    task = task_of(
        [*(("the plot was dull and the cast was poor", CHOICES[n % 2]) for n in range(39)), ("good", CHOICES[0])]
    )
    tokenizer = load_base(tiny_model)[1]
    room = len(ids_of(tiny_model, "good positive\n\n"))
    for seed in range(10):
        torch.manual_seed(seed)
        assert [row.prompt for row in demonstrations(task, tokenizer, room, "prompt")] == ["good"]
    monkeypatch.setattr(initial_text, "MOST", 3)  # a limit for files with millions of rows
    with pytest.raises(UserError, match=r"no row of train fits .*: the shortest has"):
        demonstrations(task, tokenizer, room, "prompt")


@pytest.mark.parametrize("section", WAYS)
def test_a_row_follows_the_end_of_the_demonstrations(tiny_model: Path, section: str) -> None:
    tokenizer = seeded(tiny_model, section, 40, seed=3)
    rows = demonstrations(task_of(), tokenizer, 40, section)
    ids = ids_of(tiny_model, "".join(f"{row.prompt}{row.target}\n\n" for row in rows))
    assert 20 < len(ids) < 40
    expected = of_tokens(tiny_model, section, (ids * 2)[-40:])
    found = begin(tiny_model, section, 40, seed=3, init_from="demonstrations")
    torch.testing.assert_close(values(found), expected)


@pytest.mark.parametrize("section", WAYS)
def test_demonstrations_follow_the_seed_and_are_rows_of_train(tiny_model: Path, section: str) -> None:
    rows = [(f"film {n}", CHOICES[n % 2]) for n in range(40)]
    task = task_of(rows)
    other = replace(task, splits={**task.splits, "validation": task_of([("plot", " positive")]).splits["train"]})

    def start(seed: int, task: Task = task) -> torch.Tensor:
        return values(begin(tiny_model, section, 30, seed=seed, task=task, init_from="demonstrations"))

    assert torch.equal(start(0), start(0, other))
    assert not torch.equal(start(0), start(1))


def test_normal_values_of_a_prompt_have_the_vocabulary_s_mean_and_deviation(tiny_model: Path) -> None:
    weight = load_base(tiny_model)[0].get_input_embeddings().weight.detach()
    check_normal(values(begin(tiny_model, "prompt", 250, init_from="normal")), weight)


def test_normal_values_of_a_prefix_have_those_of_the_base_s_keys_and_values(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefix_tuning, "SAMPLE", 60)
    tokenizer = seeded(tiny_model, "prefix", 250)
    train = task_of().splits["train"]
    rows = [train[n] for n in torch.randperm(len(train)).tolist()]
    ids = tokenizer("".join(f"{row.prompt}{row.target}\n\n" for row in rows)).input_ids
    assert ids[0] == tokenizer.bos_token_id
    ids = (ids * 61)[:61]
    like = of_tokens(tiny_model, "prefix", ids)[1:]
    check_normal(values(begin(tiny_model, "prefix", 250, init_from="normal")), like)
    with pytest.raises(AssertionError):
        check_normal(values(begin(tiny_model, "prefix", 250)), like)  # PEFT's own, N(0, 1)


def check_normal(found: torch.Tensor, like: torch.Tensor) -> None:
    scale = like.std(0)
    assert ((found.mean(0) - like.mean(0)) / scale).abs().max() < 5 / len(found) ** 0.5
    assert (found.std(0) / scale).log().abs().max() < 5 / len(found) ** 0.5


def test_zero_is_what_peft_calls_so_and_not_neutral(tiny_model: Path) -> None:
    model = begin(tiny_model, "prefix", 4, init_from="zero")
    assert not values(model).any()
    config: Any = model.active_peft_config
    assert config.init_weights == "zero"
    base, tokenizer = load_base(tiny_model)
    with torch.no_grad():
        with_zeros, without = (scores(Engine(m, tokenizer), DOCUMENTS, packed=False).logits for m in (model, base))
    assert (with_zeros - without).abs().max() > 0.01


def test_zero_goes_with_a_projection(tiny_model: Path) -> None:
    model = begin(tiny_model, "prefix", 4, init_from="zero", prefix_projection=True, encoder_hidden_size=8)
    prompt: Any = model.get_prompt(1)
    assert not any(layer.keys.any() or layer.values.any() for layer in prompt.layers)


@pytest.mark.parametrize(("section", "way"), EACH)
def test_each_start_is_saved_as_stock_peft_loads_it(tiny_model: Path, tmp_path: Path, section: str, way: str) -> None:
    model = begin(tiny_model, section, 30, init_from=way)
    assert type(model.active_peft_config) is (PromptTuningConfig if section == "prompt" else PrefixTuningConfig)
    assert [p.dtype for p in model.parameters() if p.requires_grad] == [torch.float32]
    model.save_pretrained(str(tmp_path))
    base, tokenizer = load_base(tiny_model)
    stock = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    with torch.no_grad():
        found, expected = (scores(Engine(m, tokenizer), DOCUMENTS, packed=False).logits for m in (stock, model))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("settings", "start"),
    [
        ({"prompt_tuning_init": "RANDOM"}, "RANDOM"),
        ({"init_from": "uniform"}, "uniform"),
        ({"prompt_tuning_init": "TEXT"}, None),
        ({"init_from": "outputs"}, None),
    ],
)
def test_a_text_that_is_not_read_is_named(
    tiny_model: Path, settings: dict[str, Any], start: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "softprompts"):
        for _ in range(2):
            begin(tiny_model, "prompt", 8, prompt_tuning_init_text=TEXT, **settings)
    said = [f"prompt.prompt_tuning_init_text: not read, because the initial values come from {start}"] if start else []
    assert [r.message for r in caplog.records if "init_text" in r.message] == said


def test_rows_of_train_do_not_go_into_the_adapter_s_config(tiny_model: Path) -> None:
    config: Any = begin(tiny_model, "prompt", 30, init_from="demonstrations").active_peft_config
    assert config.prompt_tuning_init_text is None
    assert config.prompt_tuning_init == "RANDOM"


@pytest.mark.parametrize(
    ("section", "settings", "message"),
    [
        (
            "prompt",
            {"prompt_tuning_init": "TEXT", "init_from": "outputs"},
            "init_from: outputs requires prompt_tuning_init: RANDOM, found TEXT; set that, or init_from to null",
        ),
        (
            "prompt",
            {"prompt_tuning_init": "TEXT", "init_adapter": "runs/a"},
            "init_adapter: runs/a requires prompt_tuning_init: RANDOM, found TEXT; set that, or init_adapter to null",
        ),
        (
            "prompt",
            {"init_from": "normal", "init_fill": "frequent"},
            NO_TEXT,
        ),
        (
            "prompt",
            {"prompt_tuning_init": "RANDOM", "init_fill": "frequent"},
            NO_TEXT,
        ),
        (
            "prefix",
            {"init_fill": "frequent"},
            NO_TEXT,
        ),
        (
            "prefix",
            {"init_adapter": "runs/a", "init_fill": "frequent"},
            NO_TEXT,
        ),
        (
            "prefix",
            {"init_from": "normal", "init_adapter": "runs/a"},
            "init_adapter: cannot be combined with init_from: normal; set one of them to null",
        ),
        (
            "prompt",
            {"init_from": "uniform", "init_adapter": "runs/a"},
            "init_adapter: cannot be combined with init_from: uniform; set one of them to null",
        ),
        (
            "prompt",
            {"init_any_base": True},
            "init_any_base: applies only to init_adapter; set that, or init_any_base to false",
        ),
        (
            "prefix",
            {"init_text": "a", "init_adapter": "b"},
            "init_adapter: cannot be combined with init_text; set one of them to null",
        ),
        (
            "prefix",
            {"init_text": "a", "init_from": "normal"},
            "init_from: normal cannot be combined with init_text; set one of them to null",
        ),
        (
            "prefix",
            {"init_text": "a", "init_from": "instruction"},
            "init_from: instruction cannot be combined with init_text; set one of them to null",
        ),
        (
            "prefix",
            {"init_from": "outputs", "init_weights": "zero"},
            "init_from: cannot be combined with init_weights: zero; set one of them to null",
        ),
        (
            "prefix",
            {"init_adapter": "a", "prefix_projection": True},
            f"init_adapter: cannot be combined with prefix_projection, {NETWORK}",
        ),
    ],
)
def test_ways_to_start_that_exclude_each_other_are_refused(
    section: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        (PromptConfig if section == "prompt" else PrefixConfig)(**settings)
    assert str(caught.value) == f"{section}.{message}"


@pytest.mark.parametrize("section", WAYS)
def test_what_the_task_does_not_have_is_said(tiny_model: Path, section: str) -> None:
    with pytest.raises(UserError) as caught:
        begin(tiny_model, section, 8, task=task_of(choices=None), init_from="outputs")
    assert str(caught.value) == (
        f"{section}.init_from: outputs requires task.choices or task.schema; set init_from to demonstrations or null"
    )
    shortest = min(len(ids_of(tiny_model, f"{p}{t}\n\n")) for p, t in ROWS)
    with pytest.raises(UserError) as caught:
        begin(tiny_model, section, 2, init_from="demonstrations")
    assert str(caught.value) == (
        f"{section}.init_from: demonstrations: no row of train fits into the remaining 2 virtual tokens: the shortest "
        f"has {shortest}; raise {section}.num_virtual_tokens, or set init_from to null"
    )


@pytest.mark.parametrize("way", ["normal", "outputs"])
def test_a_start_of_the_task_s_needs_a_task(tiny_model: Path, way: str) -> None:
    base, tokenizer = load_base(tiny_model)
    with pytest.raises(UserError, match=rf"^prefix.init_from: {way} requires a task with its rows and choices"):
        add_prefix(base, tokenizer, PrefixConfig(init_from=way), seed=0)  # type: ignore[arg-type]


def test_keys_and_values_of_a_text_need_a_decoder(tiny_encoder: Path) -> None:
    base, tokenizer = load_base_model(ModelConfig(str(tiny_encoder)), torch.device("cpu"), ["a", "b"])
    with pytest.raises(UserError, match=r"^prefix.init_from: normal: requires a decoder"):
        add_prefix(base, tokenizer, PrefixConfig(init_from="normal"), task=task_of())


def test_a_text_that_is_cut_says_how_long_it_is(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    length = len(ids_of(tiny_model, "positive, negative"))
    with caplog.at_level("INFO", "softprompts"):
        begin(tiny_model, "prompt", length, init_from="outputs")
        assert "init_from" not in caplog.text
        begin(tiny_model, "prompt", length - 1, init_from="outputs")
    assert f"the text has {length} tokens; prompt.num_virtual_tokens keeps the first {length - 1}" in caplog.text


def test_an_encoder_decoder_s_prompt_may_begin_so_too(tiny_t5: Path) -> None:
    model = begin(tiny_t5, "prompt", 5, init_from="outputs")
    weight = model.get_input_embeddings().weight.detach()
    assert torch.equal(values(model), weight[(ids_of(tiny_t5, "positive, negative") * 5)[:5]])
