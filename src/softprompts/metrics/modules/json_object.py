"""JSON objects: exact match, F1 of slots, and validity of the predictions."""

import json
from collections import Counter
from typing import Any

from softprompts.metrics import base

import numpy
from jsonschema import Draft202012Validator
from referencing import Registry


class JsonObject(base.RowMetric):
    """`compute(predictions=[str], references=[str], schema=None)` -> numbers in 0..1:

    - `exact_match`: share of predictions whose parsed value equals the reference's. Order of keys and white space do
    not
      count and 1 equals 1.0, but 1 equals neither "1" nor true.
    - `slot_f1`: micro F1 over the pairs of slot and value in the object under the key "slots", as in slot filling; a
      list is one pair per item; deeper levels are one value. A prediction without such an object has no pairs.
    - `valid_json`: share of predictions that are one JSON object (RFC 8259) and nothing else: no text around it, no key
      twice, no NaN or Infinity.
    - `valid_schema`: share that is valid against `schema` (JSON Schema 2020-12) as well; left out without a schema.

    If a reference is not a JSON object, its row counts as wrong. References of a schema are never downloaded.
    """

    def row_statistics(
        self, predictions: list[str], references: list[str], schema: dict[str, Any] | None = None
    ) -> numpy.ndarray:
        """Return per row: 1, match, slots matched, predicted and expected, valid JSON and schema, (rows, 6 or 7)."""
        validator = None if schema is None else Draft202012Validator(schema, registry=Registry())
        rows = []
        for answer, reference in zip(map(parsed, predictions), map(parsed, references), strict=True):
            said, meant = _slots(answer), _slots(reference)
            slots = [(said & meant).total(), said.total(), meant.total()]
            right = answer is not None and reference is not None and frozen(answer) == frozen(reference)
            row = [1, right, *slots, answer is not None]
            rows.append(row if validator is None else [*row, is_valid(answer, validator)])
        return numpy.array(rows, dtype=float)

    def from_sums(self, sums: numpy.ndarray) -> dict[str, float]:
        rows, right, shared, said, meant, objects, *valid = sums.tolist()
        return {
            "exact_match": right / rows,
            "slot_f1": 2 * shared / max(said + meant, 1),
            "valid_json": objects / rows,
            **({"valid_schema": valid[0] / rows} if valid else {}),
        }


def parsed(text: str) -> dict[str, Any] | None:
    """Return a text as a JSON object; None if it is not one."""
    try:
        value = json.loads(text, parse_constant=_refuse, object_pairs_hook=_object)
        frozen(value)
    except (ValueError, RecursionError):  # RecursionError: nested too deeply for comparisons
        return None
    return value if isinstance(value, dict) else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key appears twice")
    return dict(pairs)


def frozen(value: Any) -> Any:
    """Return a hashable value that compares as in JSON: true is not 1, and 1 is 1.0."""
    if isinstance(value, dict):
        return "object", frozenset((k, frozen(v)) for k, v in value.items())
    if isinstance(value, list):
        return "list", tuple(frozen(v) for v in value)
    return "bool" if isinstance(value, bool) else "scalar", value


def _slots(value: dict[str, Any] | None) -> Counter[Any]:
    slots = None if value is None else value.get("slots")
    pairs = slots.items() if isinstance(slots, dict) else ()
    return Counter((name, frozen(v)) for name, given in pairs for v in (given if isinstance(given, list) else [given]))


def is_valid(value: dict[str, Any] | None, validator: Draft202012Validator) -> bool:
    """Return whether there is an object, and it is valid."""
    try:
        return value is not None and validator.is_valid(value)
    except (RecursionError, ArithmeticError):  # a value too deep or too large for the validator
        return False
