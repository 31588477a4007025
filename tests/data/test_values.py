"""Names of columns, and values that templates may not show."""

from __future__ import annotations

import datetime
import math
from decimal import Decimal
from typing import Any

from softprompts.data.values import Unread, check_columns, moment_of, plain, trouble
from softprompts.errors import UserError

import numpy
import pandas
import pytest


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["text", "label", "label"], 'here: columns 2 and 3 have one name, "label"'),
        (["label", "text", " label"], 'columns 1 and 3 have names that differ only in surrounding spaces, "label"'),
        (["a\n", "a"], 'columns 1 and 2 have names that differ only in surrounding spaces, "a"'),
    ],
)
def test_a13_columns_that_one_name_would_mean(names: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        check_columns("here", names)
    assert message in str(caught.value)


def test_a13_columns_whose_names_differ_in_case_are_two() -> None:
    check_columns("here", ["Label", "label", "LABEL "])


@pytest.mark.parametrize(
    "value",
    ["", "x", 1, 0.5, True, 10**400, Decimal("1.10"), datetime.date(2024, 5, 31), [1, "a"], {"a": None}, [], {}],
)
def test_values_that_a_template_shows(value: Any) -> None:
    assert trouble(value) is None


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "is null"),
        (float("nan"), "is nan, which is not a value"),
        (float("inf"), "is inf, which is not a value"),
        (-float("inf"), "is -inf, which is not a value"),
        (numpy.float32("nan"), "is nan, which is not a value"),
        (Decimal("NaN"), "is NaN, which is not a value"),
        (pandas.NaT, "is NaT, which is not a value"),
        (b"good", "holds bytes, which are not text; store it as a string"),
        (["a", None], "has an item that is null"),
        ([["a"], [float("nan")]], "has an item that has an item that is nan"),
        ({"a": {"b": float("inf")}}, "has a value that has a value that is inf"),
        ({"a": b"x"}, "has a value that holds bytes"),
        (numpy.zeros(2), "holds a ndarray, which is not text"),
        (Unread("values of the type interval"), "holds values of the type interval, which cannot be read as text"),
    ],
)
def test_a14_values_that_no_template_shows(value: Any, why: str) -> None:
    found = trouble(value)
    assert found is not None
    assert found.startswith(why)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.50, "1.5"),
        (Decimal("1.50"), "1.50"),
        (True, "True"),
        (datetime.date(2024, 5, 31), "2024-05-31"),
        (datetime.datetime(2024, 5, 31, 12, 30, tzinfo=datetime.UTC), "2024-05-31 12:30:00+00:00"),
        (float(numpy.float32(0.1)), "0.10000000149011612"),
        ({"a": Decimal("1.50")}, '{"a": "1.50"}'),
    ],
)
def test_what_is_shown_of_numbers_and_dates(value: Any, text: str) -> None:
    assert str(plain(value)) == text


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("2026-05-31", "2026-05-31T00:00:00+00:00"),
        ("2026/05/31", "2026-05-31T00:00:00+00:00"),
        ("2026/5/1 12:30", "2026-05-01T12:30:00+00:00"),
        ("2026-05", "2026-05-01T00:00:00+00:00"),
        ("2026-05-31 12:30:00 UTC", "2026-05-31T12:30:00+00:00"),
        ("2026-05-31 12:30:00 +0200", "2026-05-31T12:30:00+02:00"),
        ("Sun, 31 May 2026 12:30:00 +0000", "2026-05-31T12:30:00+00:00"),
        (datetime.date(2026, 5, 31), "2026-05-31T00:00:00+00:00"),
        (datetime.datetime(2026, 5, 31, 12, 30), "2026-05-31T12:30:00+00:00"),
        (2026, "2026-01-01T00:00:00+00:00"),
        ("20260531", "2026-05-31T00:00:00+00:00"),
        (1_780_230_600, "2026-05-31T12:30:00+00:00"),
        (1_780_230_600_000, "2026-05-31T12:30:00+00:00"),
        ("1780230600000", "2026-05-31T12:30:00+00:00"),
        (1_780_230_600_000_000, "2026-05-31T12:30:00+00:00"),
    ],
)
def test_a_point_in_time_has_many_forms(value: Any, moment: str) -> None:
    assert moment_of(value) == datetime.datetime.fromisoformat(moment)


@pytest.mark.parametrize(
    "value",
    [
        *(0, 7, 19, 202405, 20241332, 99_999_999, 202405311230, -1, True, None, math.inf, 1e300, "7", "", "last week"),
        *("31.05.2026", "05/06/2026", "31-05-2026 12:30", "2026-13-01", "May 2026", "12345678Z", [2026]),
    ],
)
def test_another_value_is_no_time(value: Any) -> None:
    with pytest.raises(ValueError, match=r".+"):
        moment_of(value)
