"""BLEU: precision of the answers' word n-grams, with a penalty for brevity."""

import datasets
import evaluate
import numpy
from sacrebleu.metrics import BLEU


class Bleu(evaluate.Metric):
    """`compute(predictions=[str], references=[str])` -> `{"bleu": score in 0..1}`.

    Corpus BLEU of `sacrebleu` at its defaults, divided by 100: word n-grams up to 4, tokenizer 13a, case counts,
    exponential smoothing of orders without a match (Papineni et al. 2002; Post 2018). Counts are summed over the rows
    before precisions are taken, so that it is no mean over rows.
    """

    open_only = True

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Corpus BLEU over word n-grams.",
            citation="",
            inputs_description="predictions, references: strings",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def row_statistics(self, predictions: list[str], references: list[str]) -> numpy.ndarray:
        """Return each row's lengths of answer and reference, n-grams matched and said of each order, (rows, 10)."""
        return numpy.array(BLEU()._extract_corpus_statistics(predictions, [references]), dtype=float)

    def from_sums(self, sums: numpy.ndarray) -> dict[str, float]:
        score = BLEU()._compute_score_from_stats(sums.tolist()).score / 100
        return {"bleu": min(score, 1.0)}  # rounding can carry it beyond

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return self.from_sums(self.row_statistics(predictions, references).sum(axis=0))
