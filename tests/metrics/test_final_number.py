"""The last number of an answer, in the ways that numbers are written."""

from __future__ import annotations

from softprompts.metrics.scoring import compute_metrics, load_metrics

import pytest


@pytest.mark.parametrize(
    ("answer", "target", "right"),
    [
        ("5 + 67 = 72\n#### 72", "so 72 clips.\n#### 72", True),
        ("The answer is: 72", "#### 72", True),
        ("72.0", "#### 72", True),
        ("072", "#### 72", True),
        ("It costs $72.", "#### 72", True),
        ("72%", "#### 72", True),
        ("72, I think", "#### 72", True),
        ("first 72, then 5", "#### 72", False),
        ("7.2", "#### 72", False),
        ("1,072", "#### 1072", True),
        ("$1,234,567.50", "#### 1234567.5", True),
        ("1,2,72", "#### 72", True),  # a list, no thousands
        ("4,5", "3,5", False),  # a decimal comma
        ("3,5", "#### 3.5", True),
        ("it is 3,50 €.", "3,5", True),
        ("-3,5", "#### -3.5", True),
        ("5", "3,5", False),
        ("0,125", "#### 0.125", True),
        ("125", "0,125", False),
        ("1234,567", "#### 1234.567", True),
        ("1,2345", "#### 1.2345", True),
        ("1.234,56", "#### 1234.56", True),
        ("9.234,56", "1.234,56", False),
        ("1.234.567", "#### 1234567", True),
        ("1.234", "#### 1.234", True),
        ("1,234", "#### 1.234", False),  # thousands
        ("1,234, and so on", "#### 1234", True),
        ("1.5,2.5", "#### 2.5", True),  # a list
        ("1.234," * 50_000, "#### 1.234", True),
        ("1.234" + ".567" * 50_000 + ".8", "#### .8", True),
        (".5", "The answer is: 0.5", True),
        ("-3", "#### -3", True),
        ("−3", "#### -3", True),
        ("-$3", "#### -3", True),
        ("$-3.00", "#### -3", True),
        ("3", "#### -3", False),
        ("10-3", "#### 3", True),
        ("(10)-3", "#### 3", True),
        ("x = -3", "#### -3", True),
        ("-0", "#### 0", True),
        ("1/2", "#### 2", True),  # two numbers, the last counts
        ("seventy-two", "#### 72", False),
        ("", "#### 72", False),
        ("-", "#### 72", False),
        ("none", "none", False),
        ("0.1000000000000000000000000000001", "#### 0.1", False),
        ("-1000000000000000000000000000000001", "#### -1000000000000000000000000000000000", False),
        ("9" * 50_000, "#### 72", False),
        ("1," * 50_000, "#### 1", True),
        ("\ud80072", "#### 72", True),
        ("٧٢", "#### 72", True),  # digits of any script
    ],
)
def test_final_number(answer: str, target: str, right: bool) -> None:
    values = compute_metrics(load_metrics(["final_number"]), [answer], [target])
    assert values == {"final_number": float(right)}
