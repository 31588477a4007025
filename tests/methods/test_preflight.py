"""The methods that a base model supports, known from its config alone: before a download, without weights."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from softprompts.config.methods import LoraConfig as SectionOfLora
from softprompts.config.sections import ModelConfig
from softprompts.errors import UserError
from softprompts.methods.catalog import METHODS
from softprompts.methods.preflight import check_method, main, refusal, without_weights
from softprompts.models import loading as models

import pytest
from peft import LoraConfig
from transformers import (
    BertConfig,
    FalconConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    PretrainedConfig,
    RobertaConfig,
    T5Config,
)

SIZES = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDER = SIZES | {"intermediate_size": 64}
MAMBA = MambaConfig(vocab_size=100, hidden_size=32, num_hidden_layers=2, state_size=4)
CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "decoder": lambda: LlamaConfig(**WIDER, num_key_value_heads=2),
    "encoder-decoder": lambda: T5Config(
        vocab_size=100, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0
    ),
    "encoder": lambda: BertConfig(**WIDER),
}


@pytest.fixture(autouse=True)
def _no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever loads weights fails."""

    def touched(*_: Any, **__: Any) -> Any:
        raise AssertionError("weights were loaded")

    for auto in models.AUTO.values():
        monkeypatch.setattr(auto, "from_pretrained", touched)


def saved(folder: Path, config: PretrainedConfig) -> str:
    """Return a folder with only a config."""
    config.save_pretrained(folder)
    assert [p.name for p in folder.iterdir()] == ["config.json"]
    return str(folder)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("method", METHODS)
def test_each_kind_takes_the_methods_that_are_for_it(method: str, kind: Any) -> None:
    config = CONFIGS[kind]()
    assert without_weights(config, kind) is not None, "or nothing would be tried, and nothing refused"
    reason = refusal(method, config)
    if kind in METHODS[method].kinds:
        assert reason is None
    else:
        assert reason == METHODS[method].refusals[kind]


def test_every_refusal_by_kind_has_its_reason_and_no_other() -> None:
    for method in METHODS.values():
        assert set(method.refusals) == {kind for kind in CONFIGS if kind not in method.kinds}
        assert all(reason and "\n" not in reason for reason in method.refusals.values())


def test_methods_are_named_like_their_recipes() -> None:
    recipes = {p.stem for p in (Path(__file__).resolve().parents[2] / "recipes").glob("*.py")}
    tools = {
        "compare",
        "compose",
        "ensemble",
        "evaluate",
        "export",
        "forget",
        "generate",
        "governance",
        "neighbours",
        "new",
        "readiness",
        "report",
        "serve",
    }
    assert set(METHODS) == recipes - tools - {"sweep"}, "the others take what is trained"


@pytest.mark.parametrize(
    ("config", "method", "reason"),
    [
        (FalconConfig(**SIZES), "prefix_tuning", "Sizes of tensors must match"),
        (MAMBA, "prompt_tuning", "num_attention_heads"),
        (MAMBA, "p_tuning", "num_attention_heads"),
    ],
    ids=["falcon prefix", "mamba prompt", "mamba encoder"],
)
def test_what_peft_cannot_is_found_out_by_trying(config: PretrainedConfig, method: str, reason: str) -> None:
    assert reason in (refusal(method, config) or "")
    assert refusal("full_finetuning", config) is None


def test_a_refusal_says_what_the_model_takes_instead(tmp_path: Path) -> None:
    folder = saved(tmp_path, FalconConfig(**SIZES))
    with pytest.raises(UserError) as caught:
        check_method("prefix_tuning", ModelConfig(folder))
    first, _, others = str(caught.value).rpartition("; ")
    assert first.startswith(f"model.name_or_path: {folder} (falcon) does not support prefix_tuning: Sizes of tensors")
    assert others == "it supports " + ", ".join(m for m in METHODS if m not in ("prefix_tuning", "context_tuning"))
    assert "\n" not in str(caught.value)


def test_a_method_that_is_not_for_the_kind_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, BertConfig(**WIDER))
    message = (
        r"\(bert\) does not support prompt_tuning: virtual tokens .*; it supports prefix_tuning, lora, ia3, full_fi\w+$"
    )
    with pytest.raises(UserError, match=message):
        check_method("prompt_tuning", ModelConfig(folder))


