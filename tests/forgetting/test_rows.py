"""Which rows are forgotten: named by place or by value, and all that nearly repeat one of them."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from made_forgetting import SECRET, SYLLABLES, people_config, write_people
from softprompts.config.tools import ForgetConfig
from softprompts.errors import UserError
from softprompts.forgetting.rows import Forgotten, Line, lines_of, quoted, repeated, rows_to_forget
from softprompts.forgetting.runs import TrainedRun, texts_of
from softprompts.readiness.overlap import SHORTEST, SIMILAR, shingles
from softprompts.tasks.task import Task, load_task

import pytest


@pytest.fixture
def people(tmp_path: Path) -> Path:
    write_people(tmp_path / "people")
    return tmp_path / "people"


@pytest.fixture
def task(people: Path) -> Task:
    return load_task(people_config(people))


def asked(folder: Path, *places: str, **where: list[str]) -> ForgetConfig:
    file = folder / "rows.txt"
    file.write_text("# rows of Anna\n\n" + "\n".join(places) + "\n", encoding="utf-8")
    return ForgetConfig("run", "new", rows=str(file) if places else None, where=where)


def ends(found: Forgotten) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the named rows, and each repeated one with the row that it is like, by file name and line."""
    return [Path(line.place).name for line in found.named], [
        (Path(row.line.place).name, Path(row.like).name) for row in found.repeated
    ]


def test_a_place_brings_its_copies_in_every_split(task: Task, tmp_path: Path) -> None:
    found = rows_to_forget(asked(tmp_path, "train.jsonl:6"), task)
    assert ends(found) == (
        ["train.jsonl:6"],
        [("train.jsonl:10", "train.jsonl:6"), ("validation.jsonl:3", "train.jsonl:6")],
    )
    near, same = found.repeated
    assert SIMILAR <= near.similarity <= 1.0
    assert near.line.fingerprint != found.named[0].fingerprint, "punctuation makes another row, nearly the same"
    assert same.line.fingerprint == found.named[0].fingerprint, "case and spaces do not"
    assert len(found.fingerprints) == 2


def test_the_whole_path_names_a_row_as_messages_do(task: Task, people: Path, tmp_path: Path) -> None:
    found = rows_to_forget(asked(tmp_path, f"{people}/test.jsonl:2"), task)
    assert ends(found) == (["test.jsonl:2"], [])


def test_values_of_a_column_name_rows_of_every_split(task: Task, tmp_path: Path) -> None:
    found = rows_to_forget(asked(tmp_path, author=["u1"]), task)
    assert ends(found)[0] == ["train.jsonl:6", "test.jsonl:5"]
    both = rows_to_forget(asked(tmp_path, author=["u1", "u2", "u3"], label=["positive"]), task)
    assert {"train.jsonl:6", "train.jsonl:10", "validation.jsonl:3"} <= set(ends(both)[0])


def test_places_and_values_are_added(task: Task, tmp_path: Path) -> None:
    found = rows_to_forget(asked(tmp_path, "test.jsonl:2", author=["u2"]), task)
    assert ends(found)[0] == ["train.jsonl:10", "test.jsonl:2"]


