"""The k largest, exactly: against sorting, with ties, NaN and infinities, and counts of more than 32 bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathways_lite.methods.pruning import num_kept, schedules, thresholds
from pathways_lite.methods.pruning.pruned_params import pack, unpack, unpack_np

SHAPES = ((3, 4, 5), (1, 7))
FLOATS = [0.0, -0.0, 1.0, 1.0, 2.5, -3.0, np.inf, -np.inf, np.nan, 1e-40, np.float32(1.0000001)]
largest = jax.jit(thresholds.select_largest, static_argnames="is_global")


def by_sorting(keys, counts, is_global):
    """Of equal keys the first, in the order of groups, sets and places."""
    masks = [np.zeros(x.shape, bool) for x in keys]
    entries = [(-int(x[index]), group, index) for group, x in enumerate(keys) for index in np.ndindex(x.shape)]
    if is_global:
        chosen = sorted(entries)[: sum(int(c.sum()) for c in counts)]
    else:
        chosen = []
        for group, count in enumerate(counts):
            for layer, k in enumerate(count):
                chosen += sorted(e for e in entries if e[1] == group and e[2][0] == layer)[: int(k)]
    for _, group, index in chosen:
        masks[group][index] = True
    return masks


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 1000, 2**32]), st.floats(0, 1), st.booleans())
def test_just_as_many_as_sorting_says(seed, top, share, is_global):
    rng = np.random.default_rng(seed)
    keys = [rng.integers(0, top, shape, np.uint32) for shape in SHAPES]
    sizes = [np.full(len(x), x[0].size) for x in keys]
    counts = [np.uint32(np.round(share * rng.random(len(size)) * size)) for size in sizes]
    masks = largest(keys, counts, is_global=is_global)
    for mask, expected in zip(masks, by_sorting(keys, counts, is_global), strict=True):
        np.testing.assert_array_equal(mask, expected)


@given(st.lists(st.sampled_from(FLOATS), min_size=9, max_size=9))
def test_the_order_of_floats(values):
    """As NumPy sorts them, but NaN below everything; both zeros are one."""
    keys = np.asarray(thresholds.order_keys(jnp.array(values, jnp.float32))).astype(np.int64)
    values = np.array([-np.inf if np.isnan(x) else x for x in np.float32(values)])
    for i in range(9):
        for j in range(9):
            if abs(values[i]) < 1e-37 and abs(values[j]) < 1e-37:
                continue  # whether the smallest numbers are zero is the machine's choice
            if values[i] != values[j]:
                assert (keys[i] < keys[j]) == (values[i] < values[j])


def test_what_is_not_a_number_is_below_everything():
    keys = np.asarray(thresholds.order_keys(jnp.array([np.nan, -np.inf, -1.0, -0.0, 0.0, np.inf], jnp.float32)))
    assert keys[0] == 0
    assert (np.diff(keys.astype(np.int64)) > 0).tolist() == [True, True, True, False, True]


@given(st.integers(0, 2**31 - 1), st.integers(0, schedules.DENSITIES))
def test_what_is_kept_is_the_same_on_the_device(size, density):
    count = num_kept(size, density / schedules.DENSITIES)
    assert int(thresholds.kept_counts(size, jnp.int32(density))) == count
    assert abs(count - size * density / schedules.DENSITIES) <= 0.5


def test_counts_add_up_beyond_32_bits():
    counts = [np.full(500, 2**31 - 1, np.uint32), np.array([5, 2**31 - 2], np.uint32)]
    (total,) = thresholds._total(counts)
    assert (int(total.high) << 16) + int(total.low) == sum(int(c.astype(np.uint64).sum()) for c in counts)
    assert not total.is_at_least(thresholds.Count(total.high, total.low + 1))
    assert total.is_at_least(thresholds.Count(total.high - 1, jnp.uint32(2**16 - 1)))


@pytest.mark.parametrize("size", [1, 8, 13, 24])
def test_a_packed_mask_is_one_bit_per_weight(size):
    mask = np.random.default_rng(size).random((3, 2, size)) < 0.5
    packed = jax.jit(pack)(mask)
    assert packed.shape == (3, 2, -(-size // 8))
    assert packed.dtype == np.uint8
    np.testing.assert_array_equal(jax.jit(unpack, static_argnums=1)(packed, size), mask)
    np.testing.assert_array_equal(unpack_np(np.asarray(packed), size), mask)
