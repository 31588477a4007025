"""Final number: the share of answers that end on the reference's number."""

import re
from decimal import Decimal

from softprompts.metrics import base

# A minus counts unless it stands behind a word or a bracket, as in "10-7"; a comma counts between thousands.
NUMBER = re.compile(r"(?:(?<![\w)])([-−]\$?|\$[-−]))?(\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d*\.?\d+)")


class FinalNumber(base.RowMean):
    """`compute(predictions=[str], references=[str])` -> `{"final_number": share in 0..1}`.

    The last number of the answer equals the last number of the reference by value: "72", "72.0", "$72." and "72 %" are
    the same. So are answers to GSM8K scored, whose references end on "#### 72" (Cobbe et al. 2021), and MetaMath's,
    which end on "The answer is: 72" (Yu et al. 2023). A fraction is two numbers, and an exponent is one of its own.
    Where answer or reference has no number the row counts 0.
    """

    open_only = True
    number = "final_number"

    def row_values(self, predictions: list[str], references: list[str]) -> list[float]:
        pairs = zip(map(_last_number, predictions), map(_last_number, references), strict=True)
        return [answer is not None and answer == reference for answer, reference in pairs]


def _last_number(text: str) -> Decimal | None:
    found = NUMBER.findall(text)
    if not found:
        return None
    sign, digits = found[-1]
    value = Decimal(digits.replace(",", ""))
    return value.copy_negate() if sign else value  # a plain minus would round to 28 digits
