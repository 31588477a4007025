"""Recipes that load an adapter: a wrong one gives one line in all of them, and classes keep their names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import cli_in_process, main_in_process, read_result, recipe_command, tiny_flags
from made_adapters import KINDS, change_config, change_weights, saved
from method_runs import read_predictions, short_command

import pytest
import torch

pytestmark = pytest.mark.slow

Fail = Callable[[Path], str]
RECIPES = ["evaluate", "compare", "ensemble", "generate", "neighbours"]


def command_with(recipe: str, model: Path, task: Path, adapter: Path, other: Path, output: Path) -> list[str]:
    """Return a recipe's command line with an adapter, and with an undamaged one if the recipe needs two."""
    if recipe in ("generate", "neighbours"):
        flags = {"model.name_or_path": model, "adapter.path": adapter}
        text = ["--input.text", '["the film"]'] if recipe == "generate" else []
        return [f"recipes/{recipe}.py", *(str(t) for k, v in flags.items() for t in (f"--{k}", v)), *text]
    named = {
        "evaluate": {"adapter.path": adapter},
        "compare": {"first.path": other, "second.path": adapter},
        "ensemble": {"ensemble.adapters": f"[{other}, {adapter}]"},
    }[recipe]
    return recipe_command(recipe, "sentiment", tiny_flags(model, task, output) | named)


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut short": (lambda f: (f / "adapter_config.json").write_text('{"peft_type"'), "adapter_config.json is malformed"),
    "a list": (lambda f: (f / "adapter_config.json").write_text("[]"), "expected a JSON object, found list"),
    "no type": (lambda f: change_config(f, peft_type=None), "has no peft_type"),
    "an unknown type": (lambda f: change_config(f, peft_type="PROMPT_TUNE"), '(did you mean "PROMPT_TUNING"?)'),
    "a number as text": (lambda f: change_config(f, num_virtual_tokens="5"), "expected int, found '5'"),
    "another task": (lambda f: change_config(f, task_type="SEQ_2_SEQ_LM"), "has task_type SEQ_2_SEQ_LM, but"),
    "other keys": (lambda f: change_weights(f, lambda t: {"embeddings": t["prompt_embeddings"]}), "prompt_embeddings"),
    "more keys": (lambda f: change_weights(f, lambda t: t | {"x": torch.ones(1)}), "do not exist in the model: x"),
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("fault", FAULTS)
def test_b9_what_is_wrong_with_an_adapter_is_one_line_everywhere(
    tiny_model: Path, tiny_task: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], recipe: str, fault: str
) -> None:
    for name in ("it", "other"):
        saved(tiny_model, KINDS["prompt"](), tmp_path / name)
    change, message = FAULTS[fault]
    change(tmp_path / "it")
    command = command_with(recipe, tiny_model, tiny_task, tmp_path / "it", tmp_path / "other", tmp_path / "run")
    code, _, errors = cli_in_process(command, capfd)
    assert code == 2
    assert len(errors) == 1, errors
    section = {"compare": "second.path", "ensemble": "ensemble.adapters"}.get(recipe, "adapter.path")
    assert errors[0].startswith(f"error: {section}: {tmp_path / 'it'}"), errors
    assert message in errors[0]


@pytest.mark.parametrize("recipe", ["evaluate", "compare", "generate"])
def test_a6_a_lora_that_does_not_fit_is_refused_everywhere(
    tiny_model: Path, tiny_task: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], recipe: str
) -> None:
    for name in ("it", "other"):
        saved(tiny_model, KINDS["LoRA"](), tmp_path / name)
    change_weights(tmp_path / "it", lambda t: {k.replace(".model.model.", ".model._orig_mod.model."): t[k] for k in t})
    command = command_with(recipe, tiny_model, tiny_task, tmp_path / "it", tmp_path / "other", tmp_path / "run")
    code, _, errors = cli_in_process(command, capfd)
    assert (code, len(errors)) == (2, 1), errors
    assert "_orig_mod.model.layers.0.self_attn.q_proj.lora_A.weight and 3 more; it lacks" in errors[0]
    assert not (tmp_path / "run" / "result.json").exists()


SHIPPED, SORTED = '["positive", "negative"]', "from_train"
CLASSIFY = {"task.prompt": "{text}", "task.target": "{label}", "training.learning_rate": 0.005}


