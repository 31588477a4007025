"""Headers of configs: the figures come from the record, and the rest of the file does not change."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from benchmarks.tasks.headers import measured, with_result, write_headers
from benchmarks.tasks.record import record_of_config
from made_result import make_result
from softprompts.metrics.scoring import Interval

import pytest

SOURCE = "results/tasks/docstrings/lora.json"
CONFIG = "# LoRA.\n#\n#   accelerate launch recipes/lora.py\n\nmodel:\n  dtype: auto # as it is\n"
METRICS = {"rouge_l": Interval(0.3722, 0.3, 0.4, 1300), "style_rate": Interval(0.99, 0.9, 1.0, 1300)}


def hardware(threads: int, *gpus: str) -> dict[str, object]:
    return {"commit": "0", "hardware": {"threads": threads, "gpus": list(gpus)}}


def test_a_header_says_metrics_rows_seconds_and_source() -> None:
    result = make_result(metrics=METRICS, cost={"seconds_training": 248.7}, environment=hardware(2))
    assert measured(result, SOURCE) == (
        "# Result: ROUGE-L 37.2 %, style rate 99.0 % on 1,300 test rows; 249 s of training on 2 CPU threads\n"
        f"# ({SOURCE})."
    )


def test_it_says_the_cpu_time_if_the_machine_was_shared() -> None:
    shared = make_result(cost={"seconds_training": 700.0, "cpu_seconds_training": 543.2}, environment=hardware(1))
    assert "700 s of training on 1 CPU thread, 543 s of CPU time" in " ".join(measured(shared, SOURCE).split("\n# "))
    alone = make_result(cost={"seconds_training": 700.0, "cpu_seconds_training": 695.0}, environment=hardware(1))
    assert "CPU time" not in measured(alone, SOURCE)
    card = make_result(cost={"seconds_training": 7.0, "cpu_seconds_training": 1.0}, environment=hardware(8, "H200"))
    assert "7 s of training on H200 (" in measured(card, SOURCE)


def test_a_method_without_training_has_no_seconds() -> None:
    assert "training" not in measured(make_result(training=None, environment=hardware(2)), SOURCE)


@pytest.mark.parametrize("folder", ["tasks/docstrings/lora.json", "benchmarks/final_docstrings/lora/seed0.json"])
def test_a_header_is_written_once_and_replaced_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path("configs/docstrings/lora.yaml")
    record = Path("results", folder)
    for path in (file, record):
        path.parent.mkdir(parents=True)
    file.write_text(CONFIG, encoding="utf-8")
    assert write_headers([(record, file)]) == [], "it has no record"
    for value in (0.25, 0.5):
        result = make_result(
            metrics={"chrf": Interval(value, 0.1, 0.9, 300)}, cost={"seconds_training": 9.0}, environment=hardware(2)
        )
        record.write_text(json.dumps(asdict(result)), encoding="utf-8")
        assert record_of_config("docstrings", "lora") == record
        assert write_headers([(record, file)]) == [file]
        assert write_headers([(record, file)]) == [], "nothing is new"
        written = file.read_text(encoding="utf-8")
        assert written == with_result(CONFIG, result, str(record))
        head, model, rest = written.partition("\nmodel:\n")
        assert head == f"# LoRA.\n#\n#   accelerate launch recipes/lora.py\n#\n{measured(result, str(record))}\n"
        assert model + rest == "\nmodel:\n  dtype: auto # as it is\n"
