"""Adapters: stock PEFT loads a trained adapter and gives the same logits; an adapter for another base is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from helpers import load_base, prompt_config, scores
from softprompts.adapters.loading import check_base, find_adapter, load_adapter, run_settings, virtual_tokens
from softprompts.adapters.saving import folded, saved_parameters
from softprompts.adapters.switch import without_adapter
from softprompts.config.methods import MultitaskConfig, PrefixConfig
from softprompts.config.sections import ModelConfig, RunConfig
from softprompts.config.tools import AdapterConfig
from softprompts.encoding.documents import Document
from softprompts.engine.forward import Engine
from softprompts.errors import UserError
from softprompts.methods.baselines.lora import add_lora
from softprompts.methods.soft_prompts.multitask_prompt_tuning import add_multitask_prompt
from softprompts.methods.soft_prompts.p_tuning import add_prompt_encoder
from softprompts.methods.soft_prompts.prefix_tuning import add_prefix
from softprompts.methods.soft_prompts.prompt_tuning import add_soft_prompt
from softprompts.models.identity.base_model import RECORD, Record
from softprompts.models.loading import load_base_model
from softprompts.reports.run import save_adapter, save_model
from softprompts.runs.run import Run, start_run

import pytest
import torch
from peft import (
    LoraConfig,
    MultitaskPromptTuningConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
)
from transformers import BertConfig, BertForMaskedLM

CPU = torch.device("cpu")
DOCUMENTS = [Document((0, 5, 6), (7,)), Document((0, *range(20, 33)), (40, 41, 42))]
TASKS = ["books", "films"]
# What each method's adapter is in the end, and its numbers.
KINDS: dict[str, tuple[type, int | None]] = {
    "prompt tuning": (PromptTuningConfig, 5 * 32),
    "prefix": (PrefixTuningConfig, 5 * 64),
    "projected prefix": (PrefixTuningConfig, 5 * 64),
    "P-tuning MLP": (PromptTuningConfig, 5 * 32),
    "P-tuning LSTM": (PromptTuningConfig, 5 * 32),
    "lora": (LoraConfig, None),
}


def test_a_misspelt_run_is_not_asked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def download(path: str, **_: Any) -> str:
        asked.append(path)
        raise OSError("no network")

    monkeypatch.setattr("softprompts.adapters.loading.snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "runs/sentiment/adapter"
    made.mkdir(parents=True)
    (made / "adapter_config.json").write_text("{}")
    with pytest.raises(
        UserError, match=r'^adapter.path: no such folder: runs/sentimnt \(did you mean "runs/sentiment"\?'
    ):
        find_adapter("runs/sentimnt")
    assert asked == []
    with pytest.raises(
        UserError, match=r'not on the Hub: run/sentiment \(did you mean "runs/sentiment"\?\): no network$'
    ):
        find_adapter("run/sentiment")
    assert asked == ["run/sentiment"]


def attach(folder: Path, kind: str, base: Any = None) -> PeftModel:
    """Return the tiny model with a method, whose values are far from the initial ones."""
    own, tokenizer = load_base(folder)
    base = base or own
    if kind == "prompt tuning":
        model = add_soft_prompt(base, tokenizer, prompt_config(folder), seed=0)
    elif "prefix" in kind:
        projected = kind.startswith("projected")
        model = add_prefix(base, tokenizer, PrefixConfig(num_virtual_tokens=5, prefix_projection=projected), seed=0)
    elif kind == "lora":
        model = add_lora(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False), seed=0)
    elif kind == "multitask":
        model = add_multitask_prompt(base, tokenizer, MultitaskConfig("c", 5, 1, "RANDOM"), tasks=TASKS, seed=0)
    else:
        network: Any = kind.removeprefix("P-tuning ")
        config = PromptEncoderConfig(num_virtual_tokens=5, encoder_reparameterization_type=network)
        model = add_prompt_encoder(base, config, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and kind != "lora":
                parameter.mul_(1.5).add_(0.1)
    return model.eval()


@torch.no_grad()
def logits(model: Any, task: int = 0) -> torch.Tensor:
    documents = [Document(d.prompt_ids, d.target_ids, task) for d in DOCUMENTS]
    return scores(Engine(model, None), documents, packed=False).logits  # type: ignore[arg-type]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return start_run("test", run=RunConfig(str(tmp_path / "run"), trackers=[]))


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_loads_in_stock_peft_to_the_same_logits(tiny_model: Path, run: Run, kind: str) -> None:
    model = attach(tiny_model, kind)
    expected = logits(model)
    folder = save_adapter(model, run)
    assert folder == run.folder / "adapter"
    stock = PeftModel.from_pretrained(load_base(tiny_model)[0], str(folder)).eval()
    torch.testing.assert_close(logits(stock), expected)
    config, numbers = KINDS[kind]
    assert type(stock.active_peft_config) is config
    assert sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".safetensors")) == [
        "adapter_model.safetensors"
    ]
    saved = saved_parameters([folder / "adapter_model.safetensors"])
    assert saved == (numbers or sum(p.numel() for p in model.parameters() if p.requires_grad))
    torch.testing.assert_close(logits(model), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_folding_leaves_the_logits_and_the_model(tiny_model: Path, kind: str) -> None:
    model = attach(tiny_model, kind)
    expected = logits(model)
    plain = folded(model)
    assert (plain is model) == (kind in ("prompt tuning", "prefix", "lora")), "what is plain already stays"
    torch.testing.assert_close(logits(plain), expected)
    torch.testing.assert_close(logits(model), expected)
    assert plain.get_base_model() is model.get_base_model()


def test_of_several_tasks_each_becomes_an_adapter_of_its_own(tiny_model: Path, run: Run) -> None:
    model = attach(tiny_model, "multitask")
    folder = save_adapter(model, run, TASKS)
    assert sorted(p.name for p in folder.iterdir()) == TASKS
    for number, name in enumerate(TASKS):
        base = load_base(tiny_model)[0]
        found = load_adapter(base, AdapterConfig(str(folder / name)))
        assert isinstance(found, PeftModel)
        assert type(found.active_peft_config) is PromptTuningConfig
        torch.testing.assert_close(logits(found), logits(model, number))
    assert (logits(model, 0) - logits(model, 1)).abs().max() > 0.01


@pytest.mark.parametrize("projected", [False, True])
def test_an_encoders_classifier_is_saved_with_its_prefix(tiny_encoder: Path, run: Run, projected: bool) -> None:
    base, tokenizer = load_base_model(ModelConfig(str(tiny_encoder)), CPU, ["a", "b", "c"])
    model = add_prefix(base, tokenizer, PrefixConfig(num_virtual_tokens=5, prefix_projection=projected), seed=0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
        ids = torch.tensor([DOCUMENTS[1].prompt_ids])
        expected = model(input_ids=ids).logits
        folder = save_adapter(model, run)
        torch.manual_seed(99)  # another classifier
        fresh = load_base_model(ModelConfig(str(tiny_encoder)), CPU, ["a", "b", "c"])[0]
        found = load_adapter(fresh, AdapterConfig(str(folder)))
        torch.testing.assert_close(found(input_ids=ids).logits, expected)


@pytest.mark.parametrize("projected", [False, True])
def test_the_pooler_that_an_encoders_folder_lacks_is_saved_with_its_prefix(
    tiny_encoder: Path, tmp_path: Path, run: Run, projected: bool
) -> None:
    """BertForMaskedLM has no pooler, so the pooler is new and trained, as the classifier is."""
    folder = tmp_path / "masked"
    shutil.copytree(tiny_encoder, folder)
    BertForMaskedLM(BertConfig.from_pretrained(folder)).save_pretrained(folder)
    base, tokenizer = load_base_model(ModelConfig(str(folder)), CPU, ["a", "b"])
    model = add_prefix(base, tokenizer, PrefixConfig(num_virtual_tokens=5, prefix_projection=projected), seed=0).eval()
    assert [n for n, p in model.named_parameters() if p.requires_grad and "pooler" in n]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
        ids = torch.tensor([DOCUMENTS[1].prompt_ids])
        expected = model(input_ids=ids).logits
        saved = save_adapter(model, run)
        torch.manual_seed(99)  # another classifier and another pooler
        fresh = load_base_model(ModelConfig(str(folder)), CPU, ["a", "b"])[0]
        found = load_adapter(fresh, AdapterConfig(str(saved)))
        torch.testing.assert_close(found(input_ids=ids).logits, expected)


def test_an_encoder_decoders_adapter_loads(tiny_t5: Path, run: Run) -> None:
    for kind in ("prompt tuning", "P-tuning MLP"):
        model = attach(tiny_t5, kind)
        expected = logits(model)
        folder = save_adapter(model, run)
        torch.testing.assert_close(logits(load_adapter(load_base(tiny_t5)[0], AdapterConfig(str(folder)))), expected)


def test_a_whole_model_is_saved_with_its_tokenizer(tiny_model: Path, run: Run) -> None:
    base, tokenizer = load_base(tiny_model)
    with torch.no_grad():
        base.get_input_embeddings().weight.add_(0.1)
    folder = save_model(base, tokenizer, run)
    again, read = load_base(folder)
    torch.testing.assert_close(logits(again), logits(base))
    assert read("the film").input_ids == tokenizer("the film").input_ids


def test_a_loaded_adapter_is_frozen_and_can_be_taken_away(tiny_model: Path, run: Run) -> None:
    folder = save_adapter(attach(tiny_model, "prompt tuning"), run)
    base = load_base(tiny_model)[0]
    plain = logits(base)
    model = load_adapter(base, AdapterConfig(str(folder)))
    assert not any(p.requires_grad for p in model.parameters())
    assert not any(module.training for module in model.modules())
    assert (logits(model) - plain).abs().max() > 0.01
    with without_adapter(model):
        torch.testing.assert_close(logits(model), plain)
    assert virtual_tokens(model) == 5
    assert virtual_tokens(base) == 0
    assert load_adapter(base, AdapterConfig()) is base
    with without_adapter(base):
        torch.testing.assert_close(logits(base), plain)


@pytest.fixture(scope="module")
def saved(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that trained a soft prompt."""
    this = start_run(
        "test", task={"prompt": "{text}"}, run=RunConfig(str(tmp_path_factory.mktemp("s") / "run"), trackers=[])
    )
    return save_adapter(attach(tiny_model, "prompt tuning"), this).parent


