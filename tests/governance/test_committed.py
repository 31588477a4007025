"""The committed pages of the use cases: they fit their schemas and checksums, and belong to the committed records."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from helpers import ROOT
from softprompts.governance import record
from softprompts.readiness.plan import read_plan
from softprompts.runs.record import load_result

import pytest

FOLDERS = sorted(folder for folder in (ROOT / "results" / "use_cases").iterdir() if folder.is_dir())
each_use_case = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


@each_use_case
def test_files_fit_their_schemas_and_checksums(folder: Path) -> None:
    home = folder / "governance"
    for name in ("governance.json", "croissant.json"):
        record.check(name, read(home / name))
    sums = dict(line.split()[::-1] for line in (home / "SHA256SUMS").read_text(encoding="utf-8").splitlines())
    assert sums == {name: hashlib.sha256((home / name).read_bytes()).hexdigest() for name in record.FILES}


@each_use_case
def test_they_are_of_the_shipped_plan_and_a_recorded_run(folder: Path) -> None:
    found, plan = (
        read(folder / "governance" / "governance.json"),
        read_plan(str(ROOT / "configs" / folder.name / "readiness.yaml")),
    )
    for key in ("goal", "target", "owner", "legal_basis", "fallback"):
        assert found["plan"][key] == getattr(plan, key), key
    assert found["readiness"]["made"] == read(folder / "readiness.json")["made"]
    recorded = ROOT / "results" / "benchmarks" / folder.name / "prefix_tuning" / f"seed{found['run']['seed']}.json"
    if recorded.is_file() and found["run"]["folder"].startswith("runs/benchmarks"):
        result = load_result(recorded)
        assert found["run"]["finished"] == result.finished
        scores = {name: metric["value"] for name, metric in found["evaluation"]["metrics"].items()}
        assert scores == {name: metric.value for name, metric in result.metrics.items()}


USES = ("campaign", "product", "localisation", "support", "analytics", "compliance")
RECORDS = [file for use in USES for file in sorted((ROOT / "results" / "benchmarks" / use).glob("*/seed?.json"))]


# Full fine-tuning of long texts took 34 to 42 minutes of one core, beside other jobs. Of these, 23 to 26 were processor
# time of training (docs/lab-log.md).
SLOW = {ROOT / "results" / "benchmarks" / "compliance" / "full_finetuning"}


def test_a_run_takes_at_most_15_minutes_of_two_cores() -> None:
    """The runs were made on one core each, so that two of them went on side by side."""
    assert RECORDS
    slow = {file.parent for file in RECORDS if load_result(file).cost["seconds_total"] > 2 * 15 * 60}
    assert slow == SLOW


def test_there_are_use_cases() -> None:
    assert FOLDERS
