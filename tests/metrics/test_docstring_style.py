"""The rules of a docstring's summary, one by one, and their share."""

from __future__ import annotations

import importlib

from softprompts.metrics.scoring import compute_metrics, load_metrics

import pytest

style = importlib.import_module("softprompts.metrics.modules.docstring_style")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("Return the x.", None),
        ("  Return the x.\n", None),
        ("Transpose.", None),
        ("Fit, then predict.", None),
        ("Fast-forward the sequence by `n` positions.", None),
        ("Compute numpy.linalg.norm(x, ord=2.0) for each row.", None),
        ("", "one line"),
        (" \n ", "one line"),
        ("Return the x.\nIt is y.", "one line"),
        ("Return the x.\u2028It is y.", "one line"),
        ("Return " + "x" * 71 + ".", None),  # 79 characters
        ("Return " + "x" * 72 + ".", "length"),
        ("Return the x. " * 800, "length"),
        ("Returns the x.", "imperative"),
        ("Returning the x.", "imperative"),
        ("return the x.", "imperative"),
        ("RETURN the x.", "imperative"),
        ("The x.", "imperative"),
        ("This function returns the x.", "imperative"),
        ("`norm` returns the x.", "imperative"),
        ('"Return the x."', "imperative"),
        ("Return: the x.", "imperative"),
        ("Frobnicate the x.", "imperative"),  # no word of the list
        ("Estimate of the error.", "imperative"),
        ("List is empty.", "imperative"),
        ("Réturn the x.", "imperative"),
        ("返す。", "imperative"),
        ("...", "imperative"),
        ("Return the x", "full stop"),
        ("Return the x..", "full stop"),
        ("Return the x...", "full stop"),
        ("Return the x…", "full stop"),
        ("Return the x!", "full stop"),
        ("Return the x.)", "full stop"),
        ("Return the x。", "full stop"),
        ("Return e.g. the x.", None),
        ("Return the x (i.e. y), z etc.", None),
        ("Return the naïve Hölder mean – of “x”.", None),
        ("Return the x. Then the y.", "one sentence"),
        ("Return the x (or y.) as z.", "one sentence"),
        ("Return the x! Then the y.", "one sentence"),
        ("Return the x?.", "one sentence"),
        ("Return x。Return y.", "one sentence"),
    ],
)
def test_broken_rule(text: str, rule: str | None) -> None:
    assert style.broken_rule(text) == rule
    assert rule is None or rule in style.RULES


def test_verbs_are_base_forms() -> None:
    assert [verb for verb in style.VERBS if verb != verb.lower() or verb.endswith(("ing", "ed"))] == []
    # A third person would be accepted if its base form were next to it: "returns" and "return".
    assert {verb for verb in style.VERBS if {verb + "s", verb + "es", verb[:-1] + "ies"} & style.VERBS} == set()


def test_style_rate() -> None:
    answers = ["Return the x.", "Returns the x.", "", "Compute the y."]
    assert compute_metrics(load_metrics(["docstring_style"]), answers, ["Return the z."] * 4) == {"style_rate": 0.5}
