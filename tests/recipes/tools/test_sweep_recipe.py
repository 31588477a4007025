"""`recipes/sweep.py` end to end: its output, its choice, and that the chosen candidate equals a run alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import CPU, ROOT, cli_in_process, losses, read_result, recipe_command, run_recipe, tiny_flags
from softprompts.config.sections import ModelConfig
from softprompts.models.identity.base_model import read_record
from softprompts.models.identity.facts import facts_of
from softprompts.models.loading import load_base_model

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("sweep")]  # they share the run `finished`

TOKENS, RATES, SEEDS = 5, (1e-9, 0.05, 0.002), (3, 4)
GRID = "{training.learning_rate: [1.0e-9, 5e-2, 0.002], run.seed: [3, 4]}"
FILES = {"adapter", "checkpoints", "config.json", "curves.png", "predictions.jsonl", "README.md", "result.json"}
CHOICES = (" positive", " negative")
Command = Callable[..., list[str]]


@pytest.fixture(scope="module")
def command(tiny_model: Path, tiny_task: Path) -> Command:
    """Return the command line of a recipe for an output folder."""

    def build(output: Path, recipe: str = "sweep", *more: str, **flags: Any) -> list[str]:
        settings = tiny_flags(tiny_model, tiny_task, output) | {
            "prompt.num_virtual_tokens": TOKENS,
            "prompt.prompt_tuning_init": "SAMPLE_VOCAB",
            "training.steps": 12,
            "training.batch_size": 8,
            "training.warmup_steps": 2,
            "training.eval_every": 4,
            "training.eval_rows": "null",
            "training.best_by": "loss",
        }
        return recipe_command(recipe, "sentiment", settings | flags, *more)

    return build


@pytest.fixture(scope="module")
def finished(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a sweep of six candidates."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    done = run_recipe(command(folder, **{"sweep.grid": GRID}))
    assert done.returncode == 0, done.stderr
    assert (folder / "sweep.md").read_text(encoding="utf-8") in done.stdout
    assert f"written to {folder}" in done.stdout
    return folder


def test_a_sweep_leaves_all_that_it_promises(finished: Path) -> None:
    assert {p.name for p in finished.iterdir()} == FILES | {"sweep.md", "sweep.png"}
    assert (finished / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((finished / "checkpoints").iterdir())) == 6
    result = read_result(finished)
    assert result["recipe"] == "sweep"
    assert result["settings"]["sweep"]["grid"].keys() == {"training.learning_rate", "run.seed"}
    values = [c["values"] for c in result["notes"]["candidates"]]
    assert values == [{"training.learning_rate": rate, "run.seed": seed} for rate in RATES for seed in SEEDS]
    assert result["parameters"]["trainable"] == result["parameters"]["saved"] == TOKENS * 32
    assert len(losses(result["training"]["history"])) == 12


def test_the_best_on_validation_is_chosen(finished: Path) -> None:
    result = read_result(finished)
    candidates = result["notes"]["candidates"]
    for candidate in candidates:
        assert candidate["failure"] is None
        curve = {entry["step"]: entry["validation_loss"] for entry in candidate["validations"]}
        assert list(curve) == [0, 4, 8, 12]
        assert candidate["value"] == -min(curve.values()) == -curve[candidate["best_step"]]
    best = max(candidates, key=lambda c: c["value"])
    assert best["values"]["training.learning_rate"] == 0.05
    assert result["notes"]["chosen"] == f"learning_rate=0.05 seed={best['values']['run.seed']}"
    assert result["settings"]["training"]["learning_rate"] == 0.05, (
        "its record, and so its card, has what it was trained with"
    )
    assert result["seed"] == result["settings"]["run"]["seed"] == best["values"]["run.seed"]
    assert (result["training"]["best_value"], result["training"]["best_step"]) == (best["value"], best["best_step"])
    folder = finished / "checkpoints" / f"{candidates.index(best):03d}" / f"step-{best['best_step']:06d}"
    (trained,) = load_file(folder / "trainable.safetensors").values()
    (adapter,) = load_file(finished / "adapter" / "adapter_model.safetensors").values()
    assert torch.equal(adapter, trained)


def test_the_table_has_a_row_for_each_candidate_the_chosen_one_first(finished: Path) -> None:
    head, _, *rows = (finished / "sweep.md").read_text(encoding="utf-8").splitlines()
    assert head == "| learning_rate | run.seed | best validation loss | step | steps made |"
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert {(float(rate), int(seed)) for rate, seed, *_ in cells} == {(r, s) for r in RATES for s in SEEDS}
    shown = [float(value) for _, _, value, *_ in cells]
    assert shown == sorted(shown)
    result = read_result(finished)
    assert shown[0] == pytest.approx(-result["training"]["best_value"], abs=1e-4)
    assert result["notes"]["chosen"] == f"learning_rate={cells[0][0]} seed={cells[0][1]}"


def test_the_adapter_gives_the_recorded_answers_in_stock_peft(finished: Path, tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    base = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    model = PeftModel.from_pretrained(base, str(finished / "adapter"))
    for line in (finished / "predictions.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        scores = []
        for choice in CHOICES:
            first = len(tokenizer(record["prompt"]).input_ids)
            ids = tokenizer(record["prompt"] + choice, return_tensors="pt").input_ids
            with torch.inference_mode():
                likelihoods = model(input_ids=ids).logits[0, TOKENS:].log_softmax(-1)
            scores.append(sum(likelihoods[i - 1, ids[0, i]].item() for i in range(first, ids.shape[1])))
        assert scores == pytest.approx(record["scores"], abs=1e-3)
        assert record["prediction"] == CHOICES[scores[1] > scores[0]]


def test_the_chosen_one_is_what_prompt_tuning_makes_of_its_settings(
    command: Command, finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sweep = read_result(finished)
    rate, seed = (text.partition("=")[2] for text in sweep["notes"]["chosen"].split())
    flags = {"training.learning_rate": rate, "run.seed": seed, "training.micro_batch_tokens": 2000}
    code, _, errors = cli_in_process(command(tmp_path / "run", "prompt_tuning", **flags), capfd)
    assert code == 0, errors
    alone = read_result(tmp_path / "run")
    for key in ("loss", "lr", "validation_loss", "validation_accuracy"):
        ours, theirs = ([e[key] for e in r["training"]["history"] if key in e] for r in (sweep, alone))
        assert ours == pytest.approx(theirs, rel=1e-4), key
    assert sweep["test_loss"] == pytest.approx(alone["test_loss"], rel=1e-4)
    for key in ("best_step", "step", "tokens"):
        assert sweep["training"][key] == alone["training"][key], key
    prompts = [
        load_file(f / "adapter" / "adapter_model.safetensors")["prompt_embeddings"]
        for f in (finished, tmp_path / "run")
    ]
    torch.testing.assert_close(*prompts, rtol=1e-3, atol=1e-3)


def test_a_finished_sweep_is_never_touched(command: Command, finished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
    again = command(finished, "sweep", "--resume", **{"sweep.grid": GRID})
    code, said, errors = cli_in_process(again, capfd)
    assert (code, said, errors) == (0, f"{finished} contains a finished run; nothing to do\n", [])
    other = command(finished, "sweep", "--resume", **{"sweep.grid": "{run.seed: [3, 4]}"})
    code, _, errors = cli_in_process(other, capfd)
    assert code == 2
    assert len(errors) == 1
    assert "sweep.grid.training.learning_rate" in errors[0]
    assert {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("{training.learning_rat: [1]}", 'rat" cannot vary (did you mean "training.learning_rate"?)'),
        ("{training.steps: [2, many]}", "sweep.grid: training.steps: expected whole number, found many"),
        ("{training.steps: 2}", "sweep.grid: expected "),
        ("{}", "sweep.grid: expected at least one key with its values"),
        ("{prompt.prompt_tuning_init: [TEXT, TXT]}", 'found TXT (did you mean "TEXT"?)'),
        ("{prompt.num_virtual_tokens: [null, 5]}", "prompt.num_virtual_tokens: expected "),
    ],
)
def test_a_bad_grid_ends_with_one_line_and_writes_nothing(
    command: Command, grid: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, _, errors = cli_in_process(command(tmp_path / "run", **{"sweep.grid": grid}), capfd)
    assert (code, len(errors)) == (2, 1), errors
    assert errors[0].startswith("error: ")
    assert message in errors[0]
    assert not (tmp_path / "run").exists()


def test_lengths_and_texts_may_vary(command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    grid = '{prompt.num_virtual_tokens: [1, 9], prompt.prompt_tuning_init_text: ["the film", "good: bad"]}'
    flags = {"prompt.prompt_tuning_init": "TEXT", "training.steps": 2, "training.eval_every": 1, "sweep.grid": grid}
    code, _, errors = cli_in_process(command(tmp_path / "run", **flags), capfd)
    assert (code, errors) == (0, [])
    result = read_result(tmp_path / "run")
    starts = [c["validations"][0]["validation_loss"] for c in result["notes"]["candidates"]]
    assert len(set(starts)) == 4
    best = max(result["notes"]["candidates"], key=lambda c: c["value"])
    assert result["parameters"]["saved"] == best["values"]["prompt.num_virtual_tokens"] * 32


LORA = {"sweep.method": "lora", "lora.r": 4}
PREFIX = {"sweep.method": "prefix_tuning", "prefix.num_virtual_tokens": 3, "prefix.init_text": "null"}
ON_ENCODER: dict[str, dict[str, Any]] = {
    "lora": LORA | {"lora.target_modules": "[query]"},
    "full_finetuning": {"sweep.method": "full_finetuning"},
    "prefix_tuning": PREFIX,
}


@pytest.fixture(scope="module")
def on_model(tiny_task: Path, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Return the command line of a recipe on another model; a sweep has no settings of a soft prompt."""
    shipped = yaml.safe_load((ROOT / "configs" / "sentiment" / "sweep.yaml").read_text(encoding="utf-8"))
    file = tmp_path_factory.mktemp("config") / "sweep.yaml"
    file.write_text(yaml.safe_dump({k: v for k, v in shipped.items() if k != "prompt"}), encoding="utf-8")

    def build(recipe: str, model: Path, output: Path, **flags: Any) -> list[str]:
        training = {"batch_size": 8, "warmup_steps": 0, "best_by": "loss"} if recipe == "sweep" else {}
        settings = tiny_flags(model, tiny_task, output) | {f"training.{key}": value for key, value in training.items()}
        made = recipe_command(recipe, "sentiment", {"task.prompt": "{text} sentiment"} | settings | flags)
        return [str(file) if recipe == "sweep" and text.endswith("sweep.yaml") else text for text in made]

    return build


