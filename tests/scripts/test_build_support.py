"""The support build: the table of queues, the choice of rows and their splits, the schema, and the committed files."""

from __future__ import annotations

import errno
import hashlib
import http.client
import importlib
import io
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from softprompts.errors import UserError
from softprompts.tasks.schemas import read_schema

import pytest
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parents[2]
build_data = importlib.import_module("scripts.build_data.__main__")
download = importlib.import_module("scripts.build_data.download")
support = importlib.import_module("scripts.build_data.support.build")
text = importlib.import_module("scripts.build_data.text")

COMMITTED = ROOT / "data" / "support"
TABLE = support.ROUTING.read_text(encoding="utf-8")
ROUTES = support.read_routes(TABLE)


def noise(key: str, words: int = 8) -> str:
    """A question of words made of a hash: no two resemble each other by accident."""
    return " ".join(text.digest(f"{key}{i}")[:9] for i in range(words)) + "?"


def row(key: str, body: str, answer: str = "card_swallowed") -> Any:
    queue, priority = ROUTES[answer]
    ticket = json.dumps({"queue": queue, "priority": priority, "answer": answer})
    return support.Row(key, body, queue, priority, answer, ticket)


def new_stats() -> Any:
    return {"train": Counter(), "test": Counter()}


def test_every_answer_has_one_queue_and_one_priority() -> None:
    tree = yaml.safe_load(TABLE)
    assert (len(ROUTES), len(tree["queues"]), list(tree["priorities"])) == (77, 8, ["high", "normal", "low"])
    assert ROUTES["lost_or_stolen_card"] == ("fraud", "high")
    assert ROUTES["exchange_rate"] == ("exchange", "low")
    with pytest.raises(UserError, match="card_arrival has two places: cash and cards"):
        support.read_routes("priorities: {low: x}\nqueues: {cash: {low: [card_arrival]}, cards: {low: [card_arrival]}}")
    with pytest.raises(UserError, match="unknown priority hihg"):
        support.read_routes("priorities: {high: x}\nqueues: {cash: {for: x, hihg: [card_arrival]}}")


def test_rows_have_the_answer_of_their_intent() -> None:
    content = 'text,category\n"Where is\nmy &amp; card?",card_arrival\nMoney back please,reverted_card_payment?\n'
    rows = support.read_rows("train", content, ROUTES)
    assert [(r.id, r.text, r.answer) for r in rows] == [
        ("train-1", "Where is my & card?", "card_arrival"),
        ("train-2", "Money back please", "reverted_card_payment"),
    ]
    assert json.loads(rows[0].ticket) == {"queue": "cards", "priority": "normal", "answer": "card_arrival"}
    with pytest.raises(UserError, match=r"row 1: routing\.yaml has no place for weather"):
        support.read_rows("train", "text,category\nIs it raining?,weather\n", ROUTES)


def test_near_duplicates_of_test_and_validation_are_not_in_train(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "MOST", {"train": 50, "validation": 3, "test": 4})
    test = [row(f"test-{n}", noise(f"test {n}")) for n in range(6)] + [row("test-6", "No words")]
    train = [row(f"train-{n}", noise(f"train {n}")) for n in range(10)]
    train += [row(f"train-{10 + n}", r.text.removesuffix("?") + " please") for n, r in enumerate(test[:6])]
    train += [row("train-16", train[0].text + " please"), row("train-17", train[1].text.upper())]
    both = noise("both")
    train += [row("train-18", both), row("train-19", both, "pin_blocked")]
    stats = new_stats()
    splits = support.choose(test, train, stats)
    assert {s: len(rows) for s, rows in splits.items()} == {"test": 4, "validation": 3, "train": 7}
    # Also those of rows of test that were not chosen.
    assert stats["train"]["near duplicates of test"] == 6
    assert (stats["train"]["same text"], stats["train"]["several intents"], stats["test"]["short"]) == (1, 2, 1)
    assert support.leaks(splits) == []


@pytest.mark.parametrize(("here", "there"), [("train", "test"), ("train", "validation"), ("validation", "test")])
def test_leaks_are_seen_between_all_splits(here: str, there: str) -> None:
    splits: dict[str, list[Any]] = {"train": [], "validation": [], "test": []}
    splits[here], splits[there] = [row("1", noise("x"))], [row("2", noise("x") + " please")]
    assert support.leaks(splits) == ["1 and 2 are near-duplicates in two splits"]


def test_unsound_rows_are_refused() -> None:
    tree = yaml.safe_load(TABLE)
    rules = support.schema(ROUTES, tree)
    few = {"card_swallowed": ROUTES["card_swallowed"]}
    rows = [row(str(n), noise(str(n))) for n in range(30)]
    splits = {"train": rows[:20], "validation": rows[20:25], "test": rows[25:]}
    support.check(splits, rules, few)
    with pytest.raises(UserError, match="train has fewer than 8 rows of pin_blocked"):
        support.check(splits, rules, few | {"pin_blocked": ROUTES["pin_blocked"]})
    wrong = support.Row("x", noise("w"), "cash", "high", "card_swallowed", '{"queue": "cash"}')
    with pytest.raises(UserError, match=r"x: .* does not fit the schema"):
        support.check(splits | {"test": [*rows[25:], wrong]}, rules, few)
    with pytest.raises(UserError, match="leaks between splits, the first: "):
        support.check(splits | {"test": [*rows[25:], row("y", rows[0].text)]}, rules, few)


