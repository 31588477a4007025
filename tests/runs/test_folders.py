"""Whether a run may start or continue in a folder: other settings, damaged files, a user's files."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from softprompts.config.methods import LoraConfig
from softprompts.config.sections import EvaluationConfig, ModelConfig, RunConfig, TrainingConfig
from softprompts.errors import RunFinished, UserError
from softprompts.runs import folders
from softprompts.runs.run import Run, start_run
from softprompts.system import locks

import pytest

MINE = "not from this run and stays unchanged"


@pytest.fixture(autouse=True)
def _locks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(locks, "PATIENCE", 0.3)
    yield
    locks.release()


def start(folder: Path | str, resume: bool = False, recipe: str = "test", **changes: Any) -> Run:
    """Start a run; changes are written `evaluation__batch_size`."""
    settings: dict[str, dict[str, Any]] = {"model": {}, "training": {"best_by": "accuracy"}, "evaluation": {}}
    for key, value in changes.items():
        section, name = key.split("__")
        settings[section][name] = value
    return start_run(
        recipe,
        model=ModelConfig(**settings["model"]),
        training=TrainingConfig(**settings["training"]),
        evaluation=EvaluationConfig(**settings["evaluation"]),
        run=RunConfig(str(folder), resume=resume, trackers=[]),
    )


def begun(folder: Path, recipe: str = "test", **settings: Any) -> Path:
    """Make a run that was stopped after its first checkpoint."""
    start(folder, recipe=recipe, **settings).checkpoints.mkdir()
    locks.release()
    return folder


def refusal(folder: Path | str, resume: bool = False, recipe: str = "test", **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        start(folder, resume, recipe, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def config(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return record


@pytest.mark.parametrize(
    ("key", "was", "value"),
    [
        ("evaluation__batch_size", 32, 4),
        ("evaluation__bootstrap_resamples", 2000, 10),
        ("evaluation__split", "test", "validation"),
        ("model__engine", "auto", "stock"),
        ("model__gradient_checkpointing", False, True),
        ("training__micro_batch_tokens", None, 64),
    ],
)
def test_b4_settings_that_do_not_touch_what_trains_may_change(
    tmp_path: Path, key: str, was: Any, value: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    begun(tmp_path)
    run = start(tmp_path, resume=True, **{key: value})
    section, name = key.split("__")
    change = {"key": f"{section}.{name}", "was": was, "is": value}
    assert run.resumed == config(tmp_path)["resumed"] == [change]
    assert run.settings[section][name] == config(tmp_path)[section][name] == value, "the record says what was used"
    assert f"continuing with {section}.{name} {value} instead of {was}\n" in capfd.readouterr().out
    again = start(tmp_path, resume=True, **{key: value})
    assert again.resumed == [change], "and remembers it"
    assert "continuing with" not in capfd.readouterr().out


@pytest.mark.parametrize(("key", "value"), [("training__micro_batch_tokens", 64), ("model__engine", "stock")])
def test_settings_that_draw_other_numbers_of_dropout_may_not_change(tmp_path: Path, key: str, value: Any) -> None:
    lora = LoraConfig(lora_dropout=0.1)
    begun_with: dict[str, Any] = {"training": TrainingConfig(), "model": ModelConfig(), "lora": lora}
    start_run("test", **begun_with, run=RunConfig(str(tmp_path), trackers=[])).checkpoints.mkdir()
    locks.release()
    section, name = key.split("__")
    changed = begun_with | {section: replace(begun_with[section], **{name: value})}
    with pytest.raises(UserError, match=rf"settings of .* have changed: {section}\.{name} was"):
        start_run("test", **changed, run=RunConfig(str(tmp_path), resume=True, trackers=[]))


@pytest.mark.parametrize("name", ["result.json", "compare.json"])
def test_b4_a_finished_run_does_not_ignore_other_settings(tmp_path: Path, name: str) -> None:
    begun(tmp_path)
    (tmp_path / name).write_text("{}")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    said = refusal(tmp_path, resume=True, evaluation__split="validation")
    assert "contains a finished run with evaluation.split test instead of validation; use recipes/evaluate.py" in said
    assert "training.steps was 300 and is now 5" in refusal(tmp_path, resume=True, training__steps=5)
    with pytest.raises(RunFinished):
        start(tmp_path, resume=True)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before


@pytest.mark.parametrize(("key", "value"), [("max_new_tokens", 8), ("stop", ["."])])
def test_b4_how_answers_are_written_may_change_if_the_loss_chooses(tmp_path: Path, key: str, value: Any) -> None:
    changed = {f"evaluation__{key}": value}
    begun(tmp_path / "loss", training__best_by="loss")
    run = start(tmp_path / "loss", resume=True, training__best_by="loss", **changed)
    assert run.settings["evaluation"][key] == value
    begun(tmp_path / "metric")
    assert f"have changed: evaluation.{key} was " in refusal(tmp_path / "metric", resume=True, **changed)


def test_a_setting_that_a_version_adds_counts_as_its_default(tmp_path: Path) -> None:
    begun(tmp_path)
    record = config(tmp_path)
    del record["training"]["patience"], record["training"]["batch_size"]
    record["run"]["of_the_past"] = 1
    (tmp_path / "config.json").write_text(json.dumps(record))
    assert start(tmp_path, resume=True).resumed == []
    assert "training.batch_size was 16 and is now 8" in refusal(tmp_path, resume=True, training__batch_size=8)


@pytest.mark.parametrize("damage", ["", "{", '{"recipe": "te', "\x00\x00"])
def test_b11_a_damaged_config_is_one_line_and_stays(tmp_path: Path, damage: str) -> None:
    begun(tmp_path)
    (tmp_path / "config.json").write_text(damage)
    assert refusal(tmp_path, resume=True).startswith(f"{tmp_path / 'config.json'}: is damaged, or not from a run: ")
    assert "is not empty" in refusal(tmp_path)
    assert (tmp_path / "config.json").read_text() == damage
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "checkpoints"}


@pytest.mark.parametrize("content", ['{"model_type": "llama"}', "[]", "null", '"recipe"'])
def test_c13_a_config_of_something_else_is_no_run(tmp_path: Path, content: str) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text(content)
    expected = f"run.output_dir: {tmp_path} has no run to resume: its config.json is not from a run"
    assert refusal(tmp_path, resume=True) == expected
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "model.safetensors"}


def test_a10_what_a_kill_leaves_at_the_very_start_is_no_hindrance(tmp_path: Path) -> None:
    for name in (".config.4711.tmp.json", ".run.lock.break.4711.0123456789abcdef0123456789abcdef"):
        (tmp_path / name).write_text("{")
    start(tmp_path)
    assert config(tmp_path)["recipe"] == "test"


BEGIN = """
import sys, pathlib, time
from softprompts.system.locks import own
folder = pathlib.Path(sys.argv[1])
own(folder)
if sys.argv[2]:
    (folder / sys.argv[2]).write_text('{"recipe": "test", "run": {}}')
