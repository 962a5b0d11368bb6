import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.attention_contract import random_spans
from pathways_kernels.attention.block_ranges import key_block_ranges, padded_spans, query_block_ranges
from pathways_kernels.attention.spans import causal, dense_mask, from_segments, intersect, window

T, S, Tc, Sc = 24, 21, 4, 8
m = 3  # blocks of keys, the last one partial


def blocks_of(spans) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each block of scores has an allowed pair, and whether all are allowed: `[B, T / Tc, m]`."""
    mask = np.pad(np.asarray(dense_mask(spans, S)), ((0, 0), (0, 0), (0, m * Sc - S)))
    blocks = mask.reshape(len(mask), T // Tc, Tc, m, Sc)
    return blocks.any((2, 4)), blocks.all((2, 4))


def check(ranges, any_allowed, all_allowed, exact: bool) -> None:
    for index in np.ndindex(ranges.shape[:2]):
        start, full_start, full_stop, stop = ranges[index]
        assert 0 <= start <= full_start <= full_stop <= stop <= any_allowed.shape[2]
        assert all_allowed[index][full_start:full_stop].all()
        assert not np.delete(any_allowed[index], np.s_[start:stop]).any()
        if exact:
            np.testing.assert_array_equal(np.flatnonzero(any_allowed[index]), np.arange(start, stop))
            np.testing.assert_array_equal(np.flatnonzero(all_allowed[index]), np.arange(full_start, full_stop))


@settings(max_examples=60)
@given(seed=st.integers(0, 2**31), kind=st.integers(0, 3))
def test_ranges_contain_every_allowed_pair_and_full_blocks_need_no_mask(seed, kind):
    rng = np.random.default_rng(seed)
    spans = random_spans(rng, 2, T, S)
    if kind == 1:
        spans = causal(2, T, offset=int(rng.integers(-3, 9)))
    if kind == 2:
        spans = window(2, T, int(rng.integers(1, 20)), offset=int(rng.integers(0, 5)))
    if kind == 3:
        segments = np.cumsum(rng.random((2, T)) < 0.1, axis=1)
        spans = intersect(from_segments(segments, bidirectional=True), window(2, T, 15))
    any_allowed, all_allowed = blocks_of(spans)
    padded = padded_spans(spans, S, T)
    # Some queries are after the last key and see nothing: the ranges of their blocks are safe but may be too large.
    exact = kind != 0 and bool(dense_mask(spans, S).any(2).all())
    check(np.asarray(key_block_ranges(padded, Tc, Sc)), any_allowed, all_allowed, exact)
    check(
        np.asarray(query_block_ranges(padded, Tc, Sc, m)),
        *(x.swapaxes(1, 2) for x in (any_allowed, all_allowed)),
        exact,
    )


def test_padding_and_empty_intervals_affect_no_range():
    start, stop = np.array([[3, 5, 9, -4]]), np.array([[6, 5, 2, 2]])
    padded = padded_spans(type(causal(1, 1))(start, stop), 8, 6)
    np.testing.assert_array_equal(padded.start, [[3, 8, 8, 0, 8, 8]])
    np.testing.assert_array_equal(padded.stop, [[6, 0, 0, 2, 0, 0]])
    assert padded.start.dtype == jnp.int32
    np.testing.assert_array_equal(key_block_ranges(padded, 2, 4), [[[0, 2, 2, 2], [0, 1, 1, 1], [2, 2, 2, 2]]])