@pytest.mark.parametrize("recipe", ["full_finetuning", "lora", "prefix_tuning"])
@pytest.mark.parametrize(("trained", "scored"), [(SHIPPED, SORTED), (SORTED, SHIPPED)])
def test_a5_the_order_of_the_choices_changes_no_answer(
    tiny_encoder: Path,
    tiny_task: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    recipe: str,
    trained: str,
    scored: str,
) -> None:
    flags = CLASSIFY | {"task.choices": trained} | ({"prefix.num_virtual_tokens": 5} if "prefix" in recipe else {})
    flags |= {"prefix.init_text": "null"} if "prefix" in recipe else {}
    run = tmp_path / "run"
    assert main_in_process(short_command(recipe, tiny_encoder, tiny_task, run, **flags)) == 0
    whole = recipe == "full_finetuning"
    where = {"model.name_or_path": run / "model"} if whole else {"adapter.path": run}
    asked = tiny_flags(tiny_encoder, tiny_task, tmp_path / "again") | CLASSIFY | {"task.choices": scored} | where
    del asked["training.learning_rate"]
    assert main_in_process(recipe_command("evaluate", "sentiment", asked)) == 0
    first, second = read_result(run), read_result(tmp_path / "again")
    assert first["metrics"] == second["metrics"]
    before, after = read_predictions(run), read_predictions(tmp_path / "again")
    assert len({round(p["scores"][0], 3) for p in before}) > 3, "answers that an exchange would change"
    for one, other in zip(before, after, strict=True):
        assert one["prediction"] == other["prediction"]
        assert one["scores"] == pytest.approx(other["scores"][::-1], abs=1e-5)
    texts = [json.loads(line)["text"] for line in (tiny_task / "test.jsonl").read_text("utf-8").splitlines()]
    for choices in (SHIPPED, '["negative", "positive"]', None if not whole else SHIPPED):
        command = ["recipes/generate.py", "--model.name_or_path", str(run / "model" if whole else tiny_encoder)]
        command += ["--input.text", json.dumps(texts), *([] if whole else ["--adapter.path", str(run)])]
        code, said, errors = cli_in_process([*command, *(["--input.choices", choices] if choices else [])], capfd)
        assert (code, errors) == (0, [])
        lines = [line.split()[2] for line in said.splitlines() if line.startswith("  ")]
        assert lines == [p["prediction"].strip() for p in before], choices


@pytest.mark.parametrize("text", ['{"task": null}', '{"model_type": "llama"}', "[]", "3", '{"recipe": "x"}'])
def test_b14_a_strangers_config_beside_an_adapter_says_nothing(
    tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str
) -> None:
    saved(tiny_model, KINDS["prompt"](), tmp_path / "run" / "adapter")
    command = command_with("generate", tiny_model, tmp_path, tmp_path / "run", tmp_path, tmp_path)
    expected = cli_in_process(command, capfd)
    assert expected[0] == 0
    (tmp_path / "run" / "config.json").write_text(text, encoding="utf-8")
    assert cli_in_process(command, capfd) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"recipe": "lora", "ta', "cannot read "),
        ("", "cannot read "),
        ('{"recipe": "lora", "task": null}', "is damaged: its task is not valid"),
        ('{"recipe": "lora", "task": {"prompt": 3}}', "is damaged: its task is not valid"),
        ('{"recipe": "lora", "task": {"chat": "yes"}}', "is damaged: its task is not valid"),
        ('{"recipe": "lora", "task": {"choices": [1, 2]}}', "is damaged: its task is not valid"),
        ('{"recipe": "lora", "task": {"choices": {"a": 2}}}', "is damaged: its task is not valid"),
        ('{"recipe": "lora", "task": {"system": 2}}', "is damaged: its task is not valid"),
    ],
)
def test_b14_a_broken_record_of_a_run_is_one_line(
    tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    saved(tiny_model, KINDS["prompt"](), tmp_path / "run" / "adapter")
    (tmp_path / "run" / "config.json").write_text(text, encoding="utf-8")
    command = command_with("generate", tiny_model, tmp_path, tmp_path / "run", tmp_path, tmp_path)
    code, _, errors = cli_in_process(command, capfd)
    assert (code, len(errors)) == (2, 1), errors
    assert errors[0].startswith("error: adapter.path: ")
    assert str(tmp_path / "run" / "config.json") in errors[0]
    assert message in errors[0]


CODE = "from pathlib import Path\nPath('executed').touch()\nfrom transformers import LlamaConfig as Own\n"


class Closed:
    """Standard input without permission to read."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"stdin.{name}")


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}),
        (
            "config.json",
            {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}},
        ),
        ("tokenizer_config.json", {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}),
    ],
)
@pytest.mark.parametrize("recipe", ["prompt_tuning", "generate", "evaluate"])
def test_c9_code_of_a_model_folder_is_neither_run_nor_asked_for(
    tiny_model: Path,
    tiny_task: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    recipe: str,
    file: str,
    changes: dict[str, Any],
) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "own"))
    (model / "own.py").write_text(CODE, encoding="utf-8")
    settings = json.loads((model / file).read_text(encoding="utf-8"))
    (model / file).write_text(json.dumps(settings | changes), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", Closed())
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked for"))
    if recipe == "generate":
        command = [f"recipes/{recipe}.py", "--model.name_or_path", str(model), "--input.text", '["a"]']
    else:
        command = recipe_command(recipe, "sentiment", tiny_flags(model, tiny_task, tmp_path / "run"))
    code, _, errors = cli_in_process(command, capfd)
    assert code == 2
    said = "has its own code (auto_map in its config), and this project does not run code from model folders; use a"
    assert errors == [f"error: model.name_or_path: {model} {said} model whose architecture is in transformers"]
    assert not list(tmp_path.rglob("executed"))
    assert not Path("executed").exists()


def test_c9_an_architecture_that_transformers_has_is_read_by_its_own_code(
    tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "own"))
    (model / "own.py").write_text(CODE, encoding="utf-8")
    settings = json.loads((model / "config.json").read_text(encoding="utf-8"))
    own = {"auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (model / "config.json").write_text(json.dumps(settings | own), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", Closed())
    command = ["recipes/generate.py", "--model.name_or_path", str(model), "--input.text", '["a"]']
    assert cli_in_process(command, capfd)[0] == 0
    assert not Path("executed").exists()
