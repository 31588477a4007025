"""The library of trained soft prompts: what is kept of a benchmark's runs, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.library.__main__ import LibraryConfig, main
from helpers import ROOT
from made_result import make_result
from method_runs import saved_by_peft
from softprompts.adapters.loading import find_adapter
from softprompts.errors import UserError
from softprompts.evaluation.library import read_index
from softprompts.metrics.scoring import Interval
from softprompts.runs.record import load_result

import pytest
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig

KINDS: dict[str, Any] = {
    "prompt_tuning": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "prefix_tuning": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
    "lora": LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]),
}


@pytest.fixture
def config(tiny_model: Path, tmp_path: Path) -> LibraryConfig:
    """Return the settings of a library; `few` has three methods with the seeds 4 and 5."""
    records, runs = tmp_path / "records" / "few", tmp_path / "runs" / "few"
    records.mkdir(parents=True)
    methods = {name: {"recipe": name, "label": None, "seeds": None} for name in KINDS}
    (records / "grid.json").write_text(json.dumps({"task": "sentiment", "methods": methods, "seeds": [4, 5]}))
    (records / "rows.json").write_text("[]")
    task = {"name": "mine", "dataset": "embedded:sentiment"}
    for name, kind in KINDS.items():
        saved_by_peft(tiny_model, kind, runs / name / "seed4" / "adapter")
        (runs / name / "seed4" / "adapter" / "base_model.json").write_text("{}")
        (runs / name / "seed4" / "config.json").write_text(json.dumps({"recipe": name, "task": task}))
        result = make_result(
            metrics={"accuracy": Interval(0.75, 0.5, 1.0, 4)},
            finished="today",
            settings={"task": {"dataset": "embedded:sentiment"}},
        )
        (records / name).mkdir()
        for file in (runs / name / "seed4" / "result.json", records / name / "seed4.json"):
            file.write_text(json.dumps(asdict(result)))
        (records / name / "seed4.answers.json").write_text("[]")
    return LibraryConfig(["few"], records=str(records.parent), runs=str(runs.parent), output=str(tmp_path / "library"))


def test_soft_prompts_of_the_first_seed_are_kept_with_index_and_page(
    config: LibraryConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    main(config)
    output = Path(config.output)
    assert capsys.readouterr().out.splitlines() == [
        f"kept {output}/few/{m}" for m in ("prompt_tuning", "prefix_tuning")
    ]
    assert [(e.path, e.num_virtual_tokens, e.task) for e in read_index(config.output)] == [
        ("few/prefix_tuning/adapter", 2, "mine"),
        ("few/prompt_tuning/adapter", 3, "mine"),
    ]
    weights = "few/prompt_tuning/adapter/adapter_model.safetensors"
    run = Path(config.runs) / "few/prompt_tuning/seed4/adapter/adapter_model.safetensors"
    assert (output / weights).read_bytes() == run.read_bytes()
    row = (
        f"| few/prompt_tuning | 3 | {run.stat().st_size:,} | accuracy 75.0 % | [card](../../data/sentiment/README.md), "
    )
    assert row in (output / "README.md").read_text("utf-8")
    assert not list(output.glob("few/.*"))


def test_what_is_kept_stays_when_the_runs_are_gone(config: LibraryConfig, capsys: pytest.CaptureFixture[str]) -> None:
    main(config)
    page = Path(config.output, "README.md")
    before = page.read_text("utf-8")
    shutil.rmtree(config.runs)
    for record in Path(config.records, "few").glob("*/seed4.json"):  # of a run that was made again
        edit(record, metrics={"accuracy": asdict(Interval(0.25, 0.0, 0.5, 4))})
    page.unlink()
    capsys.readouterr()
    main(config)
    assert capsys.readouterr().out == ""
    assert page.read_text("utf-8") == before


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_what_cannot_be_kept_is_named(config: LibraryConfig) -> None:
    def refused(**changes: Any) -> str:
        with pytest.raises(UserError) as found:
            main(LibraryConfig(**(asdict(config) | changes)))
        return str(found.value)

    assert refused(benchmarks=["fwe"]) == 'library.benchmarks: "fwe" (did you mean "few"?)'
    assert refused(methods=["lora"]) == "library.methods: lora of few leaves no soft prompt"
    run = Path(config.runs) / "few" / "prompt_tuning" / "seed4"
    edit(run / "result.json", finished="yesterday")
    assert refused() == f"library.runs: {run} is not the run of the record in few/prompt_tuning"
    shutil.rmtree(run)
    assert refused().startswith(
        f"library.runs: no such run: {run}; move its record away, and make it again: make bench"
    )
    Path(config.records, "few", "prompt_tuning", "seed4.json").unlink()
    assert refused().startswith("library.benchmarks: few: prompt_tuning, seed 4 has no record; make it: make bench")
    assert not Path(config.output).exists()


COMMITTED = ROOT / "results" / "library"


def test_every_committed_adapter_is_in_the_index_and_fits_its_record() -> None:
    folders = [file.parents[1] for file in sorted(COMMITTED.glob("*/*/adapter/adapter_config.json"))]
    assert [entry.path for entry in read_index(str(COMMITTED))] == [
        f"{f.relative_to(COMMITTED)}/adapter" for f in folders
    ]
    page = (COMMITTED / "README.md").read_text("utf-8")
    for folder in folders:
        assert find_adapter(str(folder)) == folder / "adapter"
        assert f"| {folder.relative_to(COMMITTED)} | " in page
        settings = json.loads((folder / "config.json").read_text("utf-8"))
        seed = settings["run"]["seed"]
        record = ROOT / "results" / "benchmarks" / folder.relative_to(COMMITTED) / f"seed{seed}.json"
        recorded = load_result(record).settings
        for section in ("model", "task", "training"):
            assert settings[section].items() >= recorded[section].items(), record
