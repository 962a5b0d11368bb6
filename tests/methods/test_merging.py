"""Averages and greedy soups, of numbers that can be worked out by hand."""

import jax.numpy as jnp
import numpy as np

from pathways_lite.methods.merging import ages, average, greedy_soup, normalized_weights


def test_an_average_is_weighted_and_keeps_its_dtypes():
    trees = [{"a": jnp.float32([0, 4]), "b": jnp.bfloat16([1])}, {"a": jnp.float32([8, 0]), "b": jnp.bfloat16([2])}]
    merged = average(iter(trees), [1, 3])
    np.testing.assert_array_equal(merged["a"], [6, 1])
    assert merged["b"].dtype == jnp.bfloat16
    assert merged["b"] == 1.75


def test_weights_are_relative_and_decay_with_age():
    assert normalized_weights([1, 3]) == [0.25, 0.75]
    assert ages(3, 0.5) == [1, 0.5, 0.25]


def test_a_greedy_soup_takes_what_does_not_make_it_worse():
    """Numbers whose average is to be near 5: from 5.5 on, 4.6 helps, 8 and -3 do not."""
    loss = lambda chosen: abs(sum(chosen) / len(chosen) - 5)  # noqa: E731
    assert greedy_soup([8.0, 5.5, -3.0, 4.6], loss) == [4.6, 5.5]
