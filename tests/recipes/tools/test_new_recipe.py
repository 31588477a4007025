"""`recipes/new.py`: a config that is checked, timed and written, and errors of one line that leave no files."""

from __future__ import annotations

import re
from pathlib import Path

from helpers import cli_in_process

import pytest
import yaml


def command(model: Path, data: str, output: Path, *more: str) -> list[str]:
    flags = ["--new.task", "tickets", "--new.data", data, "--new.output", str(output)]
    return ["recipes/new.py", "--model.name_or_path", str(model), *flags, *more]


def test_a_config_and_the_two_commands_that_follow(
    wider_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "configs" / "mine.yaml"
    code, said, errors = cli_in_process(command(wider_model, "data/examples/tickets.jsonl", output), capfd)
    assert code == 0, errors
    *_, written, train, ask = said.splitlines()
    assert "\ncolumns: the model reads text and writes queue (guessed, since it has no usual name; new.answer " in said
    assert re.fullmatch(
        rf"written: {re.escape(str(output))}; a run takes about \d+ min on this machine. Next:", written
    )
    assert train.strip() == f"accelerate launch recipes/prompt_tuning.py --config {output}"
    assert ask.strip() == "python recipes/generate.py --adapter.path runs/tickets/prompt_tuning"
    settings = yaml.safe_load(output.read_text(encoding="utf-8"))
    assert settings["task"]["choices"] == "from_train"
    assert settings["model"]["name_or_path"] == str(wider_model)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--new.answer", "queu"], 'error: new.answer: no column "queu" (did you mean "queue"?)'),
        (["--new.data", "absent.jsonl"], "absent.jsonl"),
        (["--new.data", ""], "error: "),
    ],
)
def test_an_error_is_one_line_and_leaves_nothing(
    wider_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    output = tmp_path / "configs" / "mine.yaml"
    code, said, errors = cli_in_process(command(wider_model, "data/examples/tickets.jsonl", output, *more), capfd)
    assert (code, said, len(errors)) == (2, "", 1)
    assert message in errors[0]
    assert not output.parent.exists()
