"""The page and the summary of a comparison."""

from __future__ import annotations

from dataclasses import replace

from softprompts.evaluation.comparison import Contest, Difference
from softprompts.metrics.scoring import Interval
from softprompts.metrics.significance import Comparison
from softprompts.reports.comparison import ONE_RUN, page, summary

BETTER = [
    Difference(f"test.jsonl:{n}", "a | b\n" + "long " * 60, "x", "runs/lora", ("x", "y"), (1.0, 0.0))
    for n in range(1, 13)
]
WORSE = Difference("test.jsonl:13", "c", "x", "base model", ("y", "x"), (0.0, 1.0))
CONTEST = Contest(
    ("runs/lora", "base model"),
    ({"accuracy": Interval(0.9, 0.85, 0.95, 100)}, {"accuracy": Interval(0.79, 0.7, 0.88, 100)}),
    [Comparison("runs/lora", "base model", "accuracy", 0.11, 0.05, 0.17, 0.002, 0.002, 100, (1, 1))],
    "accuracy",
    [*BETTER, WORSE],
    100,
)
VERDICT = (
    "runs/lora is better than base model in accuracy by 0.1100 (95 % interval 0.0500 to 0.1700, p 0.002, 100 rows)"
)
COUNTS = "rows predicted better, by the row's own accuracy: runs/lora on 12, base model on 1; equal on 87"

AT_ANY_TIME = (
    "if you add rows and look again: that one is better more often is shown (largest e-value 660 of 13 rows that "
    "differ; 20 shows it)"
)


def test_summary() -> None:
    assert summary(CONTEST).splitlines() == [
        "runs/lora: accuracy 0.9000 (95 % interval 0.8500 to 0.9500, 100 rows)",
        "base model: accuracy 0.7900 (95 % interval 0.7000 to 0.8800, 100 rows)",
        COUNTS,
        f"verdict: {VERDICT}",
        AT_ANY_TIME,
        ONE_RUN,
    ]


def test_page() -> None:
    text = page(CONTEST, "sentiment, test")
    assert text.startswith(f"# runs/lora and base model on sentiment, test\n\nVerdict: {VERDICT}. {ONE_RUN}\n")
    row = "| accuracy | 0.9000 (0.8500 to 0.9500) | 0.7900 (0.7000 to 0.8800) | +0.1100 (+0.0500 to +0.1700) | 0.002 |"
    assert row in text.splitlines()
    assert COUNTS in text
    assert "## Better with runs/lora: 10 of 12; the others are in `differences.jsonl`" in text
    assert "## Better with base model: 1\n" in text
    assert "| test.jsonl:13 | c | x | y | x |" in text.splitlines()
    (line,) = (line for line in text.splitlines() if line.startswith("| test.jsonl:3 "))
    assert "a \\| b long" in line
    assert line.endswith("... | x | x | y |")
    assert "test.jsonl:11" not in text


def test_a_long_text_without_spaces_keeps_its_beginning() -> None:
    long = Difference("test.jsonl:1", "Review: " + "字" * 300, "y" * 300, "base model", ("z", "y"), (0.0, 1.0))
    text = page(replace(CONTEST, differences=[long]), "sentiment, test")
    assert f"| test.jsonl:1 | Review: {'字' * 188} ... | {'y' * 196} ... | z | y |" in text.splitlines()


def test_a_page_without_differences_has_no_list() -> None:
    same = Contest(CONTEST.names, CONTEST.metrics, CONTEST.comparisons, "accuracy", [], 100)
    assert "##" not in page(same, "sentiment, test")
