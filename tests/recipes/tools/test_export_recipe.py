"""`recipes/export.py`: exports of finished runs, compared on their own rows, and errors of one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

from helpers import cli_in_process, load_base, load_recipe
from method_runs import read_predictions, saved_by_peft, stock_answer, stock_model
from softprompts.config.cli import parse
from softprompts.config.tools import ExportConfig
from softprompts.export.forms import FORMS
from softprompts.export.kv_cache.prefixes import read_prefixes
from softprompts.export.vocabulary import read_tasks, request_text
from softprompts.models.bundled import resolve

import pytest
import torch
from peft import PeftModel, PromptTuningConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

MethodRun = Callable[[str], Path]
BUNDLED = "bundled:smollm2-135m-instruct"
TEXTS = '["the film was good", "a very dull plot"]'


def export_command(model: Path | str, to: str, folder: Path, **flags: Any) -> list[str]:
    settings = {"model.name_or_path": model, "export.to": to, "export.output_dir": folder} | flags
    return ["recipes/export.py", *(str(text) for key, value in settings.items() for text in (f"--{key}", value))]


def test_each_form_of_the_setting_is_written_by_something() -> None:
    assert set(get_args(get_type_hints(ExportConfig)["to"])) == FORMS.keys()


def test_paths_by_task_name_are_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNS", "/somewhere")
    command = export_command("m", "peft", Path("$RUNS/it"), **{"export.adapters": "{tone: $RUNS/tone}"})
    settings = parse(load_recipe("export").main, command[1:])["export"]
    assert (settings.output_dir, settings.adapters) == ("/somewhere/it", {"tone": "/somewhere/tone"})


def test_the_run_of_a_soft_prompt_as_vocabulary(
    method_run: MethodRun, tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, folder = method_run("P-tuning MLP"), tmp_path / "exports" / "it"
    flags = {"export.adapters": f"{{tone: {run}}}", "export.rows": 5}
    code, said, errors = cli_in_process(export_command(tiny_model, "vocabulary", folder, **flags), capfd)
    assert (code, errors) == (0, [])
    lines = said.splitlines()
    assert lines[0].startswith("tone: greedy output equals stock PEFT's on 5 of 5 rows")
    assert lines[-1] == f"written to {folder}"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    (read,) = read_tasks(folder).values()
    assert (read.template, read.choices, read.chat) == ("{text} sentiment", [" positive", " negative"], False)
    tuned = stock_model(run, tiny_model, {})
    for record in read_predictions(run)[:3]:
        text = request_text("tone", read, tokenizer, record["prompt"])
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
        with torch.inference_mode():
            mask = torch.ones_like(ids)
            row = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=5, do_sample=False)[0]
        answer = tokenizer.decode(row[ids.shape[1] :], skip_special_tokens=True)
        assert answer == stock_answer(tuned, AutoTokenizer.from_pretrained(tiny_model), record["prompt"])


@pytest.mark.slow
def test_the_run_of_a_prefix_as_keys_and_values(
    method_run: MethodRun, tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = {"export.adapters": f"{{tone: {method_run('context')}}}", "export.reserved": "[7, 8]"}
    code, said, errors = cli_in_process(export_command(tiny_model, "kv_cache", tmp_path / "it", **flags), capfd)
    assert (code, errors) == (0, [])
    assert said.startswith("tone: greedy output equals stock PEFT's on 8 of 8 rows")
    (prefix,) = read_prefixes(tmp_path / "it")
    assert prefix.task["template"] == "{text} sentiment"
    assert set(prefix.placeholder_ids) == {7, 8}


@pytest.mark.slow
@pytest.mark.parametrize("to", ["vocabulary", "prompt_embeds"])
def test_tasks_of_several_runs_together(
    method_run: MethodRun, tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], to: str
) -> None:
    tasks = {name: method_run("multitask") / "adapter" / name for name in ("books", "movies")}
    tasks["examples"] = method_run("CPT")
    given = json.dumps({name: str(path) for name, path in tasks.items()})
    command = export_command(tiny_model, to, tmp_path / "it", **{"export.adapters": given})
    code, said, errors = cli_in_process(command, capfd)
    assert (code, errors) == (0, [])
    assert [line.partition(":")[0] for line in said.splitlines()][:3] == list(tasks)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["prefix", "lora", "ia3"])
def test_runs_of_other_methods_as_stock_peft(
    method_run: MethodRun, tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], method: str
) -> None:
    flags = {"adapter.path": method_run(method), "export.base": "org/tiny"}
    code, said, errors = cli_in_process(export_command(tiny_model, "peft", tmp_path / "it", **flags), capfd)
    assert (code, errors) == (0, [])
    assert said.startswith("train: logits differ from those of")
    record = read_predictions(method_run(method))[0]
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    answers = []
    for adapter in (tmp_path / "it", method_run(method) / "adapter"):
        base = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
        answers.append(stock_answer(PeftModel.from_pretrained(base, str(adapter)).eval(), tokenizer, record["prompt"]))
    assert answers[0] == answers[1]


def test_what_exists_stays(
    voters: dict[str, Path], tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/file").write_text("theirs")
    (tmp_path / "file").write_text("theirs")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("theirs", "file", "link"):
        flags = {"adapter.path": voters["one"], "input.text": TEXTS}
        command = export_command(tiny_model, "prompt_embeds", tmp_path / name, **flags)
        code, _, errors = cli_in_process(command, capfd)
        assert (code, errors) == (
            2,
            [f"error: export.output_dir: {tmp_path / name} exists already; name a new folder"],
        )
    assert (tmp_path / "theirs/file").read_text() == "theirs"
    (tmp_path / "empty").mkdir()
    code, _, errors = cli_in_process(export_command(tiny_model, "prompt_embeds", tmp_path / "empty", **flags), capfd)
    assert (code, errors) == (0, [])
    assert {file.name for file in (tmp_path / "empty").iterdir()} == {"one.json", "one.safetensors"}


ADAPTERS = "export.adapters"


@pytest.mark.parametrize(
    ("to", "flags", "message"),
    [
        ("vocabulary", {"adapter.path": "prefix one"}, "export.to vocabulary supports soft prompts, but "),
        ("prompt_embeds", {"adapter.path": "lora"}, "is of type LORA; export.to peft and hub support every type"),
        (
            "vocabulary",
            {ADAPTERS: "{a: [one], b: [prefix one]}"},
            "export.adapters.b: export.to vocabulary supports soft",
        ),
        ("vocab", {"adapter.path": "one"}, 'found vocab (did you mean "vocabulary"?)'),
        ("vocabulary", {}, "adapter.path: expected an adapter here or in export.adapters, found neither"),
        ("vocabulary", {"adapter.path": "one", ADAPTERS: "{a: [one]}"}, "or in export.adapters, found both"),
        ("vocabulary", {ADAPTERS: "{a: [one], A: [two]}"}, "export.adapters: a and A differ only in upper case"),
        ("vocabulary", {ADAPTERS: "{a: [one], a: [two]}"}, 'export.adapters: not valid YAML: key "a" appears twice'),
        ("vocabulary", {ADAPTERS: "{'my task!': [one]}"}, "name it my_task: --export.adapters '{my_task: ...}'"),
        ("vocabulary", {ADAPTERS: "{'../up': [one]}"}, "name it up: --export.adapters '{up: ...}'"),
        ("vocabulary", {ADAPTERS: "{'a:0|>': [one]}"}, "name it a_0: --export.adapters"),
        ("vocabulary", {ADAPTERS: "{a: ./nothing}"}, "export.adapters.a: no such folder: ./nothing"),
        ("peft", {"adapter.path": "one"}, "is a folder of this machine; name the base model by its Hub id"),
        ("vocabulary", {"adapter.path": "one", "input.text": "[]"}, "input.text: the training rows of"),
        ("vocabulary", {"adapter.path": "one", "input.text": "[]", "input.chat": "false"}, "and chat require texts"),
        ("vocabulary", {"adapter.path": "one", "export.rows": 0}, "export.rows: expected a number above 0, found 0"),
        ("peft", {"adapter.path": "one", "export.license": "mit"}, "export.license: applies only to export.to hub"),
        ("vocabulary", {"adapter.path": "one", "export.base": "a/b"}, "applies only to export.to peft or hub"),
        ("vocabulary", {"adapter.path": "one", "export.reserved": "[7, 8]"}, "applies only to export.to kv_cache"),
        ("kv_cache", {"adapter.path": "one"}, "export.to kv_cache supports prefixes and cartridges, but "),
        (
            "vocabulary",
            {"adapter.path": "one", "model.quantization": "nf4"},
            "model.quantization: export.to vocabulary",
        ),
        ("vocabulary", {"adapter.path": "one", "input.chat": "true"}, "has no chat template"),
        ("hub", {"adapter.path": "one", "export.max_new_tokens": 5}, "export.max_new_tokens: applies only to"),
        ("vocabulary", {"adapter.path": "one", "export.rows": 5}, "export.rows: does not apply to the texts of"),
        ("peft", {"adapter.path": "one", "model.engine": "stock"}, "model.engine: recipes/export.py has its own"),
    ],
)
def test_bad_input_is_one_line(
    voters: dict[str, Path],
    tiny_model: Path,
    tmp_path: Path,
    to: str,
    flags: dict[str, Any],
    message: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name, path in voters.items():
        flags = {key: str(path) if value == name else value for key, value in flags.items()}
        flags = {key: v.replace(f"[{name}]", str(path)) if key == ADAPTERS else v for key, v in flags.items()}
    settings = {"input.text": TEXTS} | flags
    code, _, errors = cli_in_process(export_command(tiny_model, to, tmp_path / "it", **settings), capfd)
    assert (code, len(errors)) == (2, 1), errors
    assert errors[0].startswith("error: ")
    assert message in errors[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("tiny_t5", "requires a decoder, but {base} is an encoder-decoder; export.to peft and hub support"),
        ("tiny_encoder", "requires a decoder, but {base} is an encoder; export.to peft and hub support every kind"),
        ("wider_model", "is for another base model: hidden size 32, but {base} has 64"),
        ("another vocabulary", "was trained on"),
    ],
)
def test_another_base_model_is_one_line(
    voters: dict[str, Path],
    tiny_model: Path,
    tmp_path: Path,
    base: str,
    message: str,
    request: pytest.FixtureRequest,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if base == "another vocabulary":
        model = tmp_path / "other"
        shutil.copytree(tiny_model, model)
        other = AutoModelForCausalLM.from_pretrained(model)
        other.resize_token_embeddings(300)
        other.save_pretrained(model)
    else:
        model = request.getfixturevalue(base)
    flags = {"adapter.path": voters["one"], "input.text": TEXTS}
    code, _, errors = cli_in_process(export_command(model, "vocabulary", tmp_path / "it", **flags), capfd)
    assert (code, len(errors)) == (2, 1), errors
    assert message.format(base=model) in errors[0]
    assert not (tmp_path / "it").exists()


def test_a_tokenizer_that_is_longer_than_the_model(
    tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """New tokens follow the tokenizer's own, and rows between them are not used."""
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["<extra>", "<more>"])
    tokenizer.save_pretrained(model)
    saved_by_peft(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4), tmp_path / "adapter")
    flags = {"adapter.path": tmp_path / "adapter", "input.text": TEXTS}
    code, said, errors = cli_in_process(export_command(model, "vocabulary", tmp_path / "it", **flags), capfd)
    assert (code, errors) == (0, []), errors
    assert "equals stock PEFT's on 2 of 2 rows" in said
    assert load_base(tmp_path / "it")[0].get_input_embeddings().num_embeddings == len(tokenizer) + 4


