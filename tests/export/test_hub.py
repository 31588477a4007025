"""Folders for the Hub: a card that huggingface_hub reads, and a program that runs without changes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import ROOT, recipe_environment
from method_runs import saved_by_peft
from softprompts.config.sections import ModelConfig
from softprompts.config.tools import AdapterConfig, ExportConfig, InputConfig
from softprompts.errors import UserError
from softprompts.export.forms import write_export
from softprompts.models.identity.base_model import read_record

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, AutoTokenizer

TEXTS = ["the film was good", "a very dull plot and a poor cast"]
LICENCE = {"license": "apache-2.0", "license_file": str(ROOT / "LICENSE")}
CHAT = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}[a]{% endif %}"
)


def export(model: Path, adapter: Path, folder: Path, texts: InputConfig | None = None, **more: Any) -> list[str]:
    given = LICENCE | {"base": "org/tiny", "repo_id": "me/it"} | more
    config = ExportConfig("hub", str(folder), **given)
    asked = texts or InputConfig(TEXTS, "{text} sentiment")
    return write_export(ModelConfig(str(model)), AdapterConfig(str(adapter)), config, asked)


def snippet(card: str) -> str:
    """Return the one Python block of a card."""
    (block,) = re.findall(r"^```python\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)
    return str(block)


def answer_of(folder: Path, model: Path, place: Path) -> str:
    """Run a card's program in a folder with both repositories under their names, and return its output."""
    for name, target in (("org/tiny", model), ("me/it", folder)):
        (place / name).parent.mkdir(parents=True)
        (place / name).symlink_to(target)
    program = snippet((folder / "README.md").read_text(encoding="utf-8"))
    assert program == (folder / "example.py").read_text(encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=place,
        env=recipe_environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def expected_answer(model: Path, adapter: Path, text: str, auto: Any = AutoModelForCausalLM, **more: Any) -> str:
    tokenizer = AutoTokenizer.from_pretrained(model)
    tuned = PeftModel.from_pretrained(auto.from_pretrained(model).eval(), str(adapter)).eval()
    ids = tokenizer(text, return_tensors="pt", **more).input_ids
    with torch.inference_mode():
        mask = torch.ones_like(ids)
        (row,) = tuned.generate(input_ids=ids, attention_mask=mask, max_new_tokens=32, do_sample=False)
    skipped = ids.shape[1] if auto is AutoModelForCausalLM else 0
    return str(tokenizer.decode(row[skipped:], skip_special_tokens=True)) + "\n"


@pytest.mark.slow
def test_the_card_of_a_decoder_runs(tiny_model: Path, voters: dict[str, Path], tmp_path: Path) -> None:
    line, upload = export(tiny_model, voters["two"], tmp_path / "it")
    assert line.startswith("two: logits differ from those of")
    assert upload == f"to upload it: hf upload me/it {tmp_path / 'it'}"
    files = {"README.md", "LICENSE", "example.py", "adapter_config.json", "adapter_model.safetensors"}
    assert {file.name for file in (tmp_path / "it").iterdir()} == files
    answer = answer_of(tmp_path / "it", tiny_model, tmp_path / "hub")
    assert answer == expected_answer(tiny_model, voters["two"], "An example text. sentiment")
    assert answer.strip()


@pytest.mark.slow
def test_the_card_of_a_chat_runs(tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(model)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(model)
    adapter = tmp_path / "adapter"
    saved_by_peft(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=7), adapter)
    export(model, adapter, tmp_path / "it", InputConfig(TEXTS, "{text} sentiment", chat=True))
    said = "[user] An example text. sentiment [a]"
    expected = expected_answer(model, adapter, said, add_special_tokens=False)
    assert answer_of(tmp_path / "it", model, tmp_path / "hub") == expected


@pytest.mark.slow
def test_the_card_of_an_encoder_decoder_runs(tiny_t5: Path, tmp_path: Path) -> None:
    config = PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=4)
    get_peft_model(AutoModelForSeq2SeqLM.from_pretrained(tiny_t5), config).save_pretrained(str(tmp_path / "adapter"))
    export(tiny_t5, tmp_path / "adapter", tmp_path / "it")
    assert answer_of(tmp_path / "it", tiny_t5, tmp_path / "hub") == expected_answer(
        tiny_t5, tmp_path / "adapter", "An example text. sentiment", AutoModelForSeq2SeqLM
    )


