"""JSON objects as answers: equality, slots, validity, and other answers of a model."""

from __future__ import annotations

from typing import Any

from softprompts.metrics.scoring import compute_metrics, load_metrics

import pytest

GOOD = '{"intent": "light_on", "slots": {"area": "kitchen", "level": 50}}'
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"intent": {"type": "string"}, "slots": {"type": "object"}, "tree": {"$ref": "#/$defs/tree"}},
    "required": ["intent"],
    "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
}


def scores(answers: list[str], targets: list[str], schema: dict[str, Any] | None = None) -> dict[str, float]:
    return compute_metrics(load_metrics(["json_object"], schema), answers, targets)


@pytest.mark.parametrize(
    ("answer", "target", "equal"),
    [
        ('{"slots":{"level":50,\n"area":"kitchen"},"intent":"light_on"}', GOOD, True),
        ('{"a": 1}', '{"a": 1.0}', True),
        ('{"a": 1e2}', '{"a": 100}', True),
        ('{"a": "1"}', '{"a": 1}', False),
        ('{"a": true}', '{"a": 1}', False),
        ('{"a": false}', '{"a": 0}', False),
        ('{"a": [true]}', '{"a": [1]}', False),
        ('{"a": null}', "{}", False),
        ('{"a": [1, 2]}', '{"a": [2, 1]}', False),
        ('{"a": {"b": [null, {"c": 1}]}}', '{"a": {"b": [null, {"c": 1.0}]}}', True),
        ('{"a": {}}', '{"a": []}', False),
        ('{"a": "\\u00e9"}', '{"a": "é"}', True),
        ("[1]", "[1]", False),  # no object
        ("no JSON", "no JSON", False),
    ],
)
def test_exact_match_compares_values(answer: str, target: str, equal: bool) -> None:
    assert scores([answer], [target])["exact_match"] == equal
    assert scores([target], [answer])["exact_match"] == equal


@pytest.mark.parametrize(
    ("answer", "shared", "said"),
    [
        (GOOD, 2, 2),
        ('{"slots": {"level": 50.0}}', 1, 1),
        ('{"slots": {"level": "50", "area": "kitchen", "name": "lamp"}}', 1, 3),
        ('{"slots": {"kitchen": "area"}}', 0, 1),
        ('{"slots": {"area": ["kitchen", "hall"]}}', 1, 2),
        ('{"slots": {"area": ["kitchen", "kitchen"]}}', 1, 2),
        ('{"slots": {"area": [["kitchen"]], "level": {"is": 50}}}', 0, 2),
        ('{"slots": {"area": null}}', 0, 1),
        ('{"slots": {}}', 0, 0),
        ('{"slots": null}', 0, 0),
        ('{"slots": ["area", "kitchen"]}', 0, 0),
        ('{"slots": "area"}', 0, 0),
        ('{"area": "kitchen", "level": 50}', 0, 0),
        ("[" + GOOD + "]", 0, 0),
        (GOOD + ".", 0, 0),
    ],
)
def test_slot_f1_of_one_row(answer: str, shared: int, said: int) -> None:
    assert scores([answer], [GOOD])["slot_f1"] == pytest.approx(2 * shared / (said + 2))


def test_slot_f1_is_over_the_pairs_of_all_rows() -> None:
    answers = ['{"slots": {"a": 1, "b": 2}}', '{"slots": {}}', '{"slots": {"d": 5}}']
    targets = ['{"slots": {"a": 1, "b": 2}}', '{"slots": {"c": 3}}', '{"slots": {}}']
    # Two shared, one missed, one made up.
    assert scores(answers, targets)["slot_f1"] == pytest.approx(2 * 2 / (3 + 3))
    assert scores(["{}"], ["{}"])["slot_f1"] == 0.0  # no pairs to find, counted as in scikit-learn


@pytest.mark.parametrize(
    ("answer", "valid_json", "valid_schema"),
    [
        (GOOD, 1, 1),
        ('{"intent": 5}', 1, 0),
        ('{"slots": {}}', 1, 0),
        ('{"intent": "\\ud800"}', 1, 1),
        ('{"intent": "a", "intent": "b"}', 0, 0),
        ('{"intent": "a", "slots": {"x": 1, "x": 1}}', 0, 0),
        ('{"intent": "a", "slots": {"x": NaN}}', 0, 0),
        ('{"intent": "a", "slots": {"x": -Infinity}}', 0, 0),
        ("{'intent': 'a'}", 0, 0),
        ('{"intent": "a",}', 0, 0),
        ('{"intent": "a"} and so on', 0, 0),
        ('```json\n{"intent": "a"}\n```', 0, 0),
        ('"intent"', 0, 0),
        ("null", 0, 0),
        ("", 0, 0),
    ],
)
def test_validity(answer: str, valid_json: int, valid_schema: int) -> None:
    values = scores([answer], [GOOD], SCHEMA)
    assert (values["valid_json"], values["valid_schema"]) == (valid_json, valid_schema)
    assert scores([answer], [GOOD]) == {k: v for k, v in values.items() if k != "valid_schema"}


@pytest.mark.parametrize(
    "answer",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"intent": "a", "tree": ' + "[" * 400 + "]" * 400 + "}",
        '{"intent": "a", "tree": ' + "[" * 5_000 + "]" * 5_000 + "}",
        '{"intent": ' + "9" * 10_000 + "}",
        '{"intent": 1e999999999}',
        '{"intent": -0.0, "slots": {"a": 1e400, "b": 123456789012345678901234567890}}',
        "\ud800",
        '{"intent": "\ud800"}',
        "\x00",
        "\ufeff{}",
        "{" * 3 + '"',
    ],
)
def test_whatever_a_model_writes_is_scored(answer: str) -> None:
    values = scores([answer, GOOD], [GOOD, GOOD], SCHEMA)
    assert values["exact_match"] == 0.5
    assert all(0 <= value <= 1 for value in values.values())


def test_a_number_too_large_for_the_validator_is_invalid() -> None:
    schema = {"properties": {"a": {"multipleOf": 0.1}}}
    answers = ['{"a": 1e400}', '{"a": 1' + "0" * 400 + "}", '{"a": 0.1}']
    assert scores(answers, [GOOD] * 3, schema)["valid_schema"] == 1 / 3
