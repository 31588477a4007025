"""The analytics build: commands in one split, several references, values to mention, and the committed files."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from softprompts.errors import UserError
from softprompts.metrics.scoring import compute_metrics, load_metrics

import pytest

ROOT = Path(__file__).parents[2]
analytics = importlib.import_module("scripts.build_data.analytics.build")

COMMITTED = ROOT / "data" / "analytics"


def command(intent: str, **slots: Any) -> str:
    return json.dumps({"intent": intent, "slots": slots})


def source(folder: Path, **splits: list[tuple[str, str]]) -> Path:
    """Write home commands, (command, text) pairs of each split, and a licence; return their folder."""
    for split in analytics.SPLITS:
        rows = [
            {"id": f"en-{split}{n}", "language": "en", "intent": json.loads(c)["intent"], "text": t, "command": c}
            for n, (c, t) in enumerate(splits.get(split, []))
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "LICENSE").write_text("Some licence\n", encoding="utf-8")
    return folder


def test_a_command_is_in_the_split_that_is_held_out_most_with_all_of_its_utterances(tmp_path: Path) -> None:
    on, off, up = (command("On", name="lamp"), command("Off", name="fan"), command("Up", amount=20))
    home = source(
        tmp_path,
        train=[(on, "switch on the lamp"), (off, "fan off now please"), (up, "raise it by 20 per cent")],
        validation=[(on, "let there be light from the lamp")],
        test=[(on, "could you start my lamp"), (up, "make it 20 points louder")],
    )
    found, places = analytics.read_source(home, home / "validation.jsonl")
    splits = analytics.make_rows(found, analytics.assign(found, places))
    assert {s: [r.command for r in rows] for s, rows in splits.items() if s != "test"} == {
        "train": [off],
        "validation": [],
    }
    assert {r.command: r.references for r in splits["test"]} == {on: 3, up: 2}
    data = analytics.metric_data(found, splits)
    for row in splits["test"]:
        assert {row.text, *data[row.text]["references"]} == {u["text"] for u in found["en", row.command]}
    assert {r.command: data[r.text]["mentions"] for r in splits["test"]} == {on: [["lamp"]], up: [["20"]]}
    analytics.check(splits, data)


def test_values_to_mention_are_those_of_all_references() -> None:
    light = command("Set", area="kitchen", brightness=50, domain="light", name="big lamp")
    texts = ["the big lamp in the Kitchen to 50", "kitchen: big lamp, half"]
    assert analytics.mentions(light, texts) == [["kitchen"], ["big lamp"]]
    assert analytics.mentions(light, [*texts, "lights!"]) == []
    assert not analytics.says("on", "a long song")


def test_near_duplicates_of_an_utterance_are_no_further_references() -> None:
    rows = [{"id": str(n), "text": t} for n, t in enumerate(["turn on the lamp", "turn on the lamps", "light, please"])]
    assert len(analytics.different(rows)) == 2


def test_unsound_rows_are_refused() -> None:
    row = analytics.Row("en-1", "en", "On", command("On"), "text", 1)
    with pytest.raises(UserError, match="lies in train and test"):
        analytics.check({"train": [row], "validation": [], "test": [row]}, {"text": {}})
    with pytest.raises(UserError, match="do not name their references"):
        analytics.check({"train": [], "validation": [], "test": [row]}, {})


def test_committed_files_are_what_the_home_commands_give(tmp_path: Path) -> None:
    analytics.build(tmp_path)
    assert sorted(p.name for p in (tmp_path / "analytics").iterdir()) == sorted(p.name for p in COMMITTED.iterdir())
    for path in COMMITTED.iterdir():
        assert (tmp_path / "analytics" / path.name).read_bytes() == path.read_bytes(), path.name


def test_committed_files_are_sound() -> None:
    for line in (COMMITTED / "SHA256SUMS").read_text().splitlines():
        expected, name = line.split("  ")
        assert hashlib.sha256((COMMITTED / name).read_bytes()).hexdigest() == expected
    splits = {
        split: [json.loads(line) for line in (COMMITTED / f"{split}.jsonl").read_text("utf-8").splitlines()]
        for split in analytics.SPLITS
    }
    commands = [{(r["language"], r["command"]) for r in rows} for rows in splits.values()]
    assert sum(map(len, commands)) == len(set().union(*commands))
    assert {text for _, text in commands[0]} & {text for _, text in commands[2]}, "in another language"
    said = "language is in two splits. A test command may be in train in another language."
    assert said in (COMMITTED / "README.md").read_text("utf-8")
    assert all(len(splits[s]) == len({r["text"] for r in splits[s]}) for s in ("validation", "test"))
    assert max(Counter((r["language"], r["command"]) for r in splits["train"]).values()) == analytics.MOST
    # The references are right answers, and contain all required mentions.
    data = json.loads((COMMITTED / "references.json").read_text("utf-8"))
    metrics = load_metrics(["mentions", "bleu"], data=data)
    pairs = [(other, text) for text, entry in data.items() for other in [text, *entry["references"]]]
    answers, targets = [a for a, _ in pairs], [t for _, t in pairs]
    assert compute_metrics(metrics, answers, targets) == {"mention_rate": 1.0, "all_mentioned": 1.0, "bleu": 1.0}
    assert len(pairs) > 1.2 * len(data)