@pytest.mark.slow
def test_the_card_of_an_encoder_runs(tiny_encoder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=2)
    config = PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4)
    get_peft_model(base, config).save_pretrained(str(tmp_path / "adapter"))
    (tmp_path / "adapter/base_model.json").write_text('{"choices": ["up", "down"]}')
    texts = InputConfig(TEXTS, "{text} sentiment", choices=["down", "up"])
    export(tiny_encoder, tmp_path / "adapter", tmp_path / "it", texts)
    assert answer_of(tmp_path / "it", tiny_encoder, tmp_path / "hub") in ("up\n", "down\n")


def test_the_card_of_a_run_has_its_scores(method_run: Callable[[str], Path], tiny_model: Path, tmp_path: Path) -> None:
    run = method_run("P-tuning MLP")
    export(tiny_model, run, tmp_path / "it", InputConfig())
    text = (tmp_path / "it/README.md").read_text(encoding="utf-8")
    card = ModelCard(text, ignore_metadata_errors=False)
    data = card.data.to_dict()
    assert (data["base_model"], data["library_name"], data["license"]) == ("org/tiny", "peft", "apache-2.0")
    assert data["pipeline_tag"] == "text-generation"
    assert {result.metric_type for result in card.data.eval_results} == {"accuracy", "macro_f1"}
    assert "| accuracy | 0." in text
    assert "`'{text} sentiment'`" in text
    assert "`' positive'`, `' negative'`" in text
    assert str(tiny_model) not in text
    ours, theirs = (read_record(folder).base for folder in (tmp_path / "it", run / "adapter"))
    assert ours is not None
    assert theirs is not None
    assert (ours.name, ours.weights) == ("org/tiny", theirs.weights)
    assert (tmp_path / "it/LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_the_card_names_the_run_and_the_revision_whatever_texts_are_compared(
    method_run: Callable[[str], Path], tiny_model: Path, tmp_path: Path
) -> None:
    model = ModelConfig(str(tiny_model), revision="v1.0")
    config = ExportConfig("hub", str(tmp_path / "it"), repo_id="me/it", base=str(tiny_model), **LICENCE)
    texts = InputConfig(TEXTS, "{text} other", choices=[" a", " b"])
    write_export(model, AdapterConfig(str(method_run("P-tuning MLP"))), config, texts)
    card = (tmp_path / "it/README.md").read_text(encoding="utf-8")
    assert "`'{text} sentiment'`" in card
    assert "`' positive'`, `' negative'`" in card
    assert "of the training data: that of your data" in card
    assert "revision `v1.0`" in card
    assert snippet(card).count("revision='v1.0'") == 2
    assert json.loads((tmp_path / "it/adapter_config.json").read_text())["revision"] == "v1.0"


def test_an_adapter_without_a_run_has_data_of_unknown_licence(
    tiny_model: Path, voters: dict[str, Path], tmp_path: Path
) -> None:
    export(tiny_model, voters["one"], tmp_path / "it")
    assert "of the training data: unknown" in (tmp_path / "it/README.md").read_text(encoding="utf-8")


def test_a_damaged_record_is_one_line_before_any_work(
    method_run: Callable[[str], Path], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(method_run("P-tuning MLP"), tmp_path / "run")
    (tmp_path / "run/result.json").write_text("{", encoding="utf-8")
    monkeypatch.delattr("softprompts.export.hub.write_adapter")
    with pytest.raises(UserError, match=r"result\.json: is damaged, or not the record of a run: "):
        export(tiny_model, tmp_path / "run", tmp_path / "it")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"license": None}, "export.license: name the adapter's licence as the Hub does, for example apache-2.0"),
        ({"license_file": None}, "export.license_file: name a file with the text of apache-2.0"),
        ({"license_file": "nothing"}, "nothing: no such file"),
        ({"repo_id": "me/it/again"}, "export.repo_id: "),
        ({"repo_id": "a name?"}, 'Take "user/a-name", for example'),
    ],
)
def test_what_a_repository_lacks_is_one_line(
    tiny_model: Path, voters: dict[str, Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        export(tiny_model, voters["one"], tmp_path / "it", **changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_repository_holds_one_adapter(tiny_model: Path, voters: dict[str, Path], tmp_path: Path) -> None:
    given = {name: str(voters[name]) for name in ("one", "two")}
    config = ExportConfig("hub", str(tmp_path / "it"), given, base="org/tiny", **LICENCE)
    with pytest.raises(UserError, match=r"export\.to hub supports one adapter"):
        write_export(ModelConfig(str(tiny_model)), AdapterConfig(), config, InputConfig(TEXTS))
