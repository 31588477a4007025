"""Mentions: whether answers contain the terms, values or placeholders that they must contain."""

import re
from functools import cache
from typing import Any

from softprompts.metrics import base

import numpy


class Mentions(base.RowMetric):
    """`compute(predictions=[str], references=[str], data=None)` -> numbers in 0..1:

    - `mention_rate`: share of the required mentions that the answers contain, over all rows; 1 if none is required.
    - `all_mentioned`: share of the rows whose answer contains all that is required of it.

    `data` has them under the row's reference: `{"reference": {"mentions": [["cell", "cells"], ["%s"]]}}` requires one
    of "cell" and "cells", and "%s". A form counts as contained if it occurs as a whole word or phrase; case does not
    count. Without `data`, or if a reference has no mentions there, nothing is required of the row.
    """

    def row_statistics(
        self, predictions: list[str], references: list[str], data: dict[str, Any] | None = None
    ) -> numpy.ndarray:
        """Return each row's 1, mentions that are required and contained, and whether all are, (rows, 4)."""
        rows = []
        for answer, reference in zip(predictions, references, strict=True):
            required = base.entry_of(reference, data).get("mentions", ())
            found = sum(any(_pattern(form).search(answer) is not None for form in forms) for forms in required)
            rows.append([1, len(required), found, found == len(required)])
        return numpy.array(rows, dtype=float)

    def from_sums(self, sums: numpy.ndarray) -> dict[str, float]:
        rows, required, found, complete = sums.tolist()
        return {"mention_rate": found / required if required else 1.0, "all_mentioned": complete / rows}


@cache
def _pattern(form: str) -> re.Pattern[str]:
    """Return a pattern for a form as a whole word: no letter, digit or underscore may continue its own."""
    before, after = (r"(?<!\w)" if re.match(r"\w", form) else ""), (r"(?!\w)" if re.search(r"\w\Z", form) else "")
    return re.compile(before + re.escape(form) + after, re.IGNORECASE)
