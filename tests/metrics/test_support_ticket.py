"""Tickets: right values by field, urgent tickets that are found, and validity."""

from __future__ import annotations

import json

from softprompts.metrics.scoring import compute_metrics, load_metrics

SCHEMA = {"properties": {"queue": {"enum": ["cards", "fraud"]}}, "required": ["queue", "priority", "answer"]}


def ticket(queue: str, priority: str, answer: str) -> str:
    return json.dumps({"queue": queue, "priority": priority, "answer": answer})


def scores(answers: list[str], targets: list[str]) -> dict[str, float]:
    return compute_metrics(load_metrics(["support_ticket"], SCHEMA), answers, targets)


def test_each_field_counts_by_itself() -> None:
    stolen, pin = ticket("fraud", "high", "stolen"), ticket("cards", "low", "pin")
    answers = [
        json.dumps(dict(reversed(json.loads(stolen).items()))),  # the order does not count
        ticket("fraud", "low", "pin"),
        ticket("cash", "low", "pin"),  # no queue of the schema
        f"{pin} and more",
    ]
    assert scores(answers, [stolen, stolen, pin, pin]) == {
        "exact_match": 1 / 4,
        "queue_accuracy": 2 / 4,
        "priority_accuracy": 2 / 4,
        "answer_accuracy": 2 / 4,
        "high_recall": 1 / 2,
        "valid_schema": 2 / 4,
    }


def test_without_urgent_tickets_none_is_missed() -> None:
    pin = ticket("cards", "low", "pin")
    assert scores([pin], [pin])["high_recall"] == 1
    assert scores(["no"], ["no"])["exact_match"] == 0
