"""Fingerprints of rows: what counts, and what a file of them may hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from softprompts.data.without import fingerprint, read_without, text_of, without_file
from softprompts.errors import UserError

import pytest

ROW = {"id": "7", "text": "The film was good", "label": "positive"}


@pytest.mark.parametrize(
    "other",
    [
        ROW | {"text": "the FILM was good"},
        ROW | {"text": " The  film\nwas good "},
        ROW | {"text": "Ｔｈｅ film was good"},
        ROW | {"id": "8"},
    ],
    ids=["case", "spaces", "wide letters", "a column that no template shows"],
)
def test_rows_that_are_the_same_to_a_reader_have_one_fingerprint(other: dict[str, str]) -> None:
    text = text_of("{text}\nSentiment:", " {label}")
    assert fingerprint(text(other)) == fingerprint(text(ROW))


@pytest.mark.parametrize("other", [ROW | {"text": "The film was good."}, ROW | {"label": "negative"}])
def test_other_rows_have_another(other: dict[str, str]) -> None:
    text = text_of("{text}\nSentiment:", " {label}")
    assert fingerprint(text(other)) != fingerprint(text(ROW))


def test_the_words_of_the_templates_do_not_count_but_the_columns_do() -> None:
    asked, other = text_of("{text}\nSentiment:", " {label}"), text_of("Rate: {text}", "{label}")
    assert asked(ROW) == other(ROW) == "the film was good\npositive"
    assert text_of("{text} {id}", "{label}")(ROW) == "the film was good 7\npositive"


@pytest.mark.parametrize(
    ("prompt", "target", "other"),
    [
        ("{t[en]}", "{t[de]}", {"t": {"en": "a film", "de": "ein Film", "id": 2}}),
        ("{words[0]}", "{t[de]}", {"words": ["a film", "again"], "t": {"de": "ein Film"}}),
        ("{text:.6}", "{t[de]}", {"text": "a film to see", "t": {"de": "ein Film"}}),
    ],
    ids=["a key", "an item", "a cut"],
)
def test_what_a_field_does_not_show_does_not_count(prompt: str, target: str, other: dict[str, Any]) -> None:
    row = {"t": {"en": "a film", "de": "ein Film", "id": 1}, "words": ["a film"], "text": "a film"}
    text = text_of(prompt, target)
    assert text(row) == "a film\nein film"
    assert text(other) == text(row)
    assert text(row | {"t": {"en": "a film", "de": "ein Buch"}}) != text(row)


def test_a_row_that_no_template_can_show_has_a_text() -> None:
    text = text_of("{t[en]} {n:.2f}", "{label}")
    assert text({"t": None, "n": "three"}) == text({}) == "\n"


def test_a_word_cannot_move_between_input_and_target() -> None:
    text = text_of("{a}", "{b}")
    assert text({"a": "x y", "b": "z"}) != text({"a": "x", "b": "y z"})


def test_a_file_gives_back_its_fingerprints(tmp_path: Path) -> None:
    file = tmp_path / "without.txt"
    given = {fingerprint("a"), fingerprint("b")}
    file.write_text(without_file([*given, fingerprint("a")]) + "\n# a remark\n", encoding="utf-8")
    assert read_without(str(file)) == given
    assert file.read_text(encoding="utf-8").count(fingerprint("a")) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("# nothing\n\n", "holds no fingerprint"),
        ("train.jsonl:17\n", ":1: expected a fingerprint of 64 hexadecimal digits, found train.jsonl:17"),
        ("A" * 64, ":1: expected a fingerprint"),
    ],
)
def test_another_file_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "without.txt"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        read_without(str(file))
    assert str(caught.value).startswith(str(file))
    with pytest.raises(UserError, match="no such file"):
        read_without(str(tmp_path / "absent.txt"))
