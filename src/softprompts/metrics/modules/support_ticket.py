"""Support ticket: exact match of a JSON ticket, and the shares of right queues, priorities and answers."""

from typing import Any

from softprompts.metrics import base, json_objects

import numpy
from jsonschema import Draft202012Validator
from referencing import Registry

# The keys of a ticket. For tickets of your own, copy this file, change these lines, and name the copy in task.metrics.
FIELDS = ("queue", "priority", "answer")
URGENT = ("priority", "high")


class SupportTicket(base.RowMetric):
    """`compute(predictions=[str], references=[str], schema=None)` -> numbers in 0..1:

    - `exact_match`: share of tickets that are right as a whole, as JSON.
    - `queue_accuracy`, `priority_accuracy`, `answer_accuracy`: shares of tickets with the right value.
    - `high_recall`: share of the tickets of high priority that are predicted as such; 1 if there are none.
    - `valid_schema`: share of predictions that are one JSON object, and valid against `schema`; without a schema, the
      share of JSON objects.
    """

    right_answers = "exact_match"

    def row_statistics(
        self, predictions: list[str], references: list[str], schema: dict[str, Any] | None = None
    ) -> numpy.ndarray:
        """Return per row: 1, match, right values by field, urgent, urgent and found, valid, (rows, 8)."""
        validator = Draft202012Validator({} if schema is None else schema, registry=Registry())
        rows = []
        pairs = zip(map(json_objects.parsed, predictions), map(json_objects.parsed, references), strict=True)
        for answer, reference in pairs:
            said, meant = answer or {}, reference or {}
            right = [name in meant and said.get(name) == meant[name] for name in FIELDS]
            urgent = meant.get(URGENT[0]) == URGENT[1]
            found = urgent and said.get(URGENT[0]) == URGENT[1]
            match = json_objects.equal(answer, reference)
            rows.append([1, match, *right, urgent, found, json_objects.is_valid(answer, validator)])
        return numpy.array(rows, dtype=float)

    def from_sums(self, sums: numpy.ndarray) -> dict[str, float]:
        rows, match, *right, urgent, found, valid = sums.tolist()
        return {
            "exact_match": match / rows,
            **{f"{name}_accuracy": count / rows for name, count in zip(FIELDS, right, strict=True)},
            "high_recall": found / urgent if urgent else 1.0,
            "valid_schema": valid / rows,
        }
