"""Final number: the share of predictions whose last number is the reference's."""

import re
from decimal import Decimal

from softprompts.metrics import base

# A minus counts unless it follows a word or a bracket, as in "10-7"; a comma counts between thousands.
NUMBER = re.compile(r"(?:(?<![\w)])([-−]\$?|\$[-−]))?(\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d*\.?\d+)")


class FinalNumber(base.MeanMetric):
    """`compute(predictions=[str], references=[str])` -> `{"final_number": share in 0..1}`.

    The last number of the prediction equals the last number of the reference by value: "72", "72.0", "$72." and "72 %"
    are the same. GSM8K, whose references end in "#### 72" (Cobbe et al. 2021), and MetaMath, whose references end in
    "The answer is: 72" (Yu et al. 2023), are scored in this way. A fraction is two numbers, and an exponent is a
    separate number. If prediction or reference has no number, the row counts 0.
    """

    number = "final_number"

    def score(self, prediction: str, reference: str) -> float:
        answer = _last_number(prediction)
        return answer is not None and answer == _last_number(reference)


def _last_number(text: str) -> Decimal | None:
    found = NUMBER.findall(text)
    if not found:
        return None
    sign, digits = found[-1]
    value = Decimal(digits.replace(",", ""))
    return value.copy_negate() if sign else value  # a plain minus would round to 28 digits
