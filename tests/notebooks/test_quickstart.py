"""The quickstart notebook: it runs as a script with few steps, and jupytext makes a notebook of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from helpers import ROOT

import pytest

NOTEBOOK = ROOT / "notebooks" / "quickstart.py"


@pytest.mark.slow
@pytest.mark.bundled
def test_it_runs_on_the_included_model(tmp_path: Path) -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    short = (
        text.replace("\nSTEPS = 60", "\nSTEPS = 2")
        .replace('"test": 200', '"test": 8')
        .replace("eval_rows=100", "eval_rows=8")
    )
    assert len(text) - len(short) == 5, "the three numbers that are made small"
    script = tmp_path / "quickstart.py"
    script.write_text(short, encoding="utf-8")
    environment = os.environ | {"MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(
        [sys.executable, script.name], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"^soft prompt    accuracy \d+\.\d %$", ended.stdout, re.MULTILINE)
    assert re.search(r"^difference     [+-]\d+\.\d points \(95 % interval ", ended.stdout, re.MULTILINE)
    assert re.search(r"^Sentiment: \w+$", ended.stdout, re.MULTILINE)
    assert (tmp_path / "runs/notebook/prompt_tuning/adapter/adapter_model.safetensors").is_file()


def test_jupytext_makes_a_notebook_that_begins_with_its_installation() -> None:
    jupytext = pytest.importorskip("jupytext", reason="of the extra `dev`")
    notebook = jupytext.read(NOTEBOOK)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0].startswith("%pip install")
    assert len(code) > 6
    assert notebook.cells[0].source.startswith("# Soft prompts")
