"""A soft prompt starts from a trained one's values; an adapter that does not fit is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers import load_base, main_in_process, make_task, prompt_config, read_result
from made_adapters import KINDS
from method_runs import saved_by_peft, short_command
from softprompts.adapters.transfer import load_start
from softprompts.config.methods import PrefixConfig, PromptConfig
from softprompts.config.sections import RunConfig
from softprompts.errors import UserError
from softprompts.methods.soft_prompts.p_tuning import add_prompt_encoder
from softprompts.methods.soft_prompts.prefix_tuning import add_prefix
from softprompts.methods.soft_prompts.prompt_tuning import add_soft_prompt
from softprompts.models.peft_compat import encoder_of
from softprompts.reports.run import save_adapter
from softprompts.runs.run import start_run

import pytest
import torch
from peft import PeftModel, PromptEncoderConfig
from safetensors.torch import load_file, save_file


def values(model: PeftModel) -> torch.Tensor:
    found: torch.Tensor = encoder_of(model).embedding.weight
    return found.detach()


def trained(folder: Path, section: str, output: Path, count: int = 4) -> tuple[Path, torch.Tensor]:
    """Save a soft prompt or a prefix of the tiny model, at values far from any start; return its folder and them."""
    base, tokenizer = load_base(folder)
    if section == "prompt":
        model = add_soft_prompt(base, tokenizer, prompt_config(folder, count), seed=5)
    else:
        model = add_prefix(base, tokenizer, PrefixConfig(num_virtual_tokens=count), seed=5)
    with torch.no_grad():
        encoder_of(model).embedding.weight.mul_(3).add_(0.5)
    return save_adapter(model, start_run("test", run=RunConfig(str(output), trackers=[]))), values(model).clone()


def begin(folder: Path, section: str, adapter: Path | str, count: int = 4, **settings: Any) -> PeftModel:
    base, tokenizer = load_base(folder)
    kind: Any = PromptConfig if section == "prompt" else PrefixConfig
    config = kind(num_virtual_tokens=count, init_adapter=str(adapter), **settings)
    add: Any = add_soft_prompt if section == "prompt" else add_prefix
    return add(base, tokenizer, config, seed=0, start=load_start(base, config), task=make_task([("a", " b")]))


@pytest.mark.parametrize("section", ["prompt", "prefix"])
def test_it_begins_with_the_values_of_the_adapter_or_its_run(tiny_model: Path, tmp_path: Path, section: str) -> None:
    adapter, expected = trained(tiny_model, section, tmp_path / "run")
    for path in (adapter, tmp_path / "run"):
        model = begin(tiny_model, section, path)
        assert torch.equal(values(model), expected)
        assert [p.requires_grad for p in encoder_of(model).parameters()] == [True]
    model.save_pretrained(str(tmp_path / "stock"))
    stock = PeftModel.from_pretrained(load_base(tiny_model)[0], str(tmp_path / "stock"))
    assert torch.equal(values(stock), expected)
    config: Any = model.active_peft_config
    assert getattr(config, "prompt_tuning_init", "RANDOM") == "RANDOM"
    assert getattr(config, "prompt_tuning_init_text", None) is None


def test_what_p_tuning_has_written_is_a_soft_prompt_like_any_other(tiny_model: Path, tmp_path: Path) -> None:
    model = add_prompt_encoder(load_base(tiny_model)[0], PromptEncoderConfig(num_virtual_tokens=3), seed=0)
    adapter = save_adapter(model, start_run("test", run=RunConfig(str(tmp_path / "run"), trackers=[])))
    prompt: Any = model.get_prompt(1)
    torch.testing.assert_close(values(begin(tiny_model, "prompt", adapter, count=3)), prompt[0])


def test_without_an_adapter_there_are_no_values(tiny_model: Path) -> None:
    assert load_start(load_base(tiny_model)[0], PromptConfig()) is None


@pytest.mark.parametrize(("section", "other"), [("prompt", "prefix"), ("prefix", "prompt")])
def test_another_type_or_length_is_refused(tiny_model: Path, tmp_path: Path, section: str, other: str) -> None:
    adapter, _ = trained(tiny_model, other, tmp_path / "other")
    types = {"prompt": "PROMPT_TUNING", "prefix": "PREFIX_TUNING"}
    with pytest.raises(UserError) as caught:
        begin(tiny_model, section, adapter)
    assert str(caught.value) == (
        f"{section}.init_adapter: {adapter} is of type {types[other]}; expected {types[section]}"
    )
    adapter, _ = trained(tiny_model, section, tmp_path / "longer", count=7)
    with pytest.raises(UserError) as caught:
        begin(tiny_model, section, adapter)
    assert str(caught.value) == (
        f"{section}.init_adapter: {adapter} has 7 virtual tokens, but {section}.num_virtual_tokens is 4; set it to 7"
    )


def test_another_base_is_refused_unless_it_is_asked_for(
    tiny_model: Path, wider_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, expected = trained(tiny_model, "prompt", tmp_path / "run")
    with pytest.raises(UserError, match=r"^prompt\.init_adapter: .* is for another base model: hidden size 32"):
        begin(wider_model, "prompt", adapter)
    base = load_base(tiny_model)[0]
    with torch.no_grad():
        base.get_input_embeddings().weight.add_(0.1)
    base.save_pretrained(tmp_path / "changed")
    load_base(tiny_model)[1].save_pretrained(tmp_path / "changed")
    with pytest.raises(
        UserError, match=r"^prompt\.init_adapter: .* has other weights; .* set prompt\.init_any_base to"
    ):
        begin(tmp_path / "changed", "prompt", adapter)
    assert torch.equal(values(begin(tmp_path / "changed", "prompt", adapter, init_any_base=True)), expected)


def test_a_path_that_is_none_names_the_key(tiny_model: Path) -> None:
    with pytest.raises(UserError, match=r"^prefix\.init_adapter: no such folder: \./nowhere"):
        begin(tiny_model, "prefix", "./nowhere")


def test_a_damaged_table_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    saved_by_peft(tiny_model, KINDS["prompt"](), tmp_path / "a")
    file = tmp_path / "a" / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({"prompt_embeddings": torch.zeros(5, 33)}, file)
    with pytest.raises(UserError, match=r"^prompt\.init_adapter: has 5 x 33 numbers, but the new one has 5 x 32$"):
        begin(tiny_model, "prompt", tmp_path / "a", count=5)
    save_file({"other": tensors["prompt_embeddings"]}, file)
    with pytest.raises(UserError, match=r"^prompt\.init_adapter: .* lacks the table prompt_embeddings that PEFT saves"):
        begin(tiny_model, "prompt", tmp_path / "a", count=5)


@pytest.mark.parametrize("section", ["prompt", "prefix"])
def test_a_recipe_that_reads_no_adapter_says_so(tiny_model: Path, section: str) -> None:
    base, tokenizer = load_base(tiny_model)
    add, kind = (add_soft_prompt, PromptConfig) if section == "prompt" else (add_prefix, PrefixConfig)
    config: Any = kind(init_adapter="runs/a")
    with pytest.raises(UserError) as caught:
        add(base, tokenizer, config)
    assert str(caught.value) == (f"{section}.init_adapter: this recipe does not start from an adapter; set it to null")


@pytest.mark.slow
@pytest.mark.parametrize("section", ["prompt", "prefix"])
def test_a_recipe_goes_on_from_a_run(tiny_model: Path, tiny_task: Path, tmp_path: Path, section: str) -> None:
    own: dict[str, Any] = {"prompt": {"prompt.prompt_tuning_init": "RANDOM"}, "prefix": {"prefix.init_text": "null"}}
    flags = {f"{section}.num_virtual_tokens": 4, "training.steps": 2} | own[section]

    def run(name: str, **more: Any) -> dict[str, Any]:
        command = short_command(f"{section}_tuning", tiny_model, tiny_task, tmp_path / name, **(flags | more))
        assert main_in_process(command) == 0
        return read_result(tmp_path / name)

    run("source")
    still: dict[str, Any] = {"training.learning_rate": 1e-30, f"{section}.init_adapter": tmp_path / "source"}
    assert run("target", **still)["settings"][section]["init_adapter"] == str(tmp_path / "source")
    before, after = (load_file(tmp_path / n / "adapter" / "adapter_model.safetensors") for n in ("source", "target"))
    assert torch.equal(before["prompt_embeddings"], after["prompt_embeddings"])