@pytest.mark.parametrize("below", [".", "adapter"])
def test_an_adapter_is_found_by_its_folder_or_that_of_its_run(saved: Path, below: str) -> None:
    assert find_adapter(str(saved / below)).resolve() == saved / "adapter"


def damaged(saved: Path, folder: Path, case: str) -> Path:
    """Change a run's folder so that it is not an adapter."""
    if case == "several":
        for name in TASKS:
            shutil.copytree(saved / "adapter", folder / "adapter" / name)
    elif case == "pickled":
        shutil.copytree(saved / "adapter", folder)
        (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    elif case == "whole model":
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    elif case == "empty":
        folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            "several",
            r"/it is not an adapter: it has no \S+; adapters below it: adapter/books, adapter/films$",
        ),
        ("pickled", r"/it has no adapter_model\.safetensors; pickled weights are not loaded$"),
        ("whole model", r"/it is a whole model; set model\.name_or_path to it$"),
        ("empty", r"/it is not an adapter: it has no adapter_config\.json$"),
        ("nowhere", r"no such folder: \S+/it"),
    ],
)
def test_what_is_no_adapter(saved: Path, tmp_path: Path, case: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"^adapter\.path: \S*{message}"):
        find_adapter(str(damaged(saved, tmp_path / "it", case)))


