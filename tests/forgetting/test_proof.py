"""The proof itself: a row that is still there is found, and the scores are those of common rows."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from helpers import make_task
from made_kappa import kappa
from made_result import make_result
from softprompts.data.sources import SPLITS
from softprompts.errors import UserError
from softprompts.forgetting.plan import difference
from softprompts.forgetting.proof import _in_words, check_forgotten, check_gone, checksums, scores
from softprompts.forgetting.rows import Line
from softprompts.forgetting.runs import read_result
from softprompts.runs.record import json_text

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


def test_a_score_without_an_interval_is_null(tmp_path: Path) -> None:
    """Kappa of a run that gives every row one answer is 0/0 on a sample that has one target."""
    before, after = (
        predictions(tmp_path / "before", a=" no", b=" no"),
        predictions(tmp_path / "after", a=" no", b=" no"),
    )
    task = replace(make_task([("text", " yes")]), metrics=(kappa(tmp_path),))
    for folder in (before, after):
        file = folder / "predictions.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines()
        file.write_text("\n".join([lines[0].replace(" yes", " no"), lines[1]]), encoding="utf-8")
    found: Any = scores(before, after, task, 50)
    assert found["before"] == {"kappa": 0.0}
    assert json.loads(json_text(found))["difference"]["kappa"] == {"value": 0.0, "low": None, "high": None}
    record = {"proof": {"rows_checked": 1}, "data": {"after": {}}, "steps": {"before": 1, "after": 1}, "scores": found}
    said = "kappa on 2 common rows: 0.0 % before, 0.0 % after; no interval, as a sample of them has no value"
    assert _in_words(record)[-1] == said


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


SPLITS_OF_RUN = {split: {"rows": 3, "sha256": "ab"} for split in SPLITS}
CLAIM: dict[str, Any] = {
    "format": 1,
    "fingerprints": ["a" * 64],
    "forgotten": [{"split": "train", "place": "t.jsonl:1", "fingerprint": "a" * 64}],
    "data": {"before": SPLITS_OF_RUN, "after": SPLITS_OF_RUN},
    "adapters": {"before": {}, "after": {"weights": "ab"}},
    "old_folder": {"path": "runs/old", "exists": True},
}


def damaged(record: Any, path: str, value: Any) -> Any:
    """Return a copy of a record with another value at a path such as data.after."""
    copy = json.loads(json.dumps(record))
    inside = copy
    *parents, last = (int(key) if key.isdigit() else key for key in path.split("."))
    for key in parents:
        inside = inside[key]
    inside[last] = value
    return copy


@pytest.mark.parametrize("value", [None, 0.5, [5], {"other": 5}])
@pytest.mark.parametrize(
    "path",
    [
        "fingerprints",
        "forgotten",
        "forgotten.0",
        "forgotten.0.fingerprint",
        "data",
        "data.after",
        "data.after.test",
        "data.after.test.rows",
        "adapters",
        "adapters.after.weights",
        "old_folder",
        "old_folder.path",
    ],
)
def test_a_claim_of_another_kind_is_one_line(tmp_path: Path, path: str, value: Any) -> None:
    (tmp_path / "forgotten.json").write_text(json.dumps(damaged(CLAIM, path, value)), encoding="utf-8")
    with pytest.raises(UserError, match=r"forgotten\.json: is damaged: ") as caught:
        check_forgotten(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["5", "[]", "null", '"text"', "{", "[" * 100_000])
def test_a_claim_that_is_no_object_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "forgotten.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"forgotten\.json: is damaged: "):
        check_forgotten(str(tmp_path))


def test_a_claim_of_the_right_kinds_is_compared_with_the_files(tmp_path: Path) -> None:
    (tmp_path / "forgotten.json").write_text(json.dumps(CLAIM), encoding="utf-8")
    with pytest.raises(UserError, match=r"without\.txt: no such file"):
        check_forgotten(str(tmp_path))


@pytest.mark.parametrize("value", [None, 0.5, "text", [5]])
@pytest.mark.parametrize(
    "path", ["data", "data.splits", "data.splits.train", "settings.task", "settings.context", "training", "seed"]
)
def test_a_record_of_another_kind_is_one_line(tmp_path: Path, path: str, value: Any) -> None:
    settings = {"model": {}, "task": {"prompt": "{text}"}, "context": {"demonstrations": 3}}
    result = make_result(settings=settings, training={"step": 4}, data={"splits": SPLITS_OF_RUN})
    file = tmp_path / "result.json"
    file.write_text(json.dumps(asdict(result)), encoding="utf-8")
    assert read_result(tmp_path).seed == 3
    file.write_text(json.dumps(damaged(asdict(result), path, value)), encoding="utf-8")
    with pytest.raises(UserError, match=r"result\.json: is damaged: "):
        read_result(tmp_path)
