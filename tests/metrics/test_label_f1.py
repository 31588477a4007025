"""F1 of sets of labels, by hand and against scikit-learn."""

from __future__ import annotations

import random

from softprompts.metrics.scoring import compute_metrics, load_metrics

import pytest
from sklearn.metrics import f1_score
from sklearn.preprocessing import MultiLabelBinarizer


def scores(answers: list[str], targets: list[str]) -> tuple[float, float]:
    values = compute_metrics(load_metrics(["label_f1"]), answers, targets)
    return values["micro_f1"], values["macro_label_f1"]


@pytest.mark.parametrize(
    ("answers", "targets", "micro", "macro"),
    [
        (["b, a"], ["a, b"], 1.0, 1.0),
        (["b; a;"], ["a, b"], 1.0, 1.0),
        (["a, a, b"], ["a, b"], 1.0, 1.0),
        (["choice of law,  other"], ["other; choice of law"], 1.0, 1.0),
        (["1,5"], ["1, 5"], 0.0, 0.0),  # a comma without a space is part of a label
        (["A"], ["a"], 0.0, 0.0),
        # a: 1; b: never predicted, 0. One shared, one predicted, two expected.
        (["a"], ["a, b"], 2 / 3, 1 / 2),
        # The empty set is a label: right once, predicted twice. a: 0.
        (["none", "none"], ["none", "a"], 2 / 4, (2 / 3 + 0) / 2),
        # What no reference has is a false positive of the micro average alone.
        (["a, zebra"], ["a"], 2 / 3, 1.0),
        (["", ", ;"], ["a", "a"], 0.0, 0.0),
        (["\ud800", "a" * 10_000], ["a", "a"], 0.0, 0.0),
    ],
)
def test_by_hand(answers: list[str], targets: list[str], micro: float, macro: float) -> None:
    assert scores(answers, targets) == (pytest.approx(micro), pytest.approx(macro))


def test_as_lexglue_counts_with_scikit_learn() -> None:
    generator = random.Random(0)
    names = ["arbitration", "choice of law", "other", "jurisdiction"]
    sets = [[set(generator.sample(names, generator.randint(0, 3))) or {"none"} for _ in range(50)] for _ in range(2)]
    binarizer = MultiLabelBinarizer(classes=[*names, "none"])
    said, meant = binarizer.fit_transform(sets[0]), binarizer.transform(sets[1])
    expected = [f1_score(meant, said, average=average, zero_division=0) for average in ("micro", "macro")]
    assert scores(*([", ".join(labels) for labels in part] for part in sets)) == pytest.approx(expected)
