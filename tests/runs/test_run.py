"""The output folder: new, taken, resumed, finished; trackers and settings as plain values."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers import ROOT, recipe_environment
from softprompts.config.sections import TRACKERS, EvaluationConfig, RunConfig, TaskConfig, TrainingConfig
from softprompts.errors import RunFinished, UserError
from softprompts.runs.environment import use_all_cores
from softprompts.runs.run import Run, leaves, plain, start_run
from softprompts.system import locks

import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from accelerate.utils import LoggerType
from peft import PromptTuningConfig, PromptTuningInit


@dataclass
class Inner:
    values: tuple[int, ...] = (1, 2)
    names: set[str] = field(default_factory=lambda: {"b", "a"})


@dataclass
class Outer:
    inner: Inner = field(default_factory=Inner)
    start: PromptTuningInit = PromptTuningInit.TEXT
    dtype: torch.dtype = torch.bfloat16


def start(folder: Path, recipe: str = "test", trackers: tuple[str, ...] = (), **changes: Any) -> Run:
    settings = {"steps": 3} | {k: v for k, v in changes.items() if k not in ("resume", "seed")}
    run = {k: v for k, v in changes.items() if k in ("resume", "seed")}
    return start_run(
        recipe, training=TrainingConfig(**settings), run=RunConfig(str(folder), trackers=list(trackers), **run)
    )


def refusal(folder: Path, **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        start(folder, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("exists", [True, False])
def test_a_new_or_empty_folder_becomes_the_runs(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "deep" / "run"
    if exists:
        folder.mkdir(parents=True)
    run = start(folder, seed=3)
    assert (run.recipe, run.folder, run.seed, run.checkpoints) == ("test", folder, 3, folder / "checkpoints")
    record = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert record == {"recipe": "test", "outputs": []} | run.settings
    assert record["training"]["steps"] == 3


def test_the_seed_decides_what_is_drawn(tmp_path: Path) -> None:
    draws = []
    for number, seed in enumerate((0, 0, 1)):
        start(tmp_path / str(number), seed=seed)
        draws.append(torch.randn(3))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_a_folder_that_holds_something_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    assert refusal(tmp_path) == (
        f"run.output_dir: {tmp_path} is not empty; choose another folder, or continue with --resume"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    assert refusal(tmp_path / "run") == f"run.output_dir: {tmp_path / 'run'} is a file"
    assert f"run.output_dir: cannot make {tmp_path / 'run' / 'below'}: " in refusal(tmp_path / "run" / "below")


def test_a_folder_that_is_no_run_cannot_be_resumed(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    assert refusal(tmp_path, resume=True) == (f"run.output_dir: {tmp_path} has no run to resume: it has no config.json")


def test_resume_of_what_never_began_begins_it(tmp_path: Path) -> None:
    start(tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "config.json").is_file()


def test_resume_with_the_same_settings(tmp_path: Path) -> None:
    start(tmp_path).checkpoints.mkdir()
    before = (tmp_path / "config.json").read_text(encoding="utf-8")
    assert start(tmp_path, resume=True).folder == tmp_path
    assert (tmp_path / "config.json").read_text(encoding="utf-8") == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 5}, "training.steps was 3 and is now 5"),
        ({"patience": 2}, "training.patience was None and is now 2"),
        ({"seed": 1}, "run.seed was 0 and is now 1"),
        ({"recipe": "other"}, "recipe was 'test' and is now 'other'"),
        ({"steps": 5, "seed": 1}, "training.steps was 3 and is now 5; run.seed was 0 and is now 1"),
    ],
)
def test_resume_with_other_settings_says_which(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    start(tmp_path).checkpoints.mkdir()
    assert refusal(tmp_path, resume=True, **changes) == f"--resume: the settings of {tmp_path} have changed: {message}"


def test_resume_may_change_folder_name_and_trackers(tmp_path: Path) -> None:
    start(tmp_path / "before").checkpoints.mkdir()
    locks.release()
    (tmp_path / "before").rename(tmp_path / "after")
    start(tmp_path / "after", resume=True, trackers=("tensorboard",))


@pytest.mark.parametrize("resume", [True, False])
def test_what_failed_before_its_first_checkpoint_begins_anew(tmp_path: Path, resume: bool) -> None:
    start(tmp_path, trackers=("tensorboard",))
    start(tmp_path, resume=resume, steps=5)
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["training"]["steps"] == 5


@pytest.mark.parametrize("mine", ["{}", "not JSON"])
def test_a_config_that_is_somebody_elses_is_left_alone(tmp_path: Path, mine: str) -> None:
    (tmp_path / "config.json").write_text(mine, encoding="utf-8")
    assert "is not empty" in refusal(tmp_path)
    assert (tmp_path / "config.json").read_text(encoding="utf-8") == mine


def test_a_finished_run_is_not_begun_again(tmp_path: Path) -> None:
    start(tmp_path)
    (tmp_path / "result.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RunFinished) as caught:
        start(tmp_path, resume=True)
    assert str(caught.value) == f"{tmp_path} contains a finished run; nothing to do"


def test_unknown_tracker_names_the_nearest_and_makes_no_folder(tmp_path: Path) -> None:
    message = refusal(tmp_path / "run", trackers=("tensorbord",))
    assert message == 'run.trackers: unknown tracker "tensorbord" (did you mean "tensorboard"?)'
    assert not (tmp_path / "run").exists()


def test_the_trackers_are_those_of_accelerate() -> None:
    assert sorted(LOGGER_TYPE_TO_CLASS) == list(TRACKERS)


def test_a_tracker_that_is_not_installed_is_not_left_out_silently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("softprompts.runs.run.get_available_trackers", lambda: [LoggerType.TENSORBOARD])
    message = refusal(tmp_path, trackers=("tensorboard", "wandb"))
    assert message == "run.trackers: wandb is not installed; run `pip install wandb`"


def test_tracker_logs_under_the_run(tmp_path: Path) -> None:
    run = start(tmp_path, trackers=("tensorboard",))
    run.accelerator.log({"loss": 1.0}, step=1)
    run.accelerator.end_training()
    assert list(tmp_path.glob("logs/**/events.out.tfevents.*"))


def test_plain_values_are_json() -> None:
    expected = {"inner": {"values": [1, 2], "names": ["a", "b"]}, "start": "TEXT", "dtype": "torch.bfloat16"}
    assert plain(Outer()) == expected
    assert plain({1: None, "a": 2.5}) == {"1": None, "a": 2.5}
    peft = plain(PromptTuningConfig(num_virtual_tokens=4))
    assert json.loads(json.dumps(peft)) == peft
    assert peft["prompt_tuning_init"] == "RANDOM"


def test_leaves() -> None:
    tree = {"a": {"b": 1, "c": {"d": None}}, "e": [1, "x"], "f": {}}
    assert list(leaves(tree)) == [("a.b", 1), ("a.c.d", None), ("e", "[1, 'x']")]


THREADS = """
import torch
from softprompts.runs import environment
environment.available_cores = lambda: 6
before = torch.get_num_threads()
environment.use_all_cores()
print(before, torch.get_num_threads())
"""


ONE = ("--num_processes=1", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no")
TWO = ("--config_file", str(ROOT / "configs" / "accelerate" / "multi_cpu.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "threads"), [(ONE, "1 6"), (TWO, "1 3")])
def test_a_process_of_accelerate_takes_all_cores(flags: tuple[str, ...], threads: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(THREADS, encoding="utf-8")
    environment = {name: value for name, value in recipe_environment().items() if name != "OMP_NUM_THREADS"}
    found = subprocess.run(
        [str(Path(sys.executable).with_name("accelerate")), "launch", *flags, str(script)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert set(found.stdout.splitlines()) == {threads}, found.stderr


@pytest.mark.parametrize(
    ("flag", "variables", "threads"),
    [
        ("--num_processes=1", {}, 6),
        ("--num_processes=1", {"OMP_NUM_THREADS": "1"}, 1),
        ("--num_cpu_threads_per_process=1", {}, 1),
        ("--num-cpu-threads-per-process=1", {}, 1),
    ],
)
def test_a_number_that_accelerate_was_given_stays(
    flag: str, variables: dict[str, str], threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = tmp_path / "accelerate"  # as its parent, a process sees no more of it than its words and variables
    launcher.write_text("input()", encoding="utf-8")
    environment = {name: value for name, value in recipe_environment().items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, str(launcher), "launch", flag, "recipe.py"]
    before = torch.get_num_threads()
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment | variables) as parent:
        monkeypatch.setattr("os.getppid", lambda: parent.pid)
        monkeypatch.setattr("softprompts.runs.environment.available_cores", lambda: 6)
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
        try:
            torch.set_num_threads(1)
            use_all_cores()
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
            parent.kill()


def test_a_process_that_accelerate_did_not_start_keeps_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softprompts.runs.environment.available_cores", lambda: 2)
    for name in ("ACCELERATE_MIXED_PRECISION", "ACCELERATE_DYNAMO_BACKEND"):
        monkeypatch.setenv(name, "no")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        use_all_cores()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)


def test_abstention_needs_choices(tmp_path: Path) -> None:
    task = TaskConfig(prompt="{text}", target=" {label}")
    with pytest.raises(UserError, match=r"^evaluation.abstain_below: applies only with task.choices"):
        start_run(
            "test", task=task, evaluation=EvaluationConfig(abstain_below=0.5), run=RunConfig(str(tmp_path / "run"))
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("choices", [[" good", " abstain"], {"0": " good", "1": "abstain"}])
def test_no_choice_may_be_the_word_of_an_abstention(tmp_path: Path, choices: Any) -> None:
    task = TaskConfig(prompt="{text}", target=" {label}", choices=choices)
    with pytest.raises(UserError, match=r'^task.choices: "abstain" is also the prediction for rows below evaluation'):
        start_run("test", task=task, evaluation=EvaluationConfig(abstain_below=0.5), run=RunConfig(str(tmp_path / "r")))
    assert not (tmp_path / "r").exists()


def test_a_vote_needs_a_threshold_in_numbers(tmp_path: Path) -> None:
    task = TaskConfig(prompt="{text}", target=" {label}", choices=[" good", " bad"])
    evaluation = EvaluationConfig(abstain_below="auto")
    with pytest.raises(UserError, match=r"^evaluation.abstain_below: auto applies to a single model"):
        start_run("ensemble", task=task, evaluation=evaluation, run=RunConfig(str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()
