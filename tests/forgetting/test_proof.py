"""The proof itself: a row that is still there is found, and the scores are those of common rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from helpers import make_task
from softprompts.errors import UserError
from softprompts.forgetting.plan import difference
from softprompts.forgetting.proof import check_gone, checksums, scores
from softprompts.forgetting.rows import Line

import pytest


def predictions(folder: Path, **answers: str) -> Path:
    folder.mkdir()
    lines = [
        {"place": f"{folder}:{row}", "prompt": row[0], "prediction": text, "target": " yes"}
        for row, text in answers.items()
    ]
    (folder / "predictions.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return folder


def test_a_row_that_is_still_there_is_found_by_its_place_and_not_by_its_text(tmp_path: Path) -> None:
    lines = [Line("train", "a.jsonl:1", "somebody"), Line("test", "b.jsonl:2", "the secret")]
    check_gone(tmp_path, lines, {Line("", "", "another").fingerprint})
    with pytest.raises(UserError, match=r"^b\.jsonl:2: is in use, and .*without\.txt has its fingerprint") as caught:
        check_gone(tmp_path, lines, {lines[1].fingerprint})
    assert "secret" not in str(caught.value)


def test_scores_are_those_of_the_rows_that_both_runs_have(tmp_path: Path) -> None:
    """Rows `c1` and `c2` have the same texts. The places of the two runs are in other folders."""
    before = predictions(tmp_path / "before", a=" yes", b=" yes", c1=" no", c2=" yes", d=" yes")
    after = predictions(tmp_path / "after", a=" yes", b=" no", c1=" no", c2=" yes")
    found: Any = scores(before, after, make_task([("text", " yes")]), 50)
    assert found["rows"] == 4
    assert found["before"] == {"accuracy": pytest.approx(3 / 4)}
    assert found["after"] == {"accuracy": pytest.approx(2 / 4)}
    change = found["difference"]["accuracy"]
    assert change["value"] == pytest.approx(-1 / 4)
    assert change["low"] <= change["value"] <= change["high"] <= 0


def test_runs_without_common_rows_are_not_compared(tmp_path: Path) -> None:
    before, after = predictions(tmp_path / "before", a=" yes"), predictions(tmp_path / "after", b=" yes")
    assert scores(before, after, make_task([("text", " yes")]), 50) is None


def test_damaged_predictions_are_one_line(tmp_path: Path) -> None:
    before, after = predictions(tmp_path / "before", a=" yes"), predictions(tmp_path / "after", a=" yes")
    (before / "predictions.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"predictions\.jsonl: is damaged: "):
        scores(before, after, make_task([("text", " yes")]), 50)


def test_weights_of_every_form_have_checksums(tmp_path: Path) -> None:
    for name in ("adapter/a/one.safetensors", "adapter/two.safetensors", "model/model.safetensors"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode())
    (tmp_path / "checkpoints.safetensors").write_bytes(b"no")
    found = checksums(tmp_path)
    assert list(found) == ["adapter/a/one.safetensors", "adapter/two.safetensors", "model/model.safetensors"]
    assert len(set(found.values())) == 3


def test_a_difference_is_told_in_words() -> None:
    split = {"rows": 1200, "sha256": "a"}
    assert difference("train", split, split) is None
    assert difference("train", split, {"rows": 3, "sha256": "a"}) == "train had 1,200 rows and now has 3"
    assert difference("test", split, {"rows": 1200, "sha256": "b"}) == "test has other rows, in the same number (1,200)"
