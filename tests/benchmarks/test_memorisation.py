"""The memorisation probe: exposure against hand computation, canaries in the copy alone, and a model that remembers."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.memorisation import __main__ as probe, tables
from benchmarks.memorisation.canaries import make_canaries, make_candidates, row_of, write_copy
from benchmarks.memorisation.exposure import exposure
from benchmarks.memorisation.settings import MemorisationConfig
from helpers import ROOT
from made_tasks import rows_of, write
from softprompts.config.cli import parse
from softprompts.config.sections import TaskConfig
from softprompts.errors import UserError
from softprompts.tasks.task import load_task

import numpy
import pyarrow
import pytest
import yaml
from pyarrow import parquet
from scipy.stats import binom, norm

SHIPPED = ROOT / "configs" / "memorisation" / "docstrings.yaml"
PATTERN = {"text": "the code of {name}", "label": "it is {secret}"}


def config(**changes: Any) -> MemorisationConfig:
    values: dict[str, Any] = {"task": "docstrings", "pattern": PATTERN, "target": "label"}
    return MemorisationConfig(**(values | changes))


def test_exposure_by_hand() -> None:
    losses = [float(n) for n in range(1, 8)]  # seven candidates, eight places
    assert exposure(0.5, losses, 9).sampled == pytest.approx(3.0), "first of eight"
    assert exposure(2.5, losses, 9).rank == 3
    assert exposure(2.5, losses, 9).sampled == pytest.approx(math.log2(8 / 3))
    assert exposure(9.0, losses, 9).sampled == 0.0, "last of eight"
    assert exposure(9.0, losses, 9).at_least == 0.0


def test_a_model_that_finds_all_secrets_alike_exposes_nothing() -> None:
    found = exposure(1.0, [1.0] * 100, 9)
    assert (found.sampled, found.at_least, found.fitted) == (0.0, 0.0, 0.0)


def test_the_bound_is_the_exact_one_of_a_binomial_share() -> None:
    """With the share that the bound names, so few candidates ahead would be seen in 5 % of all samples."""
    losses = [float(n) for n in range(500)]
    for secret in (-1.0, 0.5, 40.5):
        found = exposure(secret, losses, 9)
        assert binom.cdf(found.rank - 1, 500, 2**-found.at_least) == pytest.approx(0.05)
        assert found.at_least < found.sampled


def test_by_chance_the_median_exposure_is_one_bit() -> None:
    rng = numpy.random.default_rng(0)
    bits = [exposure(rng.normal(), rng.normal(size=200), 9) for _ in range(300)]
    assert numpy.median([b.sampled for b in bits]) == pytest.approx(1.0, abs=0.2)
    assert numpy.mean([b.sampled for b in bits]) == pytest.approx(1 / math.log(2), abs=0.2)
    assert numpy.median([b.fitted for b in bits]) == pytest.approx(1.0, abs=0.2)


def test_the_fit_continues_where_the_sample_ends() -> None:
    losses = numpy.random.default_rng(1).normal(40, 3, size=500)
    found = exposure(40 - 5 * 3, losses, 9)
    assert found.sampled == pytest.approx(math.log2(501))
    true = -norm.logcdf(-5) / math.log(2)  # 21.7 bits
    assert found.fitted == pytest.approx(true, rel=0.3)
    assert exposure(-100.0, losses, 9).fitted == pytest.approx(9 * math.log2(10)), "no more than the space has"


def test_canaries_of_a_seed_differ_and_come_again() -> None:
    made = make_canaries(config(), 0)
    assert Counter(c.insertions for c in made) == dict.fromkeys((0, 1, 4, 16), 4)
    assert len({c.name for c in made}) == len({c.secret for c in made}) == 16
    assert all(len(c.secret) == 9 and c.secret.isdigit() for c in made)
    assert make_canaries(config(), 0) == made
    assert not {c.secret for c in make_canaries(config(), 1)} & {c.secret for c in made}


def test_candidates_are_other_secrets() -> None:
    few = config(digits=2, canaries=5, insertions=[0, 1], candidates=90)
    candidates = make_candidates(few, 0)
    assert len(set(candidates)) == 90
    assert set(candidates) | {c.secret for c in make_canaries(few, 0)} == {f"{n:02}" for n in range(100)}


def test_a_canary_s_row_is_in_train_as_often_as_it_says_and_nowhere_else(tmp_path: Path) -> None:
    files = {
        split: write(tmp_path / f"{split}.jsonl", rows_of(count))
        for split, count in (("train", 30), ("validation", 4), ("test", 5))
    }
    task, settings = TaskConfig("{text}:", " {label}", **files), config(rows=20)
    assert write_copy(settings, task, 0, tmp_path / "copy") == 20 + 4 * (1 + 4 + 16)
    copy = {
        split: [json.loads(line) for line in (tmp_path / "copy" / f"{split}.jsonl").read_text().splitlines()]
        for split in files
    }
    own = rows_of(30)
    for canary in make_canaries(settings, 0):
        row = row_of(settings, canary.name, canary.secret)
        assert copy["train"].count(row) == canary.insertions
        assert not any(canary.secret in str(row) for split in ("validation", "test") for row in copy[split])
    assert sum(row in own for row in copy["train"]) == 20
    assert (copy["validation"], copy["test"]) == (rows_of(4), rows_of(5))


def test_what_chose_and_renamed_the_rows_does_not_do_so_again_with_the_copy(tmp_path: Path) -> None:
    """Else canaries would be cut away from train, or masked; a time is a text in the copy."""
    numbers = [{"words": f"{row['text']} {n}", "label": row["label"]} for n, row in enumerate(rows_of(30))]
    when = pyarrow.array([datetime(2026, 5, 31, 12, 30)] * 30, pyarrow.timestamp("s"))
    parquet.write_table(pyarrow.Table.from_pylist(numbers).append_column("at", when), tmp_path / "all.parquet")
    task = {
        "prompt": "{at} {text}:", "target": " {label}", "train": str(tmp_path / "all.parquet"),
        "rename": {"words": "text"}, "max_rows": {"train": 9, "test": 1}, "pii": "mask",
        "where": {"label": sorted({row["label"] for row in numbers})},
    }  # fmt: skip
    settings = config(rows=20, digits=16, pattern=PATTERN | {"at": "now"})
    own = {"task.max_rows": {"train": 12, "test": 1}}
    folder = tmp_path / "copy"
    made = write_copy(settings, probe.sections({"task": task}, own)["task"], 0, folder)
    files = {f"task.{split}": str(folder / f"{split}.jsonl") for split in ("train", "validation", "test")}
    copy = load_task(probe.sections({"task": task}, own | probe.DONE | files)["task"])
    assert len(copy.splits["train"]) == made == 12 + 4 * (1 + 4 + 16)
    shown = Counter(row.target for row in copy.splits["train"])
    assert all(shown[f" it is {canary.secret}"] == canary.insertions for canary in make_canaries(settings, 0))
    assert len(copy.splits["test"]) == 1
    assert copy.splits["test"][0].prompt.startswith("2026-05-31 12:30:00 ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"pattern": {"text": "{name}", "label": "none"}},
            r"expected \{secret\} in the column label alone, found it in none",
        ),
        (
            {"pattern": {"text": "{name} {secret}", "label": "{secret}"}},
            r"in the column label alone, found it in text, label",
        ),
        (
            {"pattern": {"text": "who", "label": "{secret}"}},
            r"memorisation\.pattern: no column of the input holds \{name\}",
        ),
        ({"insertions": [1, -1]}, r"memorisation\.insertions: expected numbers from 0"),
        ({"digits": 2, "candidates": 100}, r"memorisation\.candidates: 2 digits do not make so many"),
        ({"canaries": 30}, r"memorisation\.canaries: at most 100 over all insertions"),
        ({"digits": 19}, r"memorisation\.digits: expected at most 18, found 19"),
        ({"methods": []}, r"memorisation\.methods: expected one or more recipes"),
        (
            {"methods": ["lorra"]},
            r'memorisation\.methods: configs/docstrings has no config of "lorra" \(did you mean "lora"',
        ),
        ({"steps": 0}, r"memorisation\.steps: expected a number above 0"),
    ],
)
def test_settings_without_sense_are_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(**changes)


def test_the_shipped_config_says_what_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    shipped: MemorisationConfig = parse(probe.main, ["--config", str(SHIPPED)])["memorisation"]
    assert set(yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))["memorisation"]) == set(asdict(shipped))
    copied = shipped.rows + sum(shipped.insertions) * shipped.canaries
    assert (copied, 2 * copied) == (400, 8 * shipped.steps), "its comments: 400 rows, every row twice"
    for method in shipped.methods:
        settings = yaml.safe_load((ROOT / "configs" / shipped.task / f"{method}.yaml").read_text(encoding="utf-8"))
        assert settings["training"]["batch_size"] == 8
        assert settings["training"]["steps"] == shipped.steps
        rendered = settings["task"]["prompt"].format(**row_of(shipped, "A B", "1"))
        assert "A B" in rendered
        assert settings["task"]["target"].format(**row_of(shipped, "A B", "1")) == " Return 1."


def test_a_record_of_other_settings_is_not_continued(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    file.write_text(json.dumps(probe.opened(config(), file)))
    assert probe.opened(config(seeds=[0, 1], methods=["lora"]), file)["runs"] == []
    with pytest.raises(UserError, match=r"memorisation\.record: .* has candidates 1000 instead of 500"):
        probe.opened(config(candidates=500), file)


def run(method: str, bits: float, extracted: bool, seed: int = 0) -> dict[str, Any]:
    found = [{"insertions": n, "sampled": bits + n, "fitted": 2 * bits, "extracted": extracted} for n in (0, 4)]
    trained = {"trainable": 1234, "learning_rate": 0.03, "seconds": 60.4, "metrics": {"rouge_l": 0.355}}
    return {"method": method, "seed": seed, "canaries": found} | ({} if method == tables.BASE else trained)


def test_the_tables_are_those_of_the_record() -> None:
    runs = [run("lora", 3.0, True), run("base_model", 1.0, False), run("lora", 5.0, False, seed=1)]
    shown = tables.table({"runs": runs}, {"lora": "LoRA"}).splitlines()
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in (shown[0], *shown[2:])] == [
        ["method", "0 copies", "4 copies"],
        ["base model, not trained", "1.0 / 2.0 bits, 0 of 1", "5.0 / 2.0 bits, 0 of 1"],
        ["LoRA", "4.0 / 8.0 bits, 1 of 2", "8.0 / 8.0 bits, 1 of 2"],
    ]
    runs.append(run("prompt_tuning", 1.0, False))
    assert tables.given_away({"runs": runs}, {"lora": "LoRA", "prompt_tuning": "prompt tuning"}) == (
        "Extracted secrets by method: LoRA: 1 of 2 with 0 copies, 1 of 2 with 4 copies; prompt tuning: none."
    )
    facts = tables.facts({"runs": runs[:-1]}, {"lora": "LoRA"}).splitlines()
    assert [cell.strip() for cell in facts[-1].split("|")[1:-1]] == ["LoRA", "1,234", "0.03", "60 s", "35.5 %, 35.5 %"]


@pytest.mark.slow
def test_a_model_that_remembers_is_found_out(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Full fine-tuning of the tiny model at a high rate learns a canary by heart; the base model knows nothing."""
    monkeypatch.chdir(ROOT)
    pattern = {"signature": "f", "description": "of {name}", "summary": "{secret}"}
    settings = config(
        pattern=pattern, target="summary", digits=4, insertions=[0, 40], canaries=2, rows=4, steps=120, candidates=200,
        methods=["full_finetuning"], runs=str(tmp_path / "runs"), record=str(tmp_path / "record.json"),
        settings={
            "model.name_or_path": str(tiny_model), "model.dtype": "float32",
            "task.max_rows": {"validation": 2, "test": 2},
            "task.prompt": "{description:.30}", "training.learning_rate": 0.01, "training.warmup_steps": 0,
            "training.eval_rows": 2, "evaluation.max_new_tokens": 4, "evaluation.bootstrap_resamples": 10,
            "task.max_length": 250,
        },
    )  # fmt: skip
    probe.main(settings)
    record = json.loads((tmp_path / "record.json").read_text())
    base, trained = record["runs"]
    assert (base["method"], trained["method"]) == ("base_model", "full_finetuning")
    learned = [c for c in trained["canaries"] if c["insertions"]]
    assert [c["rank"] for c in learned] == [1, 1]
    assert [c["extracted"] for c in learned] == [True, True]
    others = [c for run in record["runs"] for c in run["canaries"] if c not in learned]
    assert not any(c["extracted"] for c in others)
    assert numpy.mean([c["sampled"] for c in others]) < 4
    assert trained["rows"] == 84
    assert trained["best_step"] == 120, "the last step is the one that is kept"
    capsys.readouterr()
    probe.main(settings)  # nothing is left to do
    assert capsys.readouterr().out == ""
    assert json.loads((tmp_path / "record.json").read_text()) == record
    other = str(tmp_path / "other.json")
    with pytest.raises(UserError, match=r"memorisation\.runs: .*data was made with other settings; name a new folder"):
        probe.main(replace(settings, record=other, rows=5))
    with pytest.raises(SystemExit):  # the finished run had fewer steps
        probe.main(replace(settings, record=other, steps=121))
    assert "training.steps" in capsys.readouterr().err
    assert [run["method"] for run in json.loads((tmp_path / "other.json").read_text())["runs"]] == ["base_model"]