print("begun", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("moment", ["", "config.json"])
@pytest.mark.parametrize("resume", [False, True])
def test_a10_a_second_run_is_refused_at_every_moment_of_the_first(tmp_path: Path, moment: str, resume: bool) -> None:
    command = [sys.executable, "-c", BEGIN, str(tmp_path), moment]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout
        assert first.stdout.readline() == "begun\n"
        before = {p.name: p.read_text() for p in tmp_path.iterdir()}
        first.send_signal(signal.SIGSTOP)
        assert f"{tmp_path} is in use by process {first.pid} on " in refusal(tmp_path, resume)
        assert {p.name: p.read_text() for p in tmp_path.iterdir()} == before
        first.kill()
    start(tmp_path, resume=resume)
    assert f"pid={os.getpid()}" in (tmp_path / ".run.lock").read_text()


@pytest.mark.parametrize("resume", [False, True])
def test_another_programs_config_with_a_recipe_is_left_alone(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "config.json").write_text('{"recipe": "mine"}')
    assert refusal(tmp_path, resume).startswith(f"run.output_dir: {tmp_path} ")
    assert (tmp_path / "config.json").read_text() == '{"recipe": "mine"}'


def test_a10_a_refused_run_gives_up_the_folder(tmp_path: Path) -> None:
    begun(tmp_path)
    refusal(tmp_path, resume=True, training__steps=5)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "checkpoints"}


@pytest.mark.parametrize("text", ["", "  "])
def test_b12_no_folder_is_one_line(text: str) -> None:
    assert refusal(text) == "run.output_dir: expected a folder, found an empty text"


def test_b12_folders_that_cannot_be_made_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("gone")
    expected = f"run.output_dir: {tmp_path / 'dangling'} is a link to gone, which does not exist"
    assert refusal(tmp_path / "dangling") == expected
    long = tmp_path / ("a" * 300)
    assert refusal(long) == f"run.output_dir: {long}: File name too long"
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path / "pipe") == f"run.output_dir: {tmp_path / 'pipe'} is not a folder"
    assert "run.output_dir: a path cannot hold a NUL character" in refusal("a\0b")


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A run's folder on a file system that cannot be written any more."""
    begun(tmp_path / "run")
    mount = shutil.which("mount")
    command = [mount or "", "--bind", "-o", "ro", str(tmp_path / "run"), str(tmp_path / "run")]
    if not mount or os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    yield tmp_path / "run"
    subprocess.run(["umount", "-l", str(tmp_path / "run")], check=True)


