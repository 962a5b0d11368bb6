"""The constructors of spans give the masks that their names say, in NumPy and in JAX."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathways_kernels.attention.spans import (
    causal,
    dense_mask,
    from_document_starts,
    from_segments,
    full,
    intersect,
    prefix,
    window,
)

seeds = st.integers(0, 2**31)
examples = settings(max_examples=30)
B, T = 3, 12
i, j = np.arange(T)[:, None], np.arange(T)[None, :]


def random_segments(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.random((B, T)) < rng.choice([0.0, 0.3, 1.0]), axis=1)


def same_document(segments: np.ndarray) -> np.ndarray:
    return segments[:, :, None] == segments[:, None, :]


@examples
@given(seed=seeds, size=st.integers(1, T + 2), offset=st.integers(0, 5))
def test_masks_are_what_their_names_say(seed, size, offset):
    segments = random_segments(seed)
    lengths = np.random.default_rng(seed).integers(0, T + 1, B)
    same = same_document(segments)
    np.testing.assert_array_equal(dense_mask(full(B, T), T), np.ones((B, T, T)))
    np.testing.assert_array_equal(dense_mask(causal(1, T, offset), T)[0], j <= i + offset)
    np.testing.assert_array_equal(dense_mask(window(1, T, size), T)[0], (j <= i) & (i - j < size))
    np.testing.assert_array_equal(dense_mask(from_segments(segments), T), same & (j <= i))
    np.testing.assert_array_equal(dense_mask(from_segments(segments, bidirectional=True), T), same)
    in_prefix = j < lengths[:, None, None]
    np.testing.assert_array_equal(dense_mask(prefix(full(B, T), lengths), T), (j <= i) | in_prefix)


@examples
@given(seed=seeds)
def test_prefix_of_packed_documents(seed):
    """Each document has its own prefix, and no query sees the next document, however long the prefix."""
    segments = random_segments(seed)
    documents = from_segments(segments, bidirectional=True)
    lengths = np.random.default_rng(seed).integers(0, T + 1, (B, T + 1))
    of_query = np.take_along_axis(lengths, segments, axis=1)
    within = np.arange(T) - documents.start
    expected = same_document(segments) & ((j <= i) | (within[:, None, :] < of_query[:, :, None]))
    np.testing.assert_array_equal(dense_mask(prefix(documents, of_query), T), expected)


@examples
@given(seed=seeds, size=st.integers(1, T))
def test_an_intersection_shows_what_both_show(seed, size):
    packed = from_segments(random_segments(seed), bidirectional=True)
    spans = intersect(packed, window(1, T, size))
    np.testing.assert_array_equal(dense_mask(spans, T), dense_mask(packed, T) & dense_mask(window(1, T, size), T))


def every_constructor(segments, lengths):
    documents = from_segments(segments, bidirectional=True)
    limited = intersect(prefix(documents, lengths), window(B, T, 5, offset=lengths))
    return documents, from_segments(segments), limited


every_constructor_jitted = jax.jit(every_constructor)


@examples
@given(seed=seeds)
def test_jax_computes_what_numpy_does(seed):
    segments = random_segments(seed).astype(np.int32)
    lengths = np.array([0, 4, T], np.int32)
    for in_numpy, in_jax in zip(
        every_constructor(segments, lengths), every_constructor_jitted(segments, lengths), strict=True
    ):
        for a, b in zip(in_numpy, in_jax, strict=True):
            assert isinstance(a, np.ndarray)
            assert isinstance(b, jax.Array)
            assert a.dtype == b.dtype == np.int32
            np.testing.assert_array_equal(a, b)


@examples
@given(seed=seeds)
def test_ends_never_decrease(seed):
    """So the queries that see a key are an interval too, and kernels can skip blocks both ways."""
    for spans in every_constructor(random_segments(seed), np.array([0, 4, T])):
        assert (np.diff(spans.start) >= 0).all()
        assert (np.diff(spans.stop) >= 0).all()


def test_starts_and_segments_agree():
    starts = np.zeros((1, 6), bool)
    starts[0, [2, 5]] = True
    for both_ways in (False, True):
        a = from_document_starts(starts, bidirectional=both_ways)
        b = from_segments(np.array([[0, 0, 1, 1, 1, 2]]), bidirectional=both_ways)
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: causal(0, 4), r"\[0, 4\]"),
        (lambda: causal(2, 4, offset=np.zeros(3)), r"offset is \[3\]; expected a scalar or \[2\]"),
        (lambda: window(1, 4, 0), "window of 0 keys is empty"),
        (lambda: from_segments(np.zeros(4, np.int32)), r"segments are int32\[4\]"),
        (lambda: from_document_starts(np.zeros((1, 4), np.int32)), "expected bool"),
        (lambda: prefix(full(2, 4), np.zeros(3, np.int32)), r"prefix_length is \[3\]; expected \[2\] or \[2, 4\]"),
    ],
)
def test_shapes_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()
