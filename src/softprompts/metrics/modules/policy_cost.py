"""Policy cost: the cost of decisions on terms, if some mistakes are worse than others and a person may be asked."""

from softprompts.metrics import base

import numpy

# From the fewest conditions for the one who uses a work to the most.
STRICTNESS = ("public domain", "permissive", "limited copyleft", "copyleft", "proprietary")
# In units of one review by a person. An example of a policy: copy this file, change the three numbers, and name the
# copy in task.metrics.
REVIEW = 1.0  # the model abstained
TOO_STRICT = 3.0  # a person does not use a work although it is allowed, or looks for another one
TOO_LENIENT = 10.0  # terms are broken; an answer that is not a category has the same cost
ABSTAINED = "abstain"  # `evaluation.abstain_below` writes this


class PolicyCost(base.RowMetric):
    """`compute(predictions=[str], references=[str])` -> numbers in 0..1, the larger the better:

    - `cost_score`: 1 less the mean cost of a decision, as a share of the cost of a decision that is too lenient.
    - `coverage`: share of the rows that the model decides, and does not pass on to a person.
    - `decided_accuracy`: share of the decided rows that are right; 1 if none is decided.

    A reference is one of the five categories of `STRICTNESS`; in any other reference all but the same answer is too
    lenient. If probabilities are calibrated, and a wrong decision costs C on average, it pays to abstain below the
    probability 1 - REVIEW / C (Chow 1970, "On optimum recognition error and reject tradeoff").
    """

    open_only = False
    # A model that decides one row, and that right, has 100 % of decided_accuracy. It is not better than others.
    not_compared = ("coverage", "decided_accuracy")

    def row_statistics(self, predictions: list[str], references: list[str]) -> numpy.ndarray:
        """Return each row's 1, cost, whether it is decided, and whether it is decided right, (rows, 4)."""
        rows = []
        for answer, reference in zip(predictions, references, strict=True):
            decided = answer.strip() != ABSTAINED
            right = decided and answer.strip() == reference.strip()
            rows.append([1, cost(answer.strip(), reference.strip()), decided, right])
        return numpy.array(rows, dtype=float)

    def from_sums(self, sums: numpy.ndarray) -> dict[str, float]:
        rows, total, decided, right = sums.tolist()
        return {
            "cost_score": 1 - total / (rows * TOO_LENIENT),
            "coverage": decided / rows,
            "decided_accuracy": right / decided if decided else 1.0,
        }


def cost(answer: str, reference: str) -> float:
    """Return the cost of an answer instead of the terms' category."""
    if answer == reference:
        return 0.0
    if answer == ABSTAINED:
        return REVIEW
    if answer not in STRICTNESS or reference not in STRICTNESS:
        return TOO_LENIENT
    return TOO_STRICT if STRICTNESS.index(answer) > STRICTNESS.index(reference) else TOO_LENIENT
