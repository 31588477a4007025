"""Final number: the share of predictions whose last number is the reference's."""

import re
from decimal import Decimal

from softprompts.metrics import base

SIGN = r"(?:(?<![\w)])([-−]\$?|\$[-−]))?"  # a minus counts unless it follows a word or a bracket, as in "10-7"
THOUSANDS = r"(?!0+,)\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?"  # 1,234 and 1,234.5
# 1.234,5 and 1.234.567 and 3,5; several commas, as in "1,2,72", separate the numbers of a list.
DECIMAL_COMMA = r"(?<!\d,)(?:\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,}|\d+,\d+)(?!\d|[.,]\d)"
NUMBER = re.compile(rf"{SIGN}(?:({THOUSANDS})|({DECIMAL_COMMA})|(\d*\.?\d+))")


class FinalNumber(base.MeanMetric):
    """`compute(predictions=[str], references=[str])` -> `{"final_number": share in 0..1}`.

    The last number of the prediction equals the last number of the reference by value: "72", "72.0", "$72." and "72 %"
    are the same. GSM8K, whose references end in "#### 72" (Cobbe et al. 2021), and MetaMath, whose references end in
    "The answer is: 72" (Yu et al. 2023), are scored in this way. A fraction is two numbers, and an exponent is a
    separate number. If prediction or reference has no number, the row counts 0.

    A comma separates thousands if exactly three digits follow it, as in "1,234" and "1,234.5". Otherwise a single comma
    is a decimal comma: "3,5" is 3.5, "0,125" is 0.125 and "1.234,56" is 1234.56. Several commas without thousands, as
    in "1,2,72", separate the numbers of a list. A space always separates numbers.
    """

    number = right_answers = "final_number"

    def score(self, prediction: str, reference: str) -> float:
        answer = _last_number(prediction)
        return answer is not None and answer == _last_number(reference)


def _last_number(text: str) -> Decimal | None:
    found = NUMBER.findall(text)
    if not found:
        return None
    sign, thousands, decimal_comma, other = found[-1]
    digits = thousands.replace(",", "") or decimal_comma.replace(".", "").replace(",", ".") or other
    value = Decimal(digits)
    return value.copy_negate() if sign else value  # a plain minus would round to 28 digits
