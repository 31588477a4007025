"""The home commands: the committed files come from the source, no leak between splits, every command is valid."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parents[2]
build_data = importlib.import_module("scripts.build_data.__main__")
commands = importlib.import_module("scripts.build_data.home_commands.build")
rows_of = importlib.import_module("scripts.build_data.home_commands.rows")
sentences = importlib.import_module("scripts.build_data.home_commands.sentences")
text = importlib.import_module("scripts.build_data.text")

COMMITTED = ROOT / "data" / "home_commands"
SIZES = {"train": (4000, 1000), "validation": (250, 90), "test": (550, 180)}  # at least: English, other languages
Row = dict[str, Any]


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Row]]:
    return {
        split: [json.loads(line) for line in (COMMITTED / f"{split}.jsonl").read_text("utf-8").split("\n") if line]
        for split in rows_of.SPLITS
    }


def slots(row: Row) -> dict[str, Any]:
    return json.loads(row["command"])["slots"]


@pytest.mark.slow
def test_committed_files_are_what_the_source_gives(tmp_path: Path) -> None:
    assert build_data.main(["home_commands", "--out", str(tmp_path)]) == 0
    built = tmp_path / "home_commands"
    names = ["LICENSE", "README.md", "SHA256SUMS", "schema.json", "test.jsonl", "train.jsonl", "validation.jsonl"]
    assert sorted(path.name for path in built.iterdir()) == sorted(path.name for path in COMMITTED.iterdir()) == names
    for name in names:
        assert (built / name).read_bytes() == (COMMITTED / name).read_bytes(), name
    for line in (COMMITTED / "SHA256SUMS").read_text().splitlines():
        expected, name = line.split("  ")
        assert hashlib.sha256((COMMITTED / name).read_bytes()).hexdigest() == expected


def test_rows_have_their_columns_and_each_language_its_size(splits: dict[str, list[Row]]) -> None:
    everything = [row for rows in splits.values() for row in rows]
    assert all(list(row) == ["id", "language", "intent", "template", "text", "command"] for row in everything)
    assert len({row["id"] for row in everything}) == len(everything)
    for split, (english, other) in SIZES.items():
        for language in ("en", "de", "fr", "es"):
            assert sum(row["language"] == language for row in splits[split]) >= (english if language == "en" else other)
        # The first rows are a fair sample.
        assert {row["language"] for row in splits[split][:40]} == {"en", "de", "fr", "es"}
    assert max(len(row["text"].split()) for row in everything) <= sentences.MOST_WORDS


def test_no_template_and_no_text_is_in_two_splits(splits: dict[str, list[Row]]) -> None:
    for key in (
        lambda row: (row["language"], row["template"]),
        lambda row: " ".join(sorted(row["text"].casefold().split())),
        lambda row: text.normalise(row["text"]),
    ):
        seen = [{key(row) for row in rows} for rows in splits.values()]
        assert sum(map(len, seen)) == len(set().union(*seen))


@pytest.mark.parametrize("only", ["validation", "test"])
def test_some_values_are_in_one_held_out_split_only(splits: dict[str, list[Row]], only: str) -> None:
    """Validation must ask for new values as test does, or it prefers settings that learn those of train by heart."""
    for language in ("en", "de", "fr", "es"):
        home = rows_of.Language(language).home
        for slot in ("area", "floor", "name"):
            groups = [values for name, values in home.open.items() if name.split("/")[0] == slot]
            held = {v.text for values in groups for v in values if v.only == only}
            held -= {v.text for values in groups for v in values if v.only != only}
            found = {
                split: {slots(row)[slot] for row in rows if row["language"] == language and slot in slots(row)}
                for split, rows in splits.items()
            }
            assert held & found.pop(only), (language, slot)
            assert not held & set().union(*found.values()), (language, slot)


def test_every_command_is_canonical_and_fits_the_schema(splits: dict[str, list[Row]]) -> None:
    validator = Draft202012Validator(json.loads((COMMITTED / "schema.json").read_text("utf-8")))
    for row in (row for rows in splits.values() for row in rows):
        found = json.loads(row["command"])
        assert row["command"] == rows_of.command(found["intent"], found["slots"])
        assert found["intent"] == row["intent"]
        assert all(isinstance(value, str | int | float) for value in found["slots"].values())
        # The rest of the schema is one condition per intent; all rows would take long, so this checks a part of them.
        if row["id"].endswith("0"):
            validator.validate(found)


@pytest.mark.parametrize(
    "wrong",
    [
        {"intent": "HassTurnUp", "slots": {}},
        {"intent": "HassTurnOn", "slots": {"brightness": 5}},
        {"intent": "HassLightSet", "slots": {"brightness": 101, "domain": "light"}},
        {"intent": "HassLightSet", "slots": {"color": "transparent", "domain": "light"}},
        {"intent": "HassStartTimer", "slots": {"minutes": "five"}},
        {"intent": "HassTurnOn", "slots": {"name": "lamp"}, "response": "done"},
        {"intent": "HassTurnOn"},
    ],
)
def test_the_schema_refuses(wrong: dict[str, Any]) -> None:
    validator = Draft202012Validator(json.loads((COMMITTED / "schema.json").read_text("utf-8")))
    assert not validator.is_valid(wrong)
    assert validator.is_valid({"intent": "HassLightSet", "slots": {"brightness": 100, "color": "red", "name": "x"}})


def test_train_shows_every_intent_slot_and_fixed_value_of_the_other_splits(splits: dict[str, list[Row]]) -> None:
    shown: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for row in splits["train"]:
        shown[row["language"]] |= {(row["intent"],), *((row["intent"], slot) for slot in slots(row))}
        shown[row["language"]] |= {(row["intent"], "domain", slots(row).get("domain", ""))}
    for row in splits["validation"] + splits["test"]:
        assert {(row["intent"],), *((row["intent"], slot) for slot in slots(row))} <= shown[row["language"]]
        if "domain" in slots(row):
            assert (row["intent"], "domain", slots(row)["domain"]) in shown[row["language"]]


def test_the_recogniser_gives_the_slots() -> None:
    english = rows_of.Language("en")
    found = english.read("turn off the floor lamp in the kitchen")
    assert (found.intent, found.slots) == ("HassTurnOff", {"area": "kitchen", "name": "floor lamp"})
    # The room of the microphone is not a slot, but the template's domain is one.
    assert english.read("turn on the lights in here").slots == {"domain": "light"}
    assert english.read("set a timer for 2 and a half hours").slots == {"hours": 2, "minutes": 30}
    assert english.read("colourless green ideas") is None
    german = rows_of.Language("de").read("mach das Licht in der Küche aus")
    assert (german.intent, german.slots) == ("HassTurnOff", {"area": "Küche", "domain": "light"})


@pytest.mark.parametrize(("count", "held_out"), [(1, {}), (2, {}), (3, {"test": 1}), (4, {"test": 1, "validation": 1})])
def test_rare_intents_stay_in_train(count: int, held_out: dict[str, int]) -> None:
    templates = [rows_of.Template(f"Intent-{n}", "Intent", str(n), ()) for n in range(count)]
    split = list(rows_of.assign(templates).values())
    assert {name: split.count(name) for name in set(split) - {"train"}} == held_out
    assert "train" in split
    assert rows_of.assign(templates[::-1]) == rows_of.assign(templates)


def test_values_agree_with_the_words_before_them() -> None:
    home = sentences.Household(
        values={}, functions="in|im|der", before={"f": "in der", "n": "im"}, unreal=(r"\bist sind\b",)
    )
    assert sentences.reads_well("Licht in der {area:f|Küche} aus", home)
    assert sentences.reads_well("Licht im {area:n|Bad} aus", home)
    assert not sentences.reads_well("Licht im {area:f|Küche} aus", home)
    assert not sentences.reads_well("ist sind alle Lampen aus", home)
    assert sentences.plain("Licht in der {area:f|Küche} aus") == "Licht in der Küche aus"
    assert sentences.marked_slots("im {area:n|Bad}") == {"area": "Bad"}


def test_another_version_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(commands.PINNED, "hassil", "0.0.1")
    assert build_data.main(["home_commands", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "hassil==0.0.1 (found 3.12.1)" in error
    assert "pip install home-assistant-intents==2026.10.27 hassil==0.0.1" in error
    assert not (tmp_path / "out").exists()
