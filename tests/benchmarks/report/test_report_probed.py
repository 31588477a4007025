"""Methods compared by their probes: rows and seeds are drawn, and a record without numbers of rows gives no verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.grid.settings import Benchmark, load_benchmark
from benchmarks.report.claims import by_rows, make_card, words_table
from benchmarks.report.frame import Records, make_records
from benchmarks.report.probed import compare_probes
from made_benchmark import METHODS, make_benchmark, make_comparisons
from softprompts.metrics.scoring import load_metrics
from softprompts.metrics.significance import Comparison
from softprompts.reports.pages.tables import Measure

import pytest

TEXTS = 20
RIGHT = '{"intent": "on", "slots": {}}'
WRONG = '{"intent": "off", "slots": {}}'


def with_rows(folder: Path, task: str, left_out: str | None = None) -> Benchmark:
    """Return the invented benchmark, whose probes have the numbers of rows; `left_out` is a run without them."""
    make_benchmark(folder, task)
    for file in (folder / task).glob("*/seed*.probes.json"):
        method, seed = file.parent.name, int(file.name[4])
        probes = json.loads(file.read_text(encoding="utf-8"))
        if f"{method}/seed{seed}" != left_out:
            add_rows(probes, METHODS[method][0], METHODS[method][5])
        file.write_text(json.dumps(probes), encoding="utf-8")
    return load_benchmark(folder / task)


def add_rows(probes: dict[str, Any], score: float, change: float) -> None:
    right = round(score * TEXTS)
    said = [RIGHT] * right + [WRONG] * (TEXTS - right)
    for other in probes.get("transfer", []):
        other |= {"answers": said, "targets": [RIGHT] * TEXTS}
    if "sampling" in probes:
        drawn = [said, [RIGHT] * TEXTS]
        agree = [float(a == b) for a, b in zip(*drawn, strict=True)]
        probes["sampling"] |= {"answers": drawn, "targets": [RIGHT] * TEXTS, "agreement_by_row": agree}
    for values in [probes["forgetting"]["general"], *probes["forgetting"]["tasks"].values()] if change else ():
        values["by_row"] = {"sums": [10 * (3 + change) + n for n in range(TEXTS)], "counts": [10] * TEXTS}


def found(compared: list[Comparison], metric: str, first: str, second: str) -> Comparison:
    (one,) = [c for c in compared if (c.metric, c.first, c.second) == (metric, first, second)]
    return one


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> list[Comparison]:
    return compare_probes(with_rows(tmp_path_factory.mktemp("probed"), "home_commands"), load_metrics(["json_object"]))


def test_losses_on_other_texts(compared: list[Comparison]) -> None:
    one = found(compared, "attached.general", "prompt_tuning", "lora")
    assert one.difference == pytest.approx(0.8 - 0.2), "a smaller loss is better"
    assert (one.rows, one.seeds) == (TEXTS, (3, 3))
    assert one.p < 0.01
    accuracy = found(compared, "attached.sentiment", "prompt_tuning", "lora")
    assert accuracy.difference == pytest.approx(-0.6), "a larger accuracy is better"


def test_sampled_predictions(compared: list[Comparison]) -> None:
    """Draws of a row are averaged: 0.7 and 1.0 are right of two draws, and 0.7 of the pairs agree."""
    agree = found(compared, "drawn.5x0.7.agreement", "few_shot", "prompt_tuning")
    right = found(compared, "drawn.5x0.7.exact_match", "few_shot", "prompt_tuning")
    assert agree.difference == pytest.approx(0.5 - 0.7)
    assert right.difference == pytest.approx((0.5 - 0.7) / 2)


def test_rows_of_other_kinds(compared: list[Comparison]) -> None:
    one = found(compared, "transfer.de.exact_match", "prompt_tuning", "lora")
    assert one.difference == pytest.approx(-0.1)
    assert one.p > 0.05, "two rows differ"


def test_a_method_without_the_numbers_of_rows_has_no_verdict(tmp_path: Path) -> None:
    def records(left_out: str | None) -> Records:
        benchmark = with_rows(tmp_path / str(left_out), "home_commands", left_out)
        return make_records([benchmark], {benchmark.name: []}, {benchmark.name: compare_probes(benchmark)})

    general = Measure("loss on general text", "attached.general", "signed", rows=True)
    whole = by_rows(records(None), "home_commands", [general], ["prompt_tuning"], ["lora"])
    assert dict(whole.words) == {"prompt tuning": "holds"}
    part = by_rows(records("lora/seed1"), "home_commands", [general], ["prompt_tuning"], ["lora"])
    assert part.missing == ("the numbers of each row for: loss on general text",)
    assert part.word is None


def test_p_is_adjusted_for_all_comparisons_of_a_claim(tmp_path: Path) -> None:
    benchmark = with_rows(tmp_path, "home_commands")
    records = make_records([benchmark], {benchmark.name: []}, {benchmark.name: compare_probes(benchmark)})
    general = Measure("loss on general text", "attached.general", "signed", rows=True)
    alone = by_rows(records, "home_commands", [general], ["prompt_tuning"], ["lora"]).findings["adjusted p"]
    many = by_rows(records, "home_commands", [general], ["prompt_tuning", "prefix_tuning"], ["lora", "full_finetuning"])
    assert float(many.findings["adjusted p"].iloc[0].lstrip("< ")) == pytest.approx(
        4 * float(alone.iloc[0].lstrip("< ")), abs=0.002
    )
    card = make_card(records)
    (said,) = [c for section in card for c in section.claims if "loss on general text" in c.statement]
    judged = {v.task: v for v in said.verdicts}["home_commands"]
    assert judged.words["prompt tuning"] == "holds"


def test_a_claim_without_any_verdict_is_no_empty_row(tmp_path: Path) -> None:
    benchmark = make_benchmark(tmp_path, "home_commands")  # its probes have no numbers of rows
    card = make_card(make_records([benchmark], {benchmark.name: make_comparisons(benchmark.name)}))
    rows = words_table(card).set_index("claim")
    (row,) = [row for claim, row in rows.iterrows() if "loss on general text" in str(claim)]
    assert all("no verdict" in cell for cell in row)
    assert not any(
        "no verdict" in cell for claim, cells in rows.iterrows() for cell in cells if "exact command" in str(claim)
    )
