import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.attention_contract import random_spans
from pathways_kernels.attention.block_ranges import of_keys, of_queries, padded_spans
from pathways_kernels.attention.spans import causal, dense, from_segments, intersect, window

T, S, Tc, Sc = 24, 21, 4, 8
m = 3  # blocks of keys, the last one ragged


def blocks_of(spans) -> tuple[np.ndarray, np.ndarray]:
    """Whether each block of scores has an allowed pair, and whether all are: `[B, T / Tc, m]`."""
    mask = np.pad(np.asarray(dense(spans, S)), ((0, 0), (0, 0), (0, m * Sc - S)))
    blocks = mask.reshape(len(mask), T // Tc, Tc, m, Sc)
    return blocks.any((2, 4)), blocks.all((2, 4))


def check(ranges, some, whole, exact: bool) -> None:
    for index in np.ndindex(ranges.shape[:2]):
        first, whole_first, whole_last, last = ranges[index]
        assert 0 <= first <= whole_first <= whole_last <= last <= some.shape[2]
        assert whole[index][whole_first:whole_last].all()
        assert not np.delete(some[index], np.s_[first:last]).any()
        if exact:
            np.testing.assert_array_equal(np.flatnonzero(some[index]), np.arange(first, last))
            np.testing.assert_array_equal(np.flatnonzero(whole[index]), np.arange(whole_first, whole_last))


@settings(max_examples=60)
@given(seed=st.integers(0, 2**31), kind=st.integers(0, 3))
def test_ranges_hold_every_allowed_pair_and_leave_whole_blocks_unmasked(seed, kind):
    rng = np.random.default_rng(seed)
    spans = random_spans(rng, 2, T, S)
    if kind == 1:
        spans = causal(2, T, offset=int(rng.integers(-3, 9)))
    if kind == 2:
        spans = window(2, T, int(rng.integers(1, 20)), offset=int(rng.integers(0, 5)))
    if kind == 3:
        segments = np.cumsum(rng.random((2, T)) < 0.1, axis=1)
        spans = intersect(from_segments(segments, bidirectional=True), window(2, T, 15))
    some, whole = blocks_of(spans)
    padded = padded_spans(spans, S, T)
    # Some queries see nothing past the last key: their blocks' hulls are safe but may hold more.
    exact = kind != 0 and bool(dense(spans, S).any(2).all())
    check(np.asarray(of_keys(padded, Tc, Sc)), some, whole, exact)
    check(np.asarray(of_queries(padded, Tc, Sc, m)), *(x.swapaxes(1, 2) for x in (some, whole)), exact)


def test_padding_and_empty_intervals_win_nothing():
    start, stop = np.array([[3, 5, 9, -4]]), np.array([[6, 5, 2, 2]])
    padded = padded_spans(type(causal(1, 1))(start, stop), 8, 6)
    np.testing.assert_array_equal(padded.start, [[3, 8, 8, 0, 8, 8]])
    np.testing.assert_array_equal(padded.stop, [[6, 0, 0, 2, 0, 0]])
    assert padded.start.dtype == jnp.int32
    np.testing.assert_array_equal(of_keys(padded, 2, 4), [[[0, 2, 2, 2], [0, 1, 1, 1], [2, 2, 2, 2]]])