def test_b12_resume_on_a_read_only_file_system_is_one_line(read_only: Path) -> None:
    assert refusal(read_only, resume=True) == f"run.output_dir: {read_only}: Read-only file system"


@pytest.mark.parametrize("resume", [False, True])
def test_b12_a_folder_without_the_right_to_write_is_one_line(
    tmp_path: Path, resume: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write everywhere, so the test refuses the lock's file."""
    begun(tmp_path) if resume else None

    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / ".run.lock"))

    monkeypatch.setattr(locks.MarkerSoftFileLock, "acquire", denied)
    assert refusal(tmp_path, resume) == f"run.output_dir: {tmp_path}: Permission denied"


def test_c1_no_folder_is_ever_named_after_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert start("~/runs/x").folder == tmp_path / "home" / "runs" / "x"
    assert list((tmp_path / "here").iterdir()) == []


def test_b10_a_users_files_are_never_overwritten(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    begun(tmp_path)
    (tmp_path / "README.md").write_text("my notes")
    run = start(tmp_path, resume=True)
    assert run.output("README.md") == tmp_path / "run-1-README.md"
    assert f"{tmp_path / 'README.md'} is {MINE}; writing run-1-README.md instead\n" in capfd.readouterr().out
    run.output("README.md").write_text("the run's")
    assert run.output("curves.png") == tmp_path / "curves.png"
    (tmp_path / "curves.png").touch()
    again = start(tmp_path, resume=True)
    assert again.output("curves.png") == tmp_path / "curves.png", "what is the run's may be written once more"
    assert again.output("README.md") == tmp_path / "run-1-README.md"
    assert (tmp_path / "README.md").read_text() == "my notes"
    assert run.output("adapter", fixed=True) == tmp_path / "adapter"
    (tmp_path / "model").mkdir()
    with pytest.raises(UserError, match=r"/model is not from this run; move it away, then --resume$"):
        run.output("model", fixed=True)


@pytest.mark.parametrize(("recipe", "name"), [("test", "adapter"), ("full_finetuning", "model")])
def test_what_is_in_the_place_of_an_adapter_is_refused_before_training(tmp_path: Path, recipe: str, name: str) -> None:
    begun(tmp_path, recipe=recipe)
    (tmp_path / name).mkdir()
    assert (
        refusal(tmp_path, True, recipe=recipe) == f"{tmp_path / name} is not from this run; move it away, then --resume"
    )


def test_a_folder_two_thousand_levels_deep_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^run\.output_dir: .*(too many|too long)$"):
        start(tmp_path / "/".join("a" * 2000))


def test_runs_of_versions_that_kept_no_list_write_as_they_did(tmp_path: Path) -> None:
    begun(tmp_path)
    record = config(tmp_path)
    del record[folders.OUTPUTS]
    (tmp_path / "config.json").write_text(json.dumps(record))
    (tmp_path / "adapter").mkdir()
    run = start(tmp_path, resume=True, evaluation__batch_size=4)
    assert run.output("adapter", fixed=True) == tmp_path / "adapter"


def test_what_a_kill_left_while_a_file_was_written_goes_and_nothing_else(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    (folder / "adapter").mkdir()
    written = ["predictions.jsonl", "adapter", "../x"]
    (folder / "config.json").write_text(json.dumps(config(folder) | {"outputs": written}), encoding="utf-8")
    (folder / ".adapter.77.tmp").mkdir()
    left = [".predictions.77.tmp.jsonl", ".result.77.tmp.json", ".config.5.tmp.json", "adapter/.README.77.tmp.md"]
    left.append(".adapter.77.tmp/weights")
    kept = [".predictions.jsonl", ".predictions.mine.tmp.jsonl", ".notes.77.tmp.txt", "checkpoints/.result.7.tmp.json"]
    for name in (*left, *kept, "../.x.77.tmp"):
        (folder / name).write_text("x", encoding="utf-8")
    start(folder, resume=True)
    assert [name for name in (*left, ".adapter.77.tmp") if (folder / name).exists()] == []
    assert [name for name in (*kept, "../.x.77.tmp") if not (folder / name).exists()] == []