@pytest.mark.parametrize(
    ("config", "modules", "missing"),
    [
        (CONFIGS["decoder"], ["q_proj"], None),
        (CONFIGS["decoder"], ["query"], r"^lora: .*query.* not found"),
        (CONFIGS["encoder"], ["query"], None),
        # Its classifier is trained too, and PEFT's message then has other words.
        (CONFIGS["encoder"], ["q_proj"], "^lora: No modules were targeted"),
        (lambda: GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=4), ["c_attn"], None),
    ],
)
def test_loras_target_modules_must_be_there(
    tmp_path: Path, config: Any, modules: list[str], missing: str | None
) -> None:
    model = ModelConfig(saved(tmp_path, config()))
    lora = LoraConfig(r=4, target_modules=modules)
    if missing is None:
        check_method("lora", model, lora)
    else:
        with pytest.raises(UserError, match=missing) as caught:
            check_method("lora", model, lora)
        assert "\n" not in str(caught.value)
    assert lora.target_modules == set(modules), "the settings stay as they are"
    assert lora.task_type is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"layers_to_transform": [0, 1]},
            r"^lora: `layers_to_transform` cannot be used when `target_modules` is a str",
        ),
        ({"layers_pattern": "layers"}, r"^lora: "),
        ({"lora_bias": True, "use_dora": True}, r"^lora: "),
        (
            {"trainable_token_indices": [99, 100]},
            r"^lora\.trainable_token_indices: the base model has no embedding of token 100; expected 0 to 99$",
        ),
        ({"trainable_token_indices": [-1]}, r"^lora\.trainable_token_indices: .* of token -1; expected 0 to 99$"),
    ],
)
def test_settings_that_peft_refuses_are_not_the_models_fault(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    config = SectionOfLora(target_modules="all-linear", **settings)
    with pytest.raises(UserError, match=message) as caught:
        check_method("lora", ModelConfig(saved(tmp_path, CONFIGS["decoder"]())), config)
    assert "does not support" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (
            "full_finetuning",
            {"quantization": "nf4"},
            r"^model\.quantization: full fine-tuning requires unquantised weights",
        ),
        ("prefix_tuning", {"gradient_checkpointing": True}, r"^model\.gradient_checkpointing: cannot be combined"),
        ("context_tuning", {"gradient_checkpointing": True}, r"^model\.gradient_checkpointing: cannot be combined"),
    ],
)
def test_settings_that_a_method_cannot_have(
    tmp_path: Path, method: str, settings: dict[str, Any], message: str
) -> None:
    folder = saved(tmp_path, CONFIGS["decoder"]())
    with pytest.raises(UserError, match=message):
        check_method(method, ModelConfig(folder, **settings))
    check_method("lora", ModelConfig(folder, **settings))


def test_a_model_that_cannot_be_tried_is_not_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def raises(*_: Any, **__: Any) -> Any:
        raise ModuleNotFoundError("a kernel")

    monkeypatch.setattr(models.AUTO["decoder"], "from_config", raises)
    with caplog.at_level(logging.DEBUG, "softprompts.methods.preflight"):
        assert refusal("prefix_tuning", FalconConfig(**SIZES)) is None
    assert "falcon cannot run without weights" in caplog.text
    assert "ModuleNotFoundError: a kernel" in caplog.text
    assert main([saved(tmp_path, FalconConfig(**SIZES))]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == len(METHODS)
    assert all("unknown: the forward pass cannot run without weights" in line for line in lines), "and not yes"


def test_the_command_says_yes_or_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved(tmp_path, RobertaConfig(**WIDER))
    assert main([folder]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"{folder}: roberta, encoder"
    said = {line.split()[0]: line[2 + 24 + 1 :] for line in lines}
    assert said == {m.name: m.refusals.get("encoder", "yes") for m in METHODS.values()}


def test_the_command_with_what_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"error: model.name_or_path: {tmp_path} is not a model folder: it has no config.json\n"


def test_a_config_and_nothing_else_is_enough(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_model / "config.json", tmp_path)
    for method in METHODS:
        check_method(method, ModelConfig(str(tmp_path)))
