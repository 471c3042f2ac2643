"""Integers from requests and messages: read once, and bounded."""

from __future__ import annotations

import pytest

from broker import integers
from broker.clock import DAY_MS
from broker.refusals import BadRequest
from master.web.keys import parameters


@pytest.mark.parametrize(
    ("text", "number"), [("0", 0), ("7", 7), ("007", 7), ("9223372036854775807", integers.MAX), ("0" * 18 + "1", 1)]
)
def test_digits_become_a_number(text: str, number: int) -> None:
    assert integers.parse(text) == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1",
        "+1",
        " 1",
        "1 ",
        "1_000",
        "1.0",
        "1e3",
        "٣",
        "²",
        "x",
        "9223372036854775808",
        "0" * 21 + "1",
        "0" * 9 + "9" * 13,
        "1" * 5_000,
        "0" * 4_999 + "1",
    ],
)
def test_anything_else_is_refused_and_shown_in_short(text: str) -> None:
    with pytest.raises(ValueError, match="is no integer from 0 to 9223372036854775807") as caught:
        integers.parse(text)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize(
    "value", [True, 1.0, "1", None, [], -1, 1 << 63, 10**5_000, b"1"], ids=lambda value: type(value).__name__
)
def test_a_field_that_is_no_integer_within_bounds_is_refused_and_shown_in_short(value: object) -> None:
    with pytest.raises(ValueError, match="is no integer from 0 to") as caught:
        integers.bounded(value)
    assert len(str(caught.value)) < 140
    assert integers.bounded(5, 5, 5) == 5


@pytest.mark.parametrize("days", ["0", "36501", "0" * 9 + "1" * 13, "0000000001" + "0" * 12, "1" * 5_000])
def test_a_lifetime_is_what_was_checked(days: str) -> None:
    with pytest.raises(BadRequest, match="is no number of days"):
        parameters.lifetime({"temporal": days})
    assert parameters.lifetime({"temporal": "0036500"}) == 36_500 * DAY_MS
