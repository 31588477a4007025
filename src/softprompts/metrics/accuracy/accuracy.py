"""Accuracy: the share of predictions that equal their reference."""

import datasets
import evaluate
import numpy


class Accuracy(evaluate.Metric):
    """`compute(predictions=[str], references=[str])` -> `{"accuracy": share in 0..1}`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of predictions that equal their reference.",
            citation="",
            inputs_description="predictions, references: strings",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {"accuracy": float(numpy.mean(numpy.asarray(predictions) == numpy.asarray(references)))}