@pytest.mark.parametrize("method", ON_ENCODER)
@pytest.mark.parametrize("own", [False, True], ids=["new classifier", "own classifier"])
def test_candidates_on_an_encoder_each_have_its_classifier(
    on_model: Command, tiny_encoder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], method: str, own: bool
) -> None:
    """The labels of its own classifier are in another order than the choices. What is saved keeps their meaning."""
    model = tiny_encoder
    if own:
        model = tmp_path / "model"
        names = ["negative", "positive"]
        base, tokenizer = load_base_model(ModelConfig(str(tiny_encoder)), CPU, names)
        for part in (base, tokenizer):
            part.save_pretrained(model)
    rates = "{training.learning_rate: [0.01, 0.0001]}"
    length = {"training.steps": 8, "training.eval_every": 4, "sweep.reduction_factor": 2, "sweep.grid": rates}
    code, _, errors = cli_in_process(on_model("sweep", model, tmp_path / "run", **length, **ON_ENCODER[method]), capfd)
    assert code == 0, errors
    sweep = read_result(tmp_path / "run")
    first, second = sweep["notes"]["candidates"]
    assert (first["failure"], second["failure"]) == (None, None)
    assert first["validations"][0] == pytest.approx(second["validations"][0]), "both start at the loaded weights"
    assert first["validations"][1]["validation_loss"] != second["validations"][1]["validation_loss"]
    saved = {"adapter.path": tmp_path / "run"}
    if method == "full_finetuning":
        saved = {"model.name_or_path": tmp_path / "run" / "model"}
    code, _, errors = cli_in_process(on_model("evaluate", model, tmp_path / "again", **saved), capfd)
    assert code == 0, errors
    again = read_result(tmp_path / "again")
    assert again["test_loss"] == pytest.approx(sweep["test_loss"], rel=1e-5)
    assert again["metrics"]["accuracy"]["value"] == sweep["metrics"]["accuracy"]["value"]


