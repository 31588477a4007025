"""ROUGE-L: how much of the reference's words an answer has in the same order."""

import datasets
import evaluate
import numpy
from rouge_score.rouge_scorer import RougeScorer


class RougeL(evaluate.Metric):
    """`compute(predictions=[str], references=[str])` -> `{"rouge_l": mean F-measure in 0..1}`.

    Sentence-level F of the longest common subsequence of words, precision and recall weighing the same, averaged over
    rows: `rouge-score`'s rougeL with `use_stemmer=True` (Lin 2004, section 3.1; the words are runs of a-z and 0-9 in
    lower case, those of more than three letters Porter-stemmed). An answer without any such word counts 0.
    """

    open_only = True

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Mean F-measure of the longest common subsequence of words.",
            citation="",
            inputs_description="predictions, references: strings",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def row_statistics(self, predictions: list[str], references: list[str]) -> numpy.ndarray:
        """Return each row's F-measure, and 1 for its count, (rows, 2)."""
        scorer = RougeScorer(["rougeL"], use_stemmer=True)
        pairs = zip(predictions, references, strict=True)
        return numpy.array([[scorer.score(r, p)["rougeL"].fmeasure, 1] for p, r in pairs], dtype=float)

    def from_sums(self, sums: numpy.ndarray) -> dict[str, float]:
        return {"rouge_l": float(sums[0] / sums[1])}

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return self.from_sums(self.row_statistics(predictions, references).sum(axis=0))