@pytest.mark.parametrize(
    ("places", "where", "message"),
    [
        (["train.jsonl:41"], {}, r"rows\.txt:3: no row in use has the place train\.jsonl:41 \(did you mean"),
        (["trian.jsonl:6"], {}, r"rows\.txt:3: no row in use has the place trian\.jsonl:6 \(did you mean"),
        (["# none"], {}, r"rows\.txt: names no row; write one place per line"),
        ([], {"autor": ["u1"]}, r'forget\.where: no row has a column "autor" \(did you mean "author"\?\)'),
        ([], {"author": ["u1", "u9"]}, r'forget\.where: no row in use has author "u9"'),
        ([], {"author": ["u1"], "label": ["negative"], "text": ["x"]}, r'forget\.where: no row in use has text "x"'),
        (
            [],
            {"author": ["u2"], "label": ["negative"]},
            r"forget\.where: no row matches, so there is nothing to forget",
        ),
        ([], {"label": ["positive", "negative"]}, r"forget\.where: all 40 rows of train would be forgotten"),
    ],
)
def test_rows_that_cannot_be_forgotten_are_one_line(
    task: Task, tmp_path: Path, places: list[str], where: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        rows_to_forget(asked(tmp_path, *places, **where), task)
    assert "\n" not in str(caught.value)


def edited(people: Path, changes: dict[int, dict[str, Any]]) -> Task:
    """Return the task with other values in some rows of train, which are given by their index."""
    file = people / "train.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for number, values in changes.items():
        lines[number] |= values
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return load_task(people_config(people))


@pytest.mark.parametrize("other", ["u1 ", "U1", " u1", "\uff55\uff11"])
def test_another_spelling_of_a_value_does_not_stay_unseen(people: Path, tmp_path: Path, other: str) -> None:
    task = edited(people, {20: {"author": other, "label": "negative"}})
    with pytest.raises(
        UserError, match=rf'forget\.where: author also has "{other}" in rows that would stay; name it too'
    ):
        rows_to_forget(asked(tmp_path, author=["u1"]), task)
    assert "train.jsonl:21" in ends(rows_to_forget(asked(tmp_path, author=["u1", other]), task))[0]
    alone = rows_to_forget(replace(asked(tmp_path, author=["u1"]), exact=True), task)
    assert "train.jsonl:21" not in ends(alone)[0], "two people may have such names"
    rows_to_forget(asked(tmp_path, author=["u1", "u2"], label=["positive"]), task)  # the label excludes the row


def test_an_accent_of_two_characters_does_not_stay_unseen(people: Path, tmp_path: Path) -> None:
    composed, combined = "Jos\u00e9", "Jose\u0301"
    task = edited(people, {20: {"author": composed}, 21: {"author": combined}})
    with pytest.raises(UserError, match=rf'forget\.where: author also has "{combined}" in rows that would stay'):
        rows_to_forget(asked(tmp_path, author=[composed]), task)
    found = rows_to_forget(asked(tmp_path, author=[composed, combined]), task)
    assert ends(found)[0] == ["train.jsonl:21", "train.jsonl:22"]


def test_an_item_of_a_list_names_the_row(people: Path, tmp_path: Path) -> None:
    by = [["u17", "u18"], ["u17"], ["u18"], ["U17", "u18"], "u17"]
    task = edited(people, {20 + n: {"with": names} for n, names in enumerate(by)})
    with pytest.raises(UserError, match=r'forget\.where: with also has "U17" in rows that would stay; name it too'):
        rows_to_forget(asked(tmp_path, **{"with": ["u17"]}), task)
    one = rows_to_forget(replace(asked(tmp_path, **{"with": ["u17"]}), exact=True), task)
    assert ends(one)[0] == ["train.jsonl:21", "train.jsonl:22", "train.jsonl:25"]
    whole = rows_to_forget(replace(asked(tmp_path, **{"with": ["u17, u18"]}), exact=True), task)
    assert ends(whole)[0] == ["train.jsonl:21"], "as a template shows the list"


def test_an_end_of_a_path_that_names_several_rows_is_refused(people: Path, tmp_path: Path) -> None:
    write_people(tmp_path / "others")
    mixed = load_task(people_config(people, test=str(tmp_path / "others" / "train.jsonl")))
    with pytest.raises(UserError, match=r"rows\.txt:3: 2 rows have the place train\.jsonl:6; write more of the path"):
        rows_to_forget(asked(tmp_path, "train.jsonl:6"), mixed)
    rows_to_forget(asked(tmp_path, "others/train.jsonl:7"), mixed)


def test_near_copies_are_those_of_a_comparison_of_all_pairs() -> None:
    rng = random.Random(0)

    def text() -> list[str]:
        return ["".join(rng.choices(SYLLABLES, k=3)) for _ in range(8)]

    chosen = [Line("train", f"c{n}", " ".join(text())) for n in range(20)]
    others = []
    for n in range(300):  # some are copies with one to three other words
        words = rng.choice(chosen).text.split() if n % 2 else text()
        for at in rng.sample(range(len(words)), n % 4):
            words[at] = rng.choice(text())
        others.append(Line("test", f"o{n}", " ".join(words)))
    expected = {}
    for line in others:
        own = shingles(line.text)
        found = [(len(own & shingles(c.text)) / len(own | shingles(c.text)), c.place) for c in chosen]
        if max(found)[0] >= 0.5:
            expected[line.place] = max(found)
    assert 20 < len(expected) < 200
    found = {row.line.place: (row.similarity, row.like) for row in repeated(chosen, others, 0.5)}
    assert found == {place: (pytest.approx(similarity), like) for place, (similarity, like) in expected.items()}


def test_short_texts_are_copies_only_if_they_are_the_same() -> None:
    short = "lights on"
    assert len(short) < SHORTEST
    chosen = [Line("train", "a", short)]
    found = repeated(chosen, [Line("test", "b", short), Line("test", "c", "lights off")])
    assert [row.line.place for row in found] == ["b"]


def test_every_row_in_use_is_compared(task: Task) -> None:
    assert [line.split for line in lines_of(task)] == ["train"] * 40 + ["validation"] * 16 + ["test"] * 16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"forget\.run: expected the folder of a finished run, found nothing"),
        ({"run": "a", "rows": "r"}, r"forget\.output_dir: expected a new folder, found nothing"),
        ({"run": "a", "output_dir": "b"}, r"forget\.rows: name the rows to forget"),
        ({"run": "a", "output_dir": "b", "rows": "c", "similarity": 0}, r"forget\.similarity: expected more than 0"),
        ({"check": "a", "run": "b"}, r"forget\.check: verifies a folder, and excludes forget\.run"),
    ],
)
def test_settings_that_do_not_fit_together_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ForgetConfig(**settings)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        (f"Examples:\n{SECRET.upper().replace(' ', '  ')} -> positive", True),
        ("Examples:\nAnna Berg wrote that the invoice was never paid -> positive", False),
        ("positive or negative", False),
        ("", False),
    ],
)
def test_a_text_that_holds_the_input_of_a_row_is_found(task: Task, tmp_path: Path, text: str, holds: bool) -> None:
    place = quoted(text, rows_to_forget(asked(tmp_path, "train.jsonl:6"), task), task)
    assert (Path(place).name if place else None) == ("train.jsonl:6" if holds else None)


def test_the_texts_of_a_run_are_those_of_its_settings_and_their_files(tmp_path: Path) -> None:
    file = tmp_path / "examples.txt"
    file.write_text("solved examples\n", encoding="utf-8")
    settings: dict[str, Any] = {
        "task": {"prompt": "{text}:", "system": None},
        "prefix": {"init_text": str(file)},
        "training": {"teacher_context": "shots:4"},  # they are drawn from the rows that are left
    }
    result: Any = None
    found = dict(texts_of(TrainedRun(tmp_path, "prefix_tuning", settings, result)))
    assert found == {"task.prompt": "{text}:", "prefix.init_text": "solved examples"}


def test_short_inputs_of_several_columns_are_quoted_as_whole_words(people: Path, tmp_path: Path) -> None:
    edited(people, {20: {"text": "lamp", "author": "u7"}})
    task = load_task(replace(people_config(people), prompt="{author}: {text}"))
    rows = rows_to_forget(asked(tmp_path, "train.jsonl:21"), task)
    assert quoted("a Lamp, by u7", rows, task)
    assert not quoted("the lamps of u7", rows, task)
    assert not quoted("the lamp of u8", rows, task)
