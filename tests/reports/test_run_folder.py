"""What a run leaves in its folder."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

from helpers import load_base, load_tuned, make_task
from made_result import HISTORY, make_result
from softprompts.adapters.loading import load_adapter
from softprompts.adapters.saving import write_adapter
from softprompts.config.methods import LoraConfig
from softprompts.config.sections import ModelConfig
from softprompts.config.tools import AdapterConfig
from softprompts.evaluation import predict as evaluation
from softprompts.evaluation.predict import Prediction
from softprompts.methods.baselines.lora import add_lora
from softprompts.metrics.scoring import Interval
from softprompts.models.loading import load_base_model
from softprompts.reports import run as report
from softprompts.reports.run import card, front_matter, save_run, summary
from softprompts.runs.record import Progress, load_result
from softprompts.runs.run import Run

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import nn
from transformers import LlamaConfig

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
SETTINGS = {"model": {"name_or_path": "someone/model"}, "task": {"prompt": "{text}", "target": " {label}"}}
NOTES = {"saved": "adapter", "kind": "decoder"}
NO_ADAPTER = {"total": 12, "trainable": 0, "saved": 0}
OUTCOME = evaluation.TestOutcome(
    examples=[],
    predictions=[
        Prediction("row 1", "naïve\u2028", " good", " bad", [-1.0, -0.5]),
        Prediction("2", "b", "c", "c", None),
    ],
    loss=0.7,
    metrics={"accuracy": Interval(0.5, 0.0, 1.0, 2)},
    baselines={"majority_class": {"accuracy": Interval(0.25, 0.0, 0.5, 2)}},
    seconds=1.5,
)


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    """Return a function that saves a made-up run in tmp_path."""

    def go(**more: Any) -> Any:
        run = Run("prompt_tuning", SETTINGS, tmp_path, 3, Accelerator(cpu=True), time.perf_counter() - 10)
        model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1, bias=False))
        model[0].requires_grad_(False)
        model.config = LlamaConfig()  # type: ignore[assignment]
        return save_run(run, make_task([("a", "b")], (" good", " bad")), model, OUTCOME, **more)

    return go


def test_a_trained_run(saved: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file({"prompt_embeddings": torch.zeros(4, 3)}, adapter / "adapter_model.safetensors")
    progress = Progress(step=12, best_step=12, seconds=4.0, tokens=1000, history=HISTORY)
    result = saved(progress=progress, adapter=adapter, notes={"wordings": [1]})
    assert load_result(tmp_path / "result.json") == result
    assert (result.recipe, result.task, result.seed, result.settings) == ("prompt_tuning", "made", 3, SETTINGS)
    assert result.parameters == {"total": 12, "trainable": 3, "saved": 12}
    assert (result.metrics, result.baselines, result.test_loss) == (OUTCOME.metrics, OUTCOME.baselines, 0.7)
    assert result.cost["seconds_total"] >= 10
    assert result.cost["training_tokens_per_second"] == 250
    assert result.cost["seconds_testing"] == 1.5
    assert result.cost["adapter_bytes"] == (adapter / "adapter_model.safetensors").stat().st_size
    assert result.data["splits"]["test"]["rows"] == 1
    assert (result.notes, result.environment["processes"]) == (
        {"wordings": [1], "saved": "adapter", "kind": "decoder"},
        1,
    )
    assert (tmp_path / "curves.png").is_file()
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == card(result)
    shared = (adapter / "README.md").read_text(encoding="utf-8")
    assert shared.startswith("---\nbase_model: someone/model\nlibrary_name: peft\n")
    assert shared.endswith(card(result, inside=True))
    assert summary(result, tmp_path) in capsys.readouterr().out


def test_a_sweep_has_no_tokens_per_second(saved: Any) -> None:
    """Its seconds are those of all candidates, and its tokens those of the chosen one."""
    progress = Progress(step=12, best_step=12, seconds=4.0, tokens=1000, history=HISTORY)
    cost = saved(progress=progress, notes={"candidates": []}).cost
    assert cost["seconds_training"] == 4
    assert "training_tokens_per_second" not in cost


def test_predictions_are_one_json_object_a_line(saved: Any, tmp_path: Path) -> None:
    saved()
    lines = (tmp_path / "predictions.jsonl").read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    records = [json.loads(line) for line in lines]
    assert [record.pop("choices") for record in records] == [[" good", " bad"], None]
    assert [Prediction(**record) for record in records] == OUTCOME.predictions


def test_a_run_without_training(saved: Any, tmp_path: Path) -> None:
    result = saved()
    assert (result.training, result.parameters["saved"], result.cost["adapter_bytes"]) == ({}, 0, 0)
    assert "training_tokens_per_second" not in result.cost
    assert not (tmp_path / "curves.png").exists()
    assert "there is no adapter" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_the_record_comes_last_so_that_a_folder_with_it_is_finished(
    saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("a plot that fails")

    monkeypatch.setattr(report, "plot_curves", fail)
    with pytest.raises(OSError, match="a plot that fails"):
        saved(progress=Progress(history=HISTORY))
    assert not (tmp_path / "result.json").exists()


def test_card_names_base_data_licences_and_scores() -> None:
    text = card(make_result(notes=NOTES))
    for part in (
        "# prompt_tuning on sentiment\n",
        "PeftModel.from_pretrained(base, 'adapter')",
        "AutoModelForCausalLM.from_pretrained('HuggingFaceTB/SmolLM2-135M-Instruct')",
        "It was trained on a 4-bit version of this base model",
        "HuggingFaceTB/SmolLM2-135M-Instruct (Apache-2.0; bundled:smollm2-135m-instruct)",
        "licence: The MIT License (MIT)",
        "11,520 of 134,526,528",
        r"`'{text}\nSentiment:'`",
        "seed 3, commit 0123abc, finished 2026-01-02",
        "| accuracy | 0.8500 | 0.8123 to 0.9000 | 600 |",
    ):
        assert part in text
    assert "base model: someone/model (licence: see its own card)\n" in card(
        make_result(settings=SETTINGS, notes=NOTES)
    )


def test_card_of_a_hard_prompt_has_the_prompt_of_its_scores() -> None:
    settings = SETTINGS | {"hard": {"wordings": ["{text}", "Rate {text}"], "shots": 4}}
    notes = {"chosen": 1, "wordings": [{"prompt": "{text}"}, {"prompt": "Rate {text}"}]}
    text = card(make_result(recipe="hard_prompt", settings=settings, notes=notes, parameters=NO_ADAPTER))
    line = "- prompt template: `'Rate {text}'`, target: `' {label}'`, few-shot examples from train before each row: 4\n"
    assert line in text
    assert "few-shot" not in card(make_result(settings=settings, notes=NOTES))


@pytest.mark.parametrize(
    ("quantization", "said"),
    [("none", None), ("nf4", "a 4-bit (nf4) version of this"), ("int8", "an 8-bit (int8) version of this")],
)
def test_card_names_the_bits_of_a_quantised_base(quantization: str, said: str | None) -> None:
    settings = SETTINGS | {"model": {"name_or_path": "someone/model", "quantization": quantization}}
    text = card(make_result(settings=settings, notes=NOTES))
    assert (said or "PeftModel") in text
    assert ("It was trained on" in text) == (said is not None)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder", "encoder"])
def test_the_code_of_a_card_runs_as_it_stands(
    kind: str, inside: bool, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixture = {"decoder": "tiny_model", "encoder-decoder": "tiny_t5", "encoder": "tiny_encoder"}[kind]
    path: Path = request.getfixturevalue(fixture)
    base, _ = load_base_model(ModelConfig(str(path)), torch.device("cpu"), [" good", " bad", " dull"])
    tuned = add_lora(base, LoraConfig(r=2), seed=0)
    (tmp_path / "adapter").mkdir()
    write_adapter(tuned, tmp_path / "adapter")
    notes = {"saved": "adapter", "kind": kind, "outputs": 3 if kind == "encoder" else None}
    settings = SETTINGS | {"model": {"name_or_path": str(path)}}
    (code,) = re.findall(r"```python\n(.*?)```", card(make_result(settings=settings, notes=notes), inside), re.DOTALL)
    monkeypatch.chdir(tmp_path / "adapter" if inside else tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    theirs = names["model"].state_dict()
    for name, value in tuned.state_dict().items():
        if "lora_" in name or "modules_to_save" in name:
            assert torch.equal(theirs[name], value), name
    assert names["tokenizer"]("the film").input_ids


def test_a_bundled_base_goes_by_the_hub_id_of_its_original(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOFTPROMPTS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "smollm2-135m-instruct"
    shutil.copytree(tiny_model, folder)
    tuned, _ = load_tuned(folder)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    write_adapter(tuned, adapter)
    texts = [file.read_text(encoding="utf-8") for file in adapter.iterdir() if file.suffix in (".json", ".md")]
    assert len(texts) == 3
    assert str(tmp_path) not in "".join(texts)
    assert (
        json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"] == SMOLLM2
    )
    load_adapter(load_base(folder)[0], AdapterConfig(str(adapter)))  # and is found by it, without a warning
    (adapter / "base_model.json").unlink()
    load_adapter(load_base(folder)[0], AdapterConfig(str(adapter)))


def test_summary_sets_the_score_beside_the_majority_class() -> None:
    assert summary(make_result(), Path("runs/a")).splitlines() == [
        "accuracy 0.8500 (95 % interval 0.8123 to 0.9000, 600 test rows)",
        "majority_class reaches accuracy 0.5100",
        "written to runs/a",
    ]


def test_a_folder_is_no_base_model_of_the_hub(tmp_path: Path) -> None:
    notes = {"saved": "adapter", "kind": "decoder"}
    local = make_result(settings={"model": {"name_or_path": str(tmp_path)}}, notes=notes)
    assert front_matter(local).startswith("---\nlibrary_name: peft\n")
    hub = make_result(settings={"model": {"name_or_path": "someone/model"}}, notes=notes)
    assert front_matter(hub).startswith("---\nbase_model: someone/model\nlibrary_name: peft\n")
