"""The quickstart notebook: it runs as a script with few steps, and jupytext makes a notebook of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from helpers import ROOT
from softprompts.models.bundled import BUNDLED, resolve

import pytest

MODEL = "smollm2-135m-instruct"
NOTEBOOK = ROOT / "notebooks" / "quickstart.py"


def run(script: Path) -> str:
    """Run a script in its folder, without a screen and a network, and return its output."""
    environment = os.environ | {"MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, script.name]
    ended = subprocess.run(command, cwd=script.parent, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


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
    printed = run(script)
    assert re.search(r"^soft prompt    accuracy \d+\.\d %$", printed, re.MULTILINE)
    assert re.search(r"^difference     [+-]\d+\.\d points \(95 % interval ", printed, re.MULTILINE)
    (answer,) = re.findall(r"^Sentiment: \w+$", printed, re.MULTILINE)
    # The README's lines for stock PEFT give the same answer with the adapter that this run has left.
    (snippet,) = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    source, adapter = BUNDLED[MODEL].source, "runs/demo/prompt_tuning/adapter"
    assert source in snippet
    assert adapter in snippet
    local = snippet.replace(source, str(resolve(f"bundled:{MODEL}"))).replace(
        adapter, adapter.replace("demo", "notebook")
    )
    script.write_text(local, encoding="utf-8")
    assert answer in run(script)


def test_jupytext_makes_a_notebook_that_begins_with_its_installation() -> None:
    jupytext = pytest.importorskip("jupytext", reason="of the extra `dev`")
    notebook = jupytext.read(NOTEBOOK)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0].startswith("%pip install")
    assert len(code) > 6
    assert notebook.cells[0].source.startswith("# Soft prompts")
