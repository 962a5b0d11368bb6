"""Numbers as people read them: a zero is a zero."""

import math

import pytest

from pathways_lite.intervals import Interval, plain


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (-0.0, ".1f", "0.0"), (-0.04, ".1f", "0.0"), (-0.06, ".1f", "-0.1"), (-0.0, ".5g", "0"),
        (-1e-9, "+.2%", "+0.00%"), (-0.012, "+.1%", "-1.2%"), (1e-12, ".3g", "1e-12"), (math.inf, ".3g", "inf"),
    ],
)  # fmt: skip
def test_a_rounded_zero_has_no_sign(value: float, form: str, text: str) -> None:
    assert plain(value, form) == text


def test_functions_format_too() -> None:
    assert plain(-0.0004, lambda share: f"{100 * share:.1f}") == "0.0"


def test_what_is_nothing_beside_the_other_numbers_is_zero() -> None:
    """The least loss of a fit is not negative; its limit is met but for rounding."""
    assert Interval(1.69, -7.8e-12, 1.72).texts() == ("1.69", "0", "1.72")
    assert Interval(-1.69, -1.72, 7.8e-12).texts() == ("-1.69", "-1.72", "0")
    assert Interval(3e-12, 1e-12, 7e-12).texts(".2g") == ("3e-12", "1e-12", "7e-12")


def test_limits_may_be_decades_apart() -> None:
    """Of a coefficient that few runs leave open, as of a law of parameters: neither it nor its limit is 0."""
    assert Interval(2.349e15, 1e3, 6.1e73).texts(".4g") == ("2.349e+15", "1000", "6.1e+73")
    assert Interval(176.89, 3e-20, 1.9e68).texts() == ("176.89", "3e-20", "1.9e+68")


def test_limits_that_there_are_not_are_left_out() -> None:
    assert Interval(2.0).texts(missing="–") == ("2", "–", "–")
    assert Interval(2.0, -math.inf, math.inf).texts() == ("2", "-inf", "inf")
