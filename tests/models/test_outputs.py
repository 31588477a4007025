"""Outputs of an encoder's classifier are identified by their names, with any order of the choices."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

from softprompts.adapters.loading import load_adapter
from softprompts.adapters.switch import has_base, without_adapter
from softprompts.config.methods import PrefixConfig
from softprompts.config.sections import ModelConfig, RunConfig
from softprompts.config.tools import AdapterConfig
from softprompts.encoding.documents import Document
from softprompts.engine.padded import stock_forward
from softprompts.errors import UserError
from softprompts.methods.baselines.lora import add_lora
from softprompts.methods.soft_prompts.prefix_tuning import add_prefix
from softprompts.models.identity.base_model import RECORD
from softprompts.models.identity.facts import Facts, facts_of
from softprompts.models.identity.outputs import outputs_of
from softprompts.models.loading import load_base_model
from softprompts.reports.run import save_adapter, save_model
from softprompts.runs.run import Run, start_run

import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForSequenceClassification

CPU = torch.device("cpu")
DOCUMENT = Document((0, 5, 6, 20), (0,))
NAMES = ["good", "bad", "so so"]
SETTINGS = {"prompt": "{text}", "target": "{label}", "chat": False}


def load(folder: Path, choices: list[str]) -> Any:
    return load_base_model(ModelConfig(str(folder)), CPU, choices)


@torch.no_grad()
def by_choice(model: Any, choices: list[str]) -> dict[str, float]:
    """Return the logit of each choice, by its name."""
    logits = stock_forward(model, [DOCUMENT], CPU)[0][0].tolist()
    return {choice.strip().casefold(): logit for choice, logit in zip(choices, logits, strict=True)}


def trained(encoder: Path, folder: Path, **changes: Any) -> Path:
    """Save the encoder with its own classifier, whose outputs are `NAMES`; `changes` go into its config."""
    torch.manual_seed(0)
    model, tokenizer = load(encoder, NAMES)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    return folder


ORDERS = [
    ["good", "bad", "so so"],
    ["so so", "good", "bad"],
    [" bad", " so so", " good"],
    ["BAD", "Good ", " so SO"],
]


@pytest.mark.parametrize("choices", ORDERS)
def test_a5_a_trained_classifier_is_read_by_the_names_of_its_outputs(
    tiny_encoder: Path, tmp_path: Path, choices: list[str]
) -> None:
    folder = trained(tiny_encoder, tmp_path / "model")
    expected = by_choice(load(folder, NAMES)[0], NAMES)
    stock = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert expected == pytest.approx({stock.config.id2label[i]: x for i, x in enumerate(stock_logits(stock))})
    assert len({round(x, 4) for x in expected.values()}) == 3, "an exchange would show"
    assert by_choice(load(folder, choices)[0], choices) == pytest.approx(expected)


@pytest.mark.parametrize("own", [False, True])
def test_a_copy_of_a_base_model_has_the_same_facts(tiny_encoder: Path, tmp_path: Path, own: bool) -> None:
    """A sweep trains such copies: their outputs keep their meaning, and their adapters name the base model."""
    choices = ORDERS[1]
    base, _ = load(trained(tiny_encoder, tmp_path / "model") if own else tiny_encoder, choices)
    copied = copy.deepcopy(base)
    assert facts_of(copied) == facts_of(base)
    assert by_choice(copied, choices) == by_choice(base, choices)
    adapter = add_lora(copied, LoraConfig(r=4, target_modules=["query"]), seed=0)
    assert facts_of(adapter) is facts_of(copied)
    facts_of(copied).kept = False
    assert facts_of(base).kept, "they do not share them"
    assert facts_of(AutoModelForSequenceClassification.from_pretrained(tiny_encoder)) == Facts()


def stock_logits(model: Any) -> list[float]:
    with torch.no_grad():
        return model(input_ids=torch.tensor([DOCUMENT.prompt_ids])).logits[0].tolist()


def test_a5_names_that_differ_in_case_only_are_told_apart() -> None:
    assert outputs_of([" US", " us"], ["us", "US"], "it") == [1, 0]
    with pytest.raises(UserError, match=r"^task\.choices: are Us, us, but the outputs of it are named us, US; "):
        outputs_of(["Us", "us"], ["us", "US"], "it")


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (["good", "bad", "fine"], r"are good, bad, fine, but the outputs of \S+ are named good, bad, so so; use these"),
        ([" good", " bad"], r"are good, bad, but the outputs of \S+ are named good, bad, so so; "),
        (
            ["good", "bad", "so so", "x"],
            r"are good, bad, so so, x, but the outputs of \S+ are named good, bad, so so; ",
        ),
    ],
)
def test_a5_other_names_than_the_choices_are_refused(
    tiny_encoder: Path, tmp_path: Path, choices: list[str], message: str
) -> None:
    folder = trained(tiny_encoder, tmp_path / "model")
    with pytest.raises(UserError, match=rf"^task\.choices: {message}"):
        load(folder, choices)


def test_a5_a_trained_classifier_without_names_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    nameless = {f"{i}": f"LABEL_{i}" for i in range(3)}
    folder = trained(tiny_encoder, tmp_path / "model", id2label=nameless, label2id={v: k for k, v in nameless.items()})
    message = r"the outputs of \S+ have no meaningful names \(LABEL_0, LABEL_1, LABEL_2\); write the names"
    with pytest.raises(UserError, match=rf"^task\.choices: {message}"):
        load(folder, NAMES)
    choices = ["LABEL_2", "LABEL_0", "LABEL_1"]
    model, _ = load(folder, choices)
    assert facts_of(model).choice_outputs == (2, 0, 1)


def test_a5_what_is_saved_says_what_its_outputs_are(tiny_encoder: Path, run: Run, tmp_path: Path) -> None:
    folder = trained(tiny_encoder, tmp_path / "model")
    choices = ["so so", "good", "bad"]
    model, tokenizer = load(folder, choices)
    expected = by_choice(model, choices)
    again = save_model(model, tokenizer, run)
    stock = AutoModelForSequenceClassification.from_pretrained(again).eval()
    assert expected == pytest.approx({stock.config.id2label[i]: x for i, x in enumerate(stock_logits(stock))})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return start_run("test", task=SETTINGS | {"choices": NAMES}, run=RunConfig(str(tmp_path / "run"), trackers=[]))


def adapted(encoder: Path, method: str, run: Run) -> tuple[Path, dict[str, float]]:
    """Save an adapter with its classifier for choices in the order of `NAMES`; return its folder and its logits."""
    torch.manual_seed(1)
    base, tokenizer = load(encoder, NAMES)
    model = (
        add_lora(base, LoraConfig(r=4, target_modules=["query"], init_lora_weights=False), seed=0)
        if method == "lora"
        else add_prefix(
            base, tokenizer, PrefixConfig(num_virtual_tokens=5, prefix_projection=method != "prefix"), seed=0
        )
    ).eval()
    return save_adapter(model, run), by_choice(model, NAMES)


@pytest.mark.parametrize("method", ["lora", "prefix", "projected prefix"])
@pytest.mark.parametrize("choices", ORDERS[1:])
def test_a5_the_classifier_of_an_adapter_is_read_by_the_names_that_it_was_trained_with(
    tiny_encoder: Path, run: Run, method: str, choices: list[str]
) -> None:
    folder, expected = adapted(tiny_encoder, method, run)
    base = load(tiny_encoder, choices)[0]
    assert by_choice(load_adapter(base, AdapterConfig(str(folder))), choices) == pytest.approx(expected)
    assert base.config.id2label == dict(enumerate(NAMES)), "as the weights have them"
    stock = PeftModel.from_pretrained(
        AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=3), str(folder)
    )
    assert stock_logits(stock.eval()) == pytest.approx([expected[name] for name in NAMES])


def test_a5_on_a_trained_classifier_an_adapter_keeps_its_order(tiny_encoder: Path, run: Run, tmp_path: Path) -> None:
    folder, order = trained(tiny_encoder, tmp_path / "model"), ["so so", "good", "bad"]
    base = load(folder, order)[0]
    model = add_lora(base, LoraConfig(r=4, target_modules=["query"], init_lora_weights=False), seed=0).eval()
    expected = by_choice(model, order)
    saved = save_adapter(model, run)
    assert json.loads((saved / RECORD).read_text(encoding="utf-8"))["choices"] == NAMES
    for choices in ORDERS:
        loaded = load_adapter(load(folder, choices)[0], AdapterConfig(str(saved)))
        assert by_choice(loaded, choices) == pytest.approx(expected)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    swapped = {"id2label": {"0": "bad", "1": "good", "2": "so so"}}
    (folder / "config.json").write_text(json.dumps(config | swapped), encoding="utf-8")
    with pytest.raises(UserError, match=r" has id2label\.0 bad in its config instead of good; to use it nevertheless"):
        load_adapter(load(folder, order)[0], AdapterConfig(str(saved)))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_an_adapter_on_a_trained_classifier_can_be_switched_off(
    tiny_encoder: Path, run: Run, tmp_path: Path, method: str, own: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained(tiny_encoder, tmp_path / "model")
    base, tokenizer = load(folder, NAMES)
    expected = by_choice(base, NAMES)
    facts_of(base).new_parts = ("classifier",) if own else ()  # the adapter has a classifier, or trains the present one
    model = (
        add_lora(base, LoraConfig(r=4, target_modules=["query"], init_lora_weights=False), seed=0)
        if method == "lora"
        else add_prefix(base, tokenizer, PrefixConfig(num_virtual_tokens=5), seed=0)
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "classifier" in name:
                parameter.add_(1.5 * torch.randn_like(parameter))
    tuned = by_choice(model.eval(), NAMES)
    saved = save_adapter(model, run)
    capsys.readouterr()
    loaded = load_adapter(load(folder, NAMES)[0], AdapterConfig(str(saved)))
    assert capsys.readouterr().err == ""
    assert has_base(loaded)
    assert by_choice(loaded, NAMES) == pytest.approx(tuned)
    with without_adapter(loaded):
        assert by_choice(loaded, NAMES) == pytest.approx(expected)
    assert by_choice(loaded, NAMES) == pytest.approx(tuned)
    assert not any(p.requires_grad for p in loaded.parameters())


def test_a5_an_adapter_for_other_choices_is_refused(tiny_encoder: Path, run: Run) -> None:
    folder = adapted(tiny_encoder, "lora", run)[0]
    message = rf"^task\.choices: are a, b, c, but the outputs of {folder} are named good, bad, so so; "
    with pytest.raises(UserError, match=message):
        load_adapter(load(tiny_encoder, ["a", "b", "c"])[0], AdapterConfig(str(folder)))


@pytest.mark.parametrize(
    "listed",
    [
        NAMES,
        {str(i): f" {name}" for i, name in enumerate(NAMES)},
        {str(i): f" {name}" for i, name in enumerate([*NAMES, *NAMES])},  # labels that share a word
    ],
)
def test_a5_of_an_adapter_without_names_the_record_of_its_run_tells(
    tiny_encoder: Path, tmp_path: Path, listed: Any
) -> None:
    run = start_run("test", task=SETTINGS | {"choices": listed}, run=RunConfig(str(tmp_path / "run"), trackers=[]))
    folder, expected = adapted(tiny_encoder, "lora", run)
    (folder / RECORD).unlink()
    choices = ["so so", "good", "bad"]
    model = load_adapter(load(tiny_encoder, choices)[0], AdapterConfig(str(folder)))
    assert by_choice(model, choices) == pytest.approx(expected)


def test_a5_a_strangers_classifier_without_names_is_refused_until_they_are_written_down(
    tiny_encoder: Path, run: Run, tmp_path: Path
) -> None:
    folder, expected = adapted(tiny_encoder, "lora", run)
    alone = Path(shutil.copytree(folder, tmp_path / "alone"))
    (alone / RECORD).unlink()
    choices = ["so so", "good", "bad"]
    message = rf"{alone} does not name the choices of its classifier's outputs; write the names into {alone}/"
    with pytest.raises(UserError, match=rf"^adapter\.path: {message}"):
        load_adapter(load(tiny_encoder, choices)[0], AdapterConfig(str(alone)))
    (alone / RECORD).write_text(json.dumps({"choices": NAMES}), encoding="utf-8")
    model = load_adapter(load(tiny_encoder, choices)[0], AdapterConfig(str(alone)))
    assert by_choice(model, choices) == pytest.approx(expected)


def test_a_classifier_at_random_values_is_not_scored(tiny_encoder: Path) -> None:
    message = r"^model\.name_or_path: \S+ comes without a trained classifier, so predictions would be random; "
    with pytest.raises(UserError, match=message):
        load_adapter(load(tiny_encoder, NAMES)[0], AdapterConfig())


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (["good"], r"one choice, 'good': \S+ is an encoder, which requires two or more$"),
        ([" good", "good "], r"'good' appears twice: \S+ has one output for each choice$"),
    ],
)
def test_c8_an_encoder_needs_two_choices(tiny_encoder: Path, choices: list[str], message: str) -> None:
    with pytest.raises(UserError, match=rf"^task\.choices: {message}"):
        load(tiny_encoder, choices)