def test_files_come_from_the_folder_or_the_source_and_are_checked(tmp_path: Path, monkeypatch) -> None:
    source = tmp_path / "source" / "data.csv"
    source.parent.mkdir()
    source.write_bytes(b"abc")
    monkeypatch.setattr(download, "FILES", f"file://{tmp_path}/source/{{path}}")
    sha256 = hashlib.sha256(b"abc").hexdigest()
    read = ("owner/name", "0a1b", "data.csv", sha256, tmp_path / "kept")
    assert download.read_file(*read) == b"abc"
    source.unlink()
    assert download.read_file(*read) == b"abc"  # is kept
    (tmp_path / "kept" / "name-0a1b" / "data.csv").write_bytes(b"other")
    with pytest.raises(UserError, match=f"expected {sha256}; remove the file"):
        download.read_file(*read)
    (tmp_path / "kept" / "name-0a1b" / "data.csv").unlink()
    with pytest.raises(UserError, match=r"data\.csv could not be downloaded .*; put the file at "):
        download.read_file(*read)


def test_a_dropped_connection_is_one_line_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dropped(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise http.client.IncompleteRead(b"ab", 1)

    monkeypatch.setattr(download.urllib.request, "urlopen", lambda *_, **__: Dropped())
    with pytest.raises(UserError, match=r"data\.csv could not be downloaded \(IncompleteRead.*; put the file at "):
        download.read_file("owner/name", "0a1b", "data.csv", "", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_part_of_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def part(self: Path, content: bytes) -> int:
        with self.open("wb") as opened:
            opened.write(content[:1])
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(download.urllib.request, "urlopen", lambda *_, **__: io.BytesIO(b"abc"))
    monkeypatch.setattr(Path, "write_bytes", part)
    with pytest.raises(UserError, match=r"data\.csv: the disk is full"):
        download.read_file("owner/name", "0a1b", "data.csv", "", tmp_path)
    assert list((tmp_path / "name-0a1b").iterdir()) == []


def test_another_file_is_one_line_and_nothing_is_written(tmp_path: Path, capsys) -> None:
    folder = tmp_path / f"task-specific-datasets-{support.COMMIT}" / "banking_data"
    folder.mkdir(parents=True)
    (folder / "train.csv").write_text("text,category\n")
    assert build_data.main(["support", "--sources", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert support.FILES["banking_data/train.csv"] in error
    assert not (tmp_path / "out").exists()


def test_committed_files_are_sound() -> None:
    for line in (COMMITTED / "SHA256SUMS").read_text().splitlines():
        expected, name = line.split("  ")
        assert hashlib.sha256((COMMITTED / name).read_bytes()).hexdigest() == expected
    splits = {
        split: [
            support.Row(**json.loads(line)) for line in (COMMITTED / f"{split}.jsonl").read_text("utf-8").splitlines()
        ]
        for split in support.SPLITS
    }
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 2413, "validation": 308, "test": 616}
    assert (COMMITTED / "routing.yaml").read_text(encoding="utf-8") == TABLE
    rules = read_schema("embedded:support/schema.json")
    assert rules == support.schema(ROUTES, yaml.safe_load(TABLE))
    support.check(splits, rules, ROUTES)
    rows = [r for split in support.SPLITS for r in splits[split]]
    assert len({text.normalise(r.text) for r in rows}) == len(rows)
    assert all(row(r.id, r.text, r.answer) == r for r in rows)
    assert {r.id.partition("-")[0] for r in splits["test"]} == {"test"}
    assert {r.id.partition("-")[0] for s in ("train", "validation") for r in splits[s]} == {"train"}
    assert "https://arxiv.org/abs/2003.04807" in (COMMITTED / "LICENSE").read_text("utf-8")
    # An answer of another queue is invalid.
    wrong = {"queue": "cash", "priority": "high", "answer": "lost_or_stolen_card"}
    assert not Draft202012Validator(rules).is_valid(wrong)


@pytest.mark.skipif("SOFTPROMPTS_SOURCES" not in os.environ, reason="needs the files of the sources")
def test_committed_files_are_what_the_source_gives(tmp_path: Path) -> None:
    support.build(tmp_path, Path(os.environ["SOFTPROMPTS_SOURCES"]))
    assert sorted(p.name for p in (tmp_path / "support").iterdir()) == sorted(p.name for p in COMMITTED.iterdir())
    for path in COMMITTED.iterdir():
        assert (tmp_path / "support" / path.name).read_bytes() == path.read_bytes(), path.name
