"""`recipes/generate.py`: answers of base model and adapter to texts from flags and from standard input."""

from __future__ import annotations

import io
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import cli_in_process, main_in_process, run_recipe
from method_runs import read_predictions, saved_by_peft, short_command, stock_answer, stock_model, stock_scores
from softprompts.adapters.loading import run_settings

import pytest
from peft import LoraConfig, PromptTuningConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = pytest.mark.slow

Say = Callable[..., str]
MethodRun = Callable[[str], Path]
TEXTS = ["the film was good", "a very dull plot and a poor cast"]


def generate_command(model: Path, adapter: Path | str, **flags: Any) -> list[str]:
    settings = {"model.name_or_path": model, "adapter.path": adapter} | flags
    return ["recipes/generate.py", *(str(text) for key, value in settings.items() for text in (f"--{key}", value))]


@pytest.fixture
def say(tiny_model: Path, capfd: pytest.CaptureFixture[str]) -> Say:
    """Run the recipe on the tiny model and return its output."""

    def run(adapter: Path | str, **flags: Any) -> str:
        code, said, errors = cli_in_process(generate_command(tiny_model, adapter, **flags), capfd)
        assert (code, errors) == (0, [])
        return said

    return run


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that PEFT itself has saved, without a run's settings for the format of its texts."""
    folder = tmp_path_factory.mktemp("stock") / "adapter"
    saved_by_peft(tiny_model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5), folder)
    return folder


def shown(prompt: str, base: str, adapter: str) -> str:
    return f"\n{prompt}\n  base model    {base.strip()}\n  with adapter  {adapter.strip()}\n"


def share(scores: list[float]) -> str:
    """Return a choice and its probability among the choices, as the recipe shows it."""
    best = max(range(2), key=lambda i: scores[i])
    probability = math.exp(scores[best]) / sum(math.exp(s) for s in scores)
    return f"{('positive', 'negative')[best]} ({probability:.0%})"


def test_template_and_choices_are_those_of_the_run(method_run: MethodRun, say: Say, tiny_model: Path) -> None:
    records = read_predictions(method_run("lora"))[:3]
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    base = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    texts = [record["prompt"].removesuffix(" sentiment") for record in records]
    expected = [
        shown(r["prompt"], share(stock_scores(base, tokenizer, r["prompt"])), share(r["scores"])) for r in records
    ]
    for folder in (method_run("lora"), method_run("lora") / "adapter"):
        assert say(folder, **{"input.text": json.dumps(texts)}) == "".join(expected)


def test_choices_that_train_has_are_those_of_its_adapter(
    tiny_model: Path, tiny_task: Path, tmp_path: Path, say: Say
) -> None:
    flags = {"prompt.num_virtual_tokens": 5, "task.choices": "from_train"}
    assert main_in_process(short_command("prompt_tuning", tiny_model, tiny_task, tmp_path / "run", **flags)) == 0
    record = read_predictions(tmp_path / "run")[0]
    text, named = record["prompt"].removesuffix(" sentiment"), run_settings(str(tmp_path / "run"))["task"]["choices"]
    assert named == record["choices"] == [" negative", " positive"]
    said = say(tmp_path / "run", **{"input.text": json.dumps([text])})
    assert said.splitlines()[-1].split()[2] == record["prediction"].strip()


