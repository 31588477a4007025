"""Required mentions and further references, which metrics get from `task.metric_data`."""

from __future__ import annotations

from typing import Any

from softprompts.errors import UserError
from softprompts.metrics.scoring import check_metrics, check_reach, compute_metrics, intervals, load_metrics

import pytest
from sacrebleu.metrics import BLEU, CHRF

DATA = {
    "Zelle %s löschen": {"mentions": [["Zelle", "Zellen"], ["%s"]]},
    "the cat sat on a mat": {"references": ["a cat was sitting on the mat", "on the mat the cat sat"]},
}


def scores(answers: list[str], targets: list[str], data: Any = DATA) -> dict[str, float]:
    return compute_metrics(load_metrics(["mentions"], data=data), answers, targets)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("Zelle %s löschen", 2),
        ("Die zellen, %s!", 2),
        ("Zellentyp %s", 1),  # the word continues
        ("Zelle %d", 1),
        ("", 0),
        ("Zelle\n%sx", 1),  # %s ends in a letter, and another one follows
    ],
)
def test_forms_count_as_whole_words(answer: str, found: int) -> None:
    expected = {"mention_rate": found / 2, "all_mentioned": float(found == 2)}
    assert scores([answer], ["Zelle %s löschen"]) == pytest.approx(expected)


def test_the_rate_is_over_all_mentions_and_rows_without_any_are_complete() -> None:
    found = scores(["Zelle", "anything"], ["Zelle %s löschen", "unknown"])
    assert found == pytest.approx({"mention_rate": 1 / 2, "all_mentioned": 1 / 2})
    assert scores(["x"], ["unknown"]) == {"mention_rate": 1.0, "all_mentioned": 1.0}
    assert scores(["x"], ["Zelle %s löschen"], data=None) == {"mention_rate": 1.0, "all_mentioned": 1.0}


def test_bleu_and_chrf_count_further_references_as_sacrebleu_does() -> None:
    answers = ["the cat was sitting on a mat", "dogs run", "on the mat the cat sat"]
    targets = ["the cat sat on a mat", "dogs ran to the mat", "the cat sat on a mat"]
    more = DATA["the cat sat on a mat"]["references"]
    streams: list[Any] = [targets, [more[0], None, more[0]], [more[1], None, more[1]]]
    found = compute_metrics(load_metrics(["bleu", "chrf"], data=DATA), answers, targets)
    assert found["bleu"] == pytest.approx(BLEU().corpus_score(answers, streams).score / 100)
    assert found["chrf"] == pytest.approx(CHRF().corpus_score(answers, streams).score / 100)
    assert found["chrf"] > compute_metrics(load_metrics(["chrf"]), answers, targets)["chrf"]
    interval = intervals(load_metrics(["chrf"], data=DATA), answers, targets, 20)["chrf"]
    assert interval.low < interval.value < interval.high


@pytest.mark.parametrize(
    "entry",
    ["text", {"references": "one"}, {"references": [1]}, {"mentions": ["a"]}, {"mentions": [[]]}, {"mentions": [[2]]}],
)
def test_an_entry_of_another_form_is_one_line(entry: Any) -> None:
    with pytest.raises(
        UserError, match=r'^task.metrics: "mentions" fails on the targets: task.metric_data: "a": expected'
    ):
        check_reach(["mentions"], None, [("row 1", " a")], {"a": entry})


def test_data_that_no_metric_reads_are_refused() -> None:
    with pytest.raises(UserError, match=r"^task.metric_data: none of task.metrics reads it; add mentions"):
        check_metrics(["rouge_l"], False, DATA)
    check_metrics(["rouge_l", "bleu"], False, DATA)
