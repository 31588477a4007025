"""JSON that Python's parser accepts, but that would become a wrong text."""

from __future__ import annotations

import json

from softprompts.data.strict_json import DEEPEST, JsonError, parse_json

import pytest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": NaN}', "NaN is not a JSON value at column 7"),
        ('{"NaN": [1, {"b": -Infinity}]}', "-Infinity is not a JSON value at column 19"),
        ('{"a\\"": Infinity}', "Infinity is not a JSON value at column 9"),
        ('{"a": 1, "b": 2, "a": 3}', 'key "a" appears twice in one object'),
        ('{"o": [{"k": 1, "k": 1}]}', 'key "k" appears twice in one object'),
        ('{"a": 1, "\\u0061": 2}', 'key "a" appears twice in one object'),
        ('{"a": "x\\ud83d"}', "half of a surrogate pair: \\ud83d at column 9"),
        ('{"a": "\\uDC4D"}', "half of a surrogate pair: \\uDC4D at column 8"),
        ('{"\\ud83d": 1}', "half of a surrogate pair: \\ud83d at column 3"),
        ('{"a": "\\ud83d\\ud83d\\udc4d"}', "half of a surrogate pair: \\ud83d at column 8"),
        ('{"a": 1,}', ("Illegal trailing comma", "Expecting property name")),  # Python 3.13 and before
        ('{"a": 1} // note', "Extra data at column 10"),
        ('{\n "a": 1,\n "b"\n}', "Expecting ':' delimiter at line 4 column 1"),
        ('{"a": "x\ty"}', "Invalid control character at column 9"),
        ("", "Expecting value at column 1"),
    ],
)
def test_what_is_no_json(text: str, message: str | tuple[str, ...]) -> None:
    with pytest.raises(JsonError) as caught:
        parse_json(text)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("open_", ["[", '{"a":'])
@pytest.mark.parametrize("levels", [DEEPEST + 1, 2_000, 100_000])
def test_b15_deep_nesting_is_one_line(open_: str, levels: int) -> None:
    text = open_ * levels + "1" + ("]" if open_ == "[" else "}") * levels
    with pytest.raises(JsonError, match=r"^nested (too deeply|more than \d+ levels deep)$"):
        parse_json(text)


@pytest.mark.parametrize(
    "value",
    [{"a": "👍 \\ud83d [[[ NaN"}, [[[[1.5, None, True]]]], {"b": [{"a": 1}, {"a": 2}]}, "[" * 500, "\\" * 3 + "ud83d"],
)
def test_json_is_read(value: object) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value, ensure_ascii=False)) == value


def test_b16_an_integer_that_python_refuses_is_read_as_its_digits() -> None:
    assert parse_json(f'{{"a": {"7" * 5_000}, "b": -12}}') == {"a": "7" * 5_000, "b": -12}


def test_a14_a_number_beyond_a_float_is_infinite() -> None:
    assert parse_json("[1e999, -1e999]") == [float("inf"), float("-inf")]
