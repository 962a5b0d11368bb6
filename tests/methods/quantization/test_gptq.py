"""GPTQ: known answers, nearest where inputs are independent, better where they are not, by any blocks and groups."""

import numpy as np
import pytest

from pathways_lite.errors import UserError
from pathways_lite.methods.quantization import gptq as module
from pathways_lite.methods.quantization import output_error, quantize_gptq, quantize_nearest
from pathways_lite.methods.quantization.gptq import inverse_factor, round_in_order


def correlated(seed: int, n: int, tokens: int = 4096) -> np.ndarray:
    """The Hessian of inputs of which neighbors are alike."""
    x = np.cumsum(np.random.default_rng(seed).standard_normal((tokens, n)), axis=1) / np.sqrt(np.arange(1, n + 1))
    return 2 * x.T @ x / tokens


def kernel(seed: int, n: int, m: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, m)).astype(np.float32)


def test_known_answer() -> None:
    """H = [[2, 1], [1, 2]], w = (0.4, 0.4) a grid of integers: nearest, (0, 0), errs by .96, GPTQ, (0, 1), by .56."""
    hessian, weights = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([[0.4], [0.4]])

    def error(rounded: list[float]) -> float:
        difference = weights[:, 0] - rounded
        return float(difference @ hessian @ difference)

    rounded = np.zeros_like(weights)
    changing = weights.copy()

    def round_row(row: int) -> np.ndarray:
        rounded[row] = np.round(changing[row])
        return rounded[row]

    round_in_order(changing, inverse_factor(hessian, damping=0), round_row, iter([slice(0, 2)]))
    assert rounded[:, 0].tolist() == [0, 1]
    assert error([0, 0]) == pytest.approx(0.96)
    assert error([0, 1]) == pytest.approx(0.56)


def test_the_factor_is_that_of_the_damped_inverse() -> None:
    hessian = correlated(0, 6)
    upper = inverse_factor(hessian, damping=0.1)
    damped = hessian + 0.1 * np.mean(np.diagonal(hessian)) * np.eye(6)
    np.testing.assert_allclose(upper.T @ upper, np.linalg.inv(damped), rtol=1e-9)
    np.testing.assert_array_equal(upper, np.triu(upper))


@pytest.mark.parametrize("group", [None, 5, 128])
@pytest.mark.parametrize("act_order", [False, True])
def test_independent_inputs_are_rounded_to_nearest(group: int | None, act_order: bool) -> None:
    weights = kernel(1, 17, 4)
    hessian = np.diag(np.random.default_rng(2).uniform(0.5, 2, 17))
    for h in (np.eye(17), hessian):
        for a, b in zip(
            quantize_gptq(weights, h, 3, group, act_order=act_order), quantize_nearest(weights, 3, group), strict=True
        ):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("group", [None, 32, 50])
def test_errors_of_outputs_are_smaller(bits: int, act_order: bool, group: int | None) -> None:
    weights, hessian = kernel(3, 96, 8), correlated(4, 96)
    nearest = output_error(weights, quantize_nearest(weights, bits, group).decode(group), hessian)
    rounded = quantize_gptq(weights, hessian, bits, group, act_order=act_order).decode(group)
    assert output_error(weights, rounded, hessian) < 0.7 * nearest


@pytest.mark.parametrize("group", [None, 3, 4, 16, 40])
def test_blocks_change_nothing(group: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors that are taken from later rows a block at a time are those that are taken at once."""
    weights, hessian = kernel(5, 37, 3), correlated(6, 37)
    expected = quantize_gptq(weights, hessian, 3, group)  # one block of 128
    monkeypatch.setattr(module, "BLOCK", 8)
    for a, b in zip(quantize_gptq(weights, hessian, 3, group), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_group_is_fitted_to_what_the_errors_before_made_of_it() -> None:
    weights, hessian = kernel(7, 8, 2), correlated(8, 8)
    first, second = (quantize_gptq(weights, hessian, 2, 4, act_order=order) for order in (False, True))
    static = quantize_nearest(weights, 2, 4)
    np.testing.assert_array_equal(first.scales[0], static.scales[0])
    assert (first.scales[1] != static.scales[1]).any()
    np.testing.assert_array_equal(second.scales, static.scales)


def test_inputs_that_no_text_uses_become_zero() -> None:
    weights, hessian = kernel(9, 6, 3), correlated(10, 6)
    hessian[2] = hessian[:, 2] = 0
    rounded = quantize_gptq(weights, hessian, 4, None).decode(None)
    assert (rounded[2] == 0).all()
    assert (np.abs(rounded - weights)[[0, 1, 3, 4, 5]] < 0.5).all()
    assert (quantize_gptq(weights, np.zeros((6, 6)), 4, None).decode(None) == 0).all()


def test_pruned_weights_stay_zero_and_others_make_up_for_it() -> None:
    weights, hessian = kernel(11, 24, 4), correlated(12, 24)
    kept = np.random.default_rng(13).random(weights.shape) < 0.5
    pruned = np.where(kept, weights, 0).astype(np.float32)
    rounded = quantize_gptq(pruned, hessian, 3, None, kept=kept).decode(None)
    assert (rounded[~kept] == 0).all()
    nearest = output_error(pruned, quantize_nearest(pruned, 3, None).decode(None), hessian)
    assert output_error(pruned, rounded, hessian) < nearest


def test_hessians_that_cannot_be() -> None:
    with pytest.raises(UserError, match="not finite"):
        quantize_gptq(kernel(0, 2, 2), np.array([[np.nan, 0], [0, 1]]), 4, None)
    with pytest.raises(UserError, match="more --calibration-tokens"):
        quantize_gptq(kernel(0, 2, 2), np.array([[1.0, 2], [2, 1]]), 4, None)


def test_qwix_computes_the_same() -> None:
    """Of int8 in one group, a column at a time; qwix 0.1.8 refuses columns whose zero is the middle code."""
    pytest.importorskip("qwix", reason="qwix is not installed; it is compared with where it is")
    import jax.numpy as jnp
    from qwix._src.core import qarray
    from qwix.contrib import gptq_core

    weights, hessian = kernel(3, 48, 5), correlated(4, 48)
    ours = quantize_gptq(weights, hessian, 8, None)
    how = qarray.HowToQuantize(qtype=jnp.int8, channelwise_axes=[0], calibration_method="minmax")
    columns = [column for column in range(5) if ours.zeros[0, column] != 128]
    assert len(columns) > 2
    for column in columns:
        one = jnp.asarray(weights.T[column : column + 1])
        theirs, _ = gptq_core.quantize_weight(one, jnp.asarray(hessian, jnp.float32), how)
        expected = np.asarray(qarray.dequantize(theirs))[0]
        np.testing.assert_allclose(ours.decode(None)[:, column], expected, atol=1e-5)