def test_lines_of_standard_input_in_a_process_of_its_own(method_run: MethodRun, tiny_model: Path) -> None:
    folder = method_run("lora")
    record = read_predictions(folder)[0]
    text = record["prompt"].removesuffix(" sentiment")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    done = run_recipe(generate_command(tiny_model, folder), said=f"{text}\n\n{text}\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"\n{record['prompt']}\n  base model    ") == 2
    assert done.stdout.count(f"\n  with adapter  {share(record['scores'])}\n") == 2
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before, "nothing is written"


def test_choices_and_template_may_be_given(say: Say, adapter: Path, tiny_model: Path) -> None:
    flags = {"input.text": '["the film"]', "input.template": "{words} sentiment", "input.choices": '[" good", " bad"]'}
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = stock_model(adapter.parent, tiny_model, {})
    scores = stock_scores(model, tokenizer, "the film sentiment", [" good", " bad"])
    best = ("good", "bad")[scores[1] > scores[0]]
    said = say(adapter, **flags)
    assert said.startswith("\nthe film sentiment\n")
    assert f"  with adapter  {best} (" in said


def test_open_answers_are_those_of_stock_generation(say: Say, adapter: Path, tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    base = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    plain = [stock_answer(base, tokenizer, text, 6) for text in TEXTS]
    steered = [stock_answer(stock_model(adapter.parent, tiny_model, {}), tokenizer, text, 6) for text in TEXTS]
    assert plain != steered
    said = say(adapter, **{"input.text": json.dumps(TEXTS), "sampling.max_new_tokens": 6})
    assert said == "".join(map(shown, TEXTS, plain, steered))
    alone = say("null", **{"input.text": json.dumps(TEXTS), "sampling.max_new_tokens": 6})
    assert alone == "".join(f"\n{text}\n  base model    {a.strip()}\n" for text, a in zip(TEXTS, plain, strict=True))


def test_an_adapter_that_changes_the_base_stands_alone(
    tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"], init_lora_weights="pissa")
    model = saved_by_peft(tiny_model, config, tmp_path / "it", scale=2.0)
    answers = [stock_answer(model.eval(), AutoTokenizer.from_pretrained(tiny_model), text, 6) for text in TEXTS]
    flags = {"input.text": json.dumps(TEXTS), "sampling.max_new_tokens": 6}
    code, said, errors = cli_in_process(generate_command(tiny_model, tmp_path / "it", **flags), capfd)
    assert (code, len(errors)) == (0, 1)
    assert errors[0].endswith("run without adapter.path to see the base model's predictions")
    assert said == "".join(f"\n{text}\n  with adapter  {a.strip()}\n" for text, a in zip(TEXTS, answers, strict=True))


def test_draws_follow_the_seed(say: Say, adapter: Path) -> None:
    flags = {"input.text": json.dumps(TEXTS), "sampling.max_new_tokens": 8, "sampling.temperature": 1.5}
    one, again, other = (say(adapter, **flags, **{"sampling.seed": seed}) for seed in (1, 1, 2))
    assert one == again
    assert one != other
    assert one != say(adapter, **flags | {"sampling.temperature": 0})
    likeliest = say(adapter, **flags | {"sampling.top_p": 1e-6})
    assert likeliest == say(adapter, **flags | {"sampling.temperature": 0}), "one token holds that share"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"sampling.temperature": -1}, "sampling.temperature: expected 0 or more, found -1"),
        ({"sampling.top_p": 0}, "sampling.top_p: expected a number above 0 and at most 1, found 0"),
        ({"sampling.max_new_tokens": 0}, "sampling.max_new_tokens: expected a number above 0, found 0"),
        ({"input.text": "[]"}, "input.text: expected a text; set it, or write lines to standard input"),
        ({"input.template": "{a} and {b}"}, "input.template: expected exactly one column for the text, found a, b in"),
        ({"input.template": "nothing"}, "input.template: expected exactly one column for the text, found none in"),
        ({"input.template": "{a} "}, "ends in a space"),
        ({"input.tempalte": "{a}"}, 'unknown flag "--input.tempalte" (did you mean "input.template"?)'),
        ({"adapter.path": "./nothing"}, "adapter.path: no such folder: ./nothing"),
        ({"input.chat": "true"}, "has no chat template"),
    ],
)
def test_bad_input_is_one_line(
    adapter: Path,
    tiny_model: Path,
    flags: dict[str, Any],
    message: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    settings = {"input.text": '["the film"]'} | flags
    code, _, errors = cli_in_process(generate_command(tiny_model, adapter, **settings), capfd)
    assert (code, len(errors)) == (2, 1), errors
    assert errors[0].startswith("error: ")
    assert message in errors[0]


def test_an_adapter_moved_out_of_its_run_has_no_template(method_run: MethodRun, say: Say, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(method_run("lora") / "adapter", moved)
    said = say(moved, **{"input.text": '["the film"]', "sampling.max_new_tokens": 2})
    assert said.startswith("\nthe film\n  base model    ")
    assert "%" not in said
