"""JSON objects: exact match, F1 of slots, and validity of the predictions."""

from collections import Counter
from typing import Any

from softprompts.metrics import base, json_objects

import numpy
from jsonschema import Draft202012Validator
from referencing import Registry


class JsonObject(base.RowMetric):
    """`compute(predictions=[str], references=[str], schema=None)` -> numbers in 0..1:

    - `exact_match`: share of predictions whose parsed value equals the reference's. Order of keys and white space do
      not count. 1 equals 1.0, but neither "1" nor true.
    - `slot_f1`: micro F1 over the pairs of slot and value in the object under the key "slots", as in slot filling; a
      list is one pair per item; deeper levels are one value. A prediction without such an object has no pairs.
    - `valid_json`: share of predictions that are one JSON object (RFC 8259) and nothing else: no text around it, no key
      twice, no NaN or Infinity.
    - `valid_schema`: share that is valid against `schema` (JSON Schema 2020-12) as well; left out without a schema.

    If a reference is not a JSON object, its row counts as wrong. References of a schema are never downloaded.
    """

    right_answers = "exact_match"

    def row_statistics(
        self, predictions: list[str], references: list[str], schema: dict[str, Any] | None = None
    ) -> numpy.ndarray:
        """Return per row: 1, match, slots matched, predicted and expected, valid JSON and schema, (rows, 6 or 7)."""
        validator = None if schema is None else Draft202012Validator(schema, registry=Registry())
        rows = []
        for answer, reference in zip(
            map(json_objects.parsed, predictions), map(json_objects.parsed, references), strict=True
        ):
            said, meant = _slots(answer), _slots(reference)
            slots = [(said & meant).total(), said.total(), meant.total()]
            right = (
                answer is not None
                and reference is not None
                and json_objects.frozen(answer) == json_objects.frozen(reference)
            )
            row = [1, right, *slots, answer is not None]
            rows.append(row if validator is None else [*row, json_objects.is_valid(answer, validator)])
        return numpy.array(rows, dtype=float)

    def from_sums(self, sums: numpy.ndarray) -> dict[str, float]:
        rows, right, shared, said, meant, objects, *valid = sums.tolist()
        return {
            "exact_match": right / rows,
            "slot_f1": 2 * shared / max(said + meant, 1),
            "valid_json": objects / rows,
            **({"valid_schema": valid[0] / rows} if valid else {}),
        }


def _slots(value: dict[str, Any] | None) -> Counter[Any]:
    slots = None if value is None else value.get("slots")
    pairs = slots.items() if isinstance(slots, dict) else ()
    return Counter(
        (name, json_objects.frozen(v)) for name, given in pairs for v in (given if isinstance(given, list) else [given])
    )
