"""Rounding to nearest: known answers, the grid holds 0, groups with a remainder, bits that are paid for."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from pathways_lite.errors import UserError
from pathways_lite.methods.quantization import Quantization, effective_bits, quantize_nearest
from pathways_lite.methods.quantization.nearest import fit_grid, group_rows
from pathways_lite.recipe import Model


def kernel(seed: int, n: int, m: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, m)).astype(np.float32)


def test_known_answer() -> None:
    weights = np.float32([[-1], [0], [0.5], [1]])
    quantized = quantize_nearest(weights, bits=2, group=None)
    assert quantized.scales[0, 0] == pytest.approx(2 / 3)
    assert quantized.zeros[0, 0] == 2  # a half is rounded to the even neighbor
    assert quantized.codes[:, 0].tolist() == [0, 2, 3, 3]
    np.testing.assert_allclose(quantized.decode(None)[:, 0], [-4 / 3, 0, 2 / 3, 2 / 3], rtol=1e-6)


@hypothesis.given(st.integers(0, 99), st.integers(1, 9), st.integers(1, 4), st.integers(2, 8), st.integers(0, 12))
def test_each_weight_is_within_a_step_of_its_number(seed: int, n: int, m: int, bits: int, group: int) -> None:
    weights = kernel(seed, n, m)
    quantized = quantize_nearest(weights, bits, group or None)
    numbers = quantized.decode(group or None)
    assert quantized.codes.max() < 2**bits
    assert quantized.zeros.max() < 2**bits
    steps = np.concatenate(
        [
            np.repeat(scale[None], rows.stop - rows.start, axis=0)
            for scale, rows in zip(quantized.scales, group_rows(n, group or None), strict=True)
        ]
    )
    # Half a step of rounding, and half a step by which the rounded zero moves the ends of the range.
    assert (np.abs(numbers - weights) <= steps * 1.0001).all()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_zero_stays_zero(bits: int) -> None:
    for weights in (kernel(0, 6, 3) + 5, kernel(1, 6, 3) - 5, np.zeros((6, 3), np.float32)):
        weights[2] = 0
        assert (quantize_nearest(weights, bits, None).decode(None)[2] == 0).all()


def test_a_group_is_rounded_by_itself_and_the_last_may_be_smaller() -> None:
    weights = kernel(2, 7, 3)
    quantized = quantize_nearest(weights, bits=3, group=3)
    assert quantized.scales.shape == quantized.zeros.shape == (3, 3)
    for number, rows in enumerate((slice(0, 3), slice(3, 6), slice(6, 7))):
        alone = quantize_nearest(weights[rows], bits=3, group=None)
        np.testing.assert_array_equal(quantized.codes[rows], alone.codes)
        np.testing.assert_array_equal(quantized.scales[number], alone.scales[0])
    np.testing.assert_array_equal(
        quantize_nearest(weights, 3, 128).decode(128), quantize_nearest(weights, 3, None).decode(None)
    )


def test_scales_and_zeros_are_paid_for() -> None:
    assert effective_bits(128, bits=4, group=128) == 4 + (32 + 4) / 128
    assert effective_bits(256, bits=4, group=128) == 4 + (32 + 4) / 128
    assert effective_bits(200, bits=2, group=128) == 2 + 2 * (32 + 2) / 200
    assert effective_bits(64, bits=3, group=None) == 3 + (32 + 3) / 64


def test_bits_of_a_whole_model() -> None:
    model = Model(d_model=8, n_layers=3, n_heads=2, head_dim=4, d_ff=16, vocab_size=11)
    how = Quantization("nearest", bits=4, group=None)
    sizes = {8: 8 * (8 + 4 + 4) + 8 * 8 + 8 * 32, 16: 16 * 8}  # by numbers summed over: q, k, v, out; gate, up; down
    bits = sum((4 + 36 / n) * size for n, size in sizes.items())
    assert how.effective_bits(model) == pytest.approx(bits / sum(sizes.values()))
    others = 11 * 8 + 3 * 8 + 8
    weights = 3 * sum(sizes.values())
    assert how.bits_per_parameter(model) == pytest.approx((3 * bits + 32 * others) / (weights + others))


def test_a_grid_of_one_sign_begins_at_zero() -> None:
    assert fit_grid(np.float32([[1], [3]]), bits=2).zero[0] == 0
    assert fit_grid(np.float32([[-1], [-3]]), bits=2).zero[0] == 3


@pytest.mark.parametrize(("bits", "group", "message"), [(1, None, "2 to 8"), (9, 3, "2 to 8"), (4, 0, "0 for")])
def test_bits_and_groups_that_there_are_not(bits: int, group: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Quantization("nearest", bits, group)


def test_qwix_rounds_alike() -> None:
    """qwix's codes begin at -2^(P-1); the numbers that they stand for are the same up to rounding."""
    qwix = pytest.importorskip("qwix", reason="qwix is not installed; it is compared with where it is")
    import jax.numpy as jnp

    weights = kernel(3, 48, 5)
    for bits, dtype in ((8, jnp.int8), (4, jnp.int4)):
        ours = quantize_nearest(weights, bits, None).decode(None)
        theirs = qwix.quantize(jnp.asarray(weights), dtype, channelwise_axes=[1], calibration_method="minmax")
        np.testing.assert_allclose(ours, np.asarray(qwix.dequantize(theirs)), rtol=1e-5, atol=1e-6)