def test_rows_that_are_gone(
    method_run: MethodRun, tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(method_run("P-tuning MLP"), run)
    settings = json.loads((run / "config.json").read_text())
    settings["task"]["validation"] = str(tmp_path / "gone.jsonl")
    (run / "config.json").write_text(json.dumps(settings))
    command = export_command(tiny_model, "prompt_embeds", tmp_path / "it", **{"adapter.path": run})
    code, _, errors = cli_in_process(command, capfd)
    assert (code, len(errors)) == (2, 1)
    assert errors[0].startswith(f"error: input.text: the rows of {run} cannot be read: ")
    assert errors[0].endswith("set texts instead")
    code, _, errors = cli_in_process([*command, "--input.text", TEXTS], capfd)
    assert (code, errors) == (0, []), "the template is still that of the run"
    assert json.loads((tmp_path / "it/train.json").read_text())["task"]["train"]["template"] == "{text} sentiment"


@pytest.mark.slow
@pytest.mark.bundled
def test_the_bundled_model(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name, model = BUNDLED, resolve(BUNDLED)
    common: dict[str, Any] = {"task_type": "CAUSAL_LM", "prompt_tuning_init": "TEXT", "tokenizer_name_or_path": model}
    for task, text in (("tone", "Is this positive or negative?"), ("topic", "What is this sentence about?")):
        config = PromptTuningConfig(num_virtual_tokens=16, prompt_tuning_init_text=text, **common)
        saved_by_peft(Path(model), config, tmp_path / task, scale=1.5)
    both = {"export.adapters": f"{{tone: {tmp_path / 'tone'}, topic: {tmp_path / 'topic'}}}", "input.text": TEXTS}
    for to, flags in (
        ("vocabulary", both | {"input.chat": "true"}),
        ("prompt_embeds", both),
        ("hub", {"adapter.path": tmp_path / "tone", "input.text": TEXTS, "export.license": "apache-2.0"}),
    ):
        code, said, errors = cli_in_process(export_command(name, to, tmp_path / to, **flags), capfd)
        assert (code, errors) == (0, [])
        assert said.count("equals stock PEFT's on 2 of 2 rows") == (0 if to == "hub" else 2)
    tokenizer, plain = AutoTokenizer.from_pretrained(tmp_path / "vocabulary"), AutoTokenizer.from_pretrained(model)
    messages = [{"role": "user", "content": "A film to see twice."}]
    given = {"tokenize": False, "add_generation_prompt": True}
    before = plain.apply_chat_template(messages, **given)
    assert tokenizer.apply_chat_template(messages, **given) == before
    said = tokenizer.apply_chat_template(messages, task="topic", **given)
    assert said == "".join(f"<|softprompts:topic:{number}|>" for number in range(16)) + before
    card = (tmp_path / "hub/README.md").read_text()
    assert "base_model: HuggingFaceTB/SmolLM2-135M-Instruct\n" in card
    assert "dequantised from SmolLM2-135M-Instruct.Q4_1.gguf" in card
    assert "Apache License" in (tmp_path / "hub/LICENSE").read_text()
    for given, said in (
        (
            {},
            "export.license: name the adapter's licence as the Hub does, for example apache-2.0, the base model's",
        ),
        ({"export.license": "mit"}, "export.license_file: name a file with the text of mit"),
    ):
        flags = {"adapter.path": tmp_path / "tone", "input.text": TEXTS, **given}
        code, _, errors = cli_in_process(export_command(name, "hub", tmp_path / "other", **flags), capfd)
        assert (code, errors) == (2, [f"error: {said}"])