def test_an_adapter_that_changes_weights_records_its_base_model_and_choices(
    on_model: Command, tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = LORA | {"training.steps": 2, "training.eval_every": 2, "lora.target_modules": "[q_proj]"}
    flags |= {"task.choices": "from_train", "sweep.grid": "{training.learning_rate: [0.01]}"}
    code, _, errors = cli_in_process(on_model("sweep", tiny_model, tmp_path / "run", **flags), capfd)
    assert code == 0, errors
    record = read_record(tmp_path / "run" / "adapter")
    assert record.base == facts_of(load_base_model(ModelConfig(str(tiny_model)), CPU)[0]).identity
    assert record.choices == [" negative", " positive"]


def test_ways_to_start_may_vary_and_the_adapter_is_stock(
    command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    grid = "{prompt.init_from: [null, uniform, frequent, labels]}"
    length = {"training.steps": 1, "training.warmup_steps": 0, "training.eval_every": 1}
    flags = {
        "prompt.prompt_tuning_init": "RANDOM",
        "prompt.prompt_tuning_init_text": "null",
        "sweep.grid": grid,
    } | length
    code, _, errors = cli_in_process(command(tmp_path / "run", **flags), capfd)
    assert (code, errors) == (0, [])
    starts = [c["validations"][0]["validation_loss"] for c in read_result(tmp_path / "run")["notes"]["candidates"]]
    assert len(set(starts)) == 4
    saved = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert saved["peft_type"] == "PROMPT_TUNING"
    assert not {"init_from", "init_labels"} & saved.keys()


def test_the_best_candidate_of_ia3_is_a_run_of_its_recipe(
    on_model: Command, tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    training = {"steps": 4, "eval_every": 2, "batch_size": 8, "warmup_steps": 0, "best_by": "loss", "eval_rows": "null"}
    training |= {"schedule": "linear", "max_grad_norm": 1.0}
    same = {f"training.{key}": value for key, value in training.items()}
    flags = {"sweep.method": "ia3", "sweep.grid": "{training.learning_rate: [0.0001, 0.5]}"}
    code, _, errors = cli_in_process(on_model("sweep", tiny_model, tmp_path / "sweep", **same, **flags), capfd)
    assert code == 0, errors
    sweep = read_result(tmp_path / "sweep")
    best = max(sweep["notes"]["candidates"], key=lambda c: c["value"])["values"]["training.learning_rate"]
    alone = on_model("ia3", tiny_model, tmp_path / "alone", **same, **{"training.learning_rate": best})
    code, _, errors = cli_in_process(alone, capfd)
    assert code == 0, errors
    run = read_result(tmp_path / "alone")
    assert sweep["test_loss"] == pytest.approx(run["test_loss"], rel=1e-5)
    assert sweep["parameters"]["trainable"] == run["parameters"]["trainable"] > 0
    assert (tmp_path / "sweep" / "adapter" / "adapter_config.json").is_file()
