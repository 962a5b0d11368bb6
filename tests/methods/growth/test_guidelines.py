"""The paper's printed numbers: when to grow, and the connection rates of lists of blocks (Du et al. 2024)."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathways_lite.methods.growth import advise, connection_rate, growth_factor, growth_timing
from pathways_lite.recipe import parse_blocks


@pytest.mark.filterwarnings("ignore:the growth guidelines")
@pytest.mark.parametrize(
    ("parameters", "tokens", "billions"),
    [(8e9, 15e12, 6.58), (7e9, 2e12, 11.11), (13e9, 2e12, 15.84), (70e9, 2e12, 42.48)],
)
def test_growth_timing_of_published_models(parameters: float, tokens: float, billions: float) -> None:
    assert round(growth_timing(parameters, 6 * parameters * tokens) / 1e9, 2) == billions


@pytest.mark.filterwarnings("error")
def test_the_fits_warn_outside_their_range_and_are_clipped() -> None:
    assert 1e9 < growth_timing(1.1e9, 8e20) < 0.2 * 8e20 / 6.6e9
    assert advise(1.1e9, 8e20 / 6.6e9).timing == growth_timing(1.1e9, 8e20)
    assert growth_factor(1.1e9, 8e20) > 1
    for function in (growth_timing, growth_factor):
        with pytest.warns(UserWarning, match="are outside"):
            function(1e6, 1e15)
    with pytest.warns(UserWarning, match="are outside"):
        advice = advise(1e6, 1e8)
    assert advice.is_clipped
    assert advice.timing == 2e7, "a toy's base gets at most a fifth of the tokens"
    with pytest.warns(UserWarning, match="are outside"):
        advice = advise(7e9, 2e12)
    assert not advice.is_clipped
    assert (advice.base_parameters, advice.target_flops) == (1.75e9, 8.4e22)
    assert advice.base_flops == 6 * 1.75e9 * advice.timing


@pytest.mark.filterwarnings("ignore:the growth guidelines")
def test_growth_timing_of_the_formula() -> None:
    for N, C, d in ((1.1e9, 5e20, 1.27e10), (4.1e8, 8e19, 1.09e10), (3e9, 1e21, 2.37e10), (7e9, 1.8e22, 1.82e10)):
        assert growth_timing(N, C) == pytest.approx(d, rel=2e-2)


RATES = {
    "123456*4": 20, "12-3456*5-56": 18, "12-345*7-6": 17, "123-456*7": 17, "1-234*7-56": 17, "123*7-456": 17,
    "1234-56*10": 14, "12-34*10-56": 14, "12345678*3": 21,
}  # fmt: skip


@pytest.mark.parametrize(("order", "kept"), RATES.items())
def test_connection_rates_of_the_paper(order: str, kept: int) -> None:
    assert len(parse_blocks(order)) == 24
    assert connection_rate(parse_blocks(order)) == kept / 23


def test_connection_rates_of_stacking_and_interpolation() -> None:
    assert connection_rate([block for block in range(8) for _ in range(3)]) == 7 / 23
    assert connection_rate([0, 1, 2] * 2) == 0.8
    assert connection_rate([0, 0, 1, 1, 2, 2]) == 0.4


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5)), min_size=1, max_size=4))
def test_the_two_notations_agree(parts: list[tuple[int, int, int]]) -> None:
    parts = [(min(a, b), max(a, b), times) for a, b, times in parts]
    digits = "-".join("".join(map(str, range(a, b + 1))) + f"*{times}" for a, b, times in parts)
    ranges = "-".join(f"{a}..{b}*{times}" for a, b, times in parts)
    listed = itertools.chain(*(list(range(a - 1, b)) * times for a, b, times in parts))
    assert parse_blocks(digits) == parse_blocks(ranges) == tuple(listed)


@pytest.mark.parametrize("order", ["", "0", "1-", "3..1", "12*0", "a"])
def test_what_is_no_list_of_blocks_is_refused(order: str) -> None:
    with pytest.raises(ValueError, match="not a list of blocks"):
        parse_blocks(order)