def test_a_hub_id_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = r"^adapter\.path: no such folder, and not on the Hub: someone/some-adapter: "
    with pytest.raises(UserError, match=message) as caught:
        find_adapter("someone/some-adapter")
    assert "\n" not in str(caught.value)


def test_a_misspelt_path_is_answered_with_the_nearest(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(saved, tmp_path / "runs" / "films")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r'no such folder: \./runs/film/adapter \(did you mean "runs/films/adapter"\?\)$'
    ):
        find_adapter("./runs/film/adapter")


def change(folder: Path, copy: Path, **changes: Any) -> Path:
    """Copy an adapter as PEFT alone would have written it, with other settings."""
    shutil.copytree(folder / "adapter", copy)
    (copy / RECORD).unlink()
    path = copy / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return copy


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_dim": 64}, r" is for another base model: hidden size 64, but \S+ has 32 \(the adapter was trained"),
        ({"num_layers": 3}, r" is for another base model: layers 3, but \S+ has 2 "),
        (
            {"base_model_name_or_path": "some/llama"},
            r" was trained on some/llama, not on \S+; if they are the same model, set adapter\.any_base to true$",
        ),
        ({"num_virtual_tokens": 4}, r" does not fit \S+: .*size mismatch"),
    ],
)
def test_an_adapter_of_another_base_is_refused(
    saved: Path, tiny_model: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = change(saved, tmp_path / "other", **changes)
    with pytest.raises(UserError, match=rf"^adapter\.path: \S+{message}") as caught:
        load_adapter(load_base(tiny_model)[0], AdapterConfig(str(folder)))
    assert "\n" not in str(caught.value)


def test_a_base_by_another_name_is_taken_where_it_is_said_to_be_the_same(
    saved: Path, tiny_model: Path, tmp_path: Path
) -> None:
    folder = change(saved, tmp_path / "other", base_model_name_or_path="some/llama")
    assert isinstance(load_adapter(load_base(tiny_model)[0], AdapterConfig(str(folder), any_base=True)), PeftModel)
    tail = "/".join(tiny_model.parts[-2:]).upper()  # of a folder called model the one above counts, too
    moved = change(saved, tmp_path / "moved", base_model_name_or_path=f"/elsewhere/{tail}")
    load_adapter(load_base(tiny_model)[0], AdapterConfig(str(moved)))


def test_the_width_of_a_prefix_is_not_the_models(tiny_model: Path, run: Run) -> None:
    folder = save_adapter(attach(tiny_model, "prefix"), run)
    assert PeftConfig.from_pretrained(str(folder)).token_dim == 16, "two groups of heads of the model's four"
    load_adapter(load_base(tiny_model)[0], AdapterConfig(str(folder)))


@pytest.mark.parametrize("task", [-1, 2])
def test_a_task_that_an_adapter_does_not_have_is_refused(tiny_model: Path, task: int) -> None:
    base = load_base(tiny_model)[0]
    settings = MultitaskPromptTuningConfig(num_tasks=2, base_model_name_or_path=str(tiny_model))
    check_base(base, settings, folder=Path("it"), config=AdapterConfig("it", task_id=1), record=Record())
    with pytest.raises(UserError, match=rf"^adapter\.task_id: {task} is not between 0 and 1$"):
        check_base(base, settings, folder=Path("it"), config=AdapterConfig("it", task_id=task), record=Record())


def test_the_settings_of_the_run_that_wrote_an_adapter(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "run")
    shutil.copytree(saved / "adapter", tmp_path / "run" / "adapter" / "films")
    for below in (".", "adapter", "adapter/films"):
        assert run_settings(str(tmp_path / "run" / below))["task"] == {"prompt": "{text}"}
    assert run_settings(str(change(saved, tmp_path / "alone"))) == {}
    assert run_settings("") == {}


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ([], "evaluation.stop is not a list of texts"),
        ({"stop": [""]}, "evaluation.stop is not a list of texts"),
        ({"max_new_tokens": True}, "evaluation.max_new_tokens is True; expected 1 or more"),
    ],
)
def test_a_damaged_evaluation_of_a_run_is_one_line(saved: Path, tmp_path: Path, evaluation: Any, message: str) -> None:
    shutil.copytree(saved, tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"evaluation": evaluation}))
    with pytest.raises(UserError, match=rf"^adapter\.path: \S+ is damaged: its {message}$"):
        run_settings(str(tmp_path / "run"))


def test_a_link_or_a_relative_path_finds_the_run(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(saved, tmp_path / "run")
    (tmp_path / "current").symlink_to(tmp_path / "run" / "adapter")
    shutil.copytree(saved / "adapter", tmp_path / "store")
    shutil.copytree(saved, tmp_path / "linked")
    shutil.rmtree(tmp_path / "linked" / "adapter")
    (tmp_path / "linked" / "adapter").symlink_to(tmp_path / "store")
    for place, path in ((tmp_path, "current"), (tmp_path, "linked/adapter"), (tmp_path / "run" / "adapter", ".")):
        monkeypatch.chdir(place)
        assert run_settings(path)["task"] == {"prompt": "{text}"}, path
