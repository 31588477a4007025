"""A user's metric without a number for some rows: Cohen's kappa, which is 0/0 if chance explains every answer."""

from __future__ import annotations

from pathlib import Path

KAPPA = """
import datasets
import evaluate


class Kappa(evaluate.Metric):
    def _info(self):
        kinds = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})
        return evaluate.MetricInfo(description="", citation="", features=kinds)

    def _compute(self, predictions, references):
        WHEN_ALONE
        rows = len(references)
        agreed = sum(p == r for p, r in zip(predictions, references)) / rows
        chance = sum(predictions.count(name) * references.count(name) for name in set(references)) / rows**2
        return {"kappa": (agreed - chance) / (1 - chance) if chance < 1 else float("nan")}
"""


def kappa(folder: Path, alone: str = "pass") -> str:
    """Write the module, and return its path; `alone` is a statement that may refuse a single row."""
    file = folder / "kappa.py"
    file.write_text(KAPPA.replace("WHEN_ALONE", alone), encoding="utf-8")
    return str(file)
