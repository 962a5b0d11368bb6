import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathways_kernels.attention import Spans
from pathways_kernels.attention.spans import causal, dense_mask, from_segments, full, intersect, prefix, window
from pathways_kernels.attention.static_kinds import Causal, Full, SpanKind, Window, static_kind

SEGMENTS = np.array([[0, 0, 1, 1, 1, 2, 2, 2]] * 2)


def rebuilt(kind: SpanKind, batch: int, length: int, n_keys: int) -> Spans:
    match kind:
        case Full():
            return full(batch, length, n_keys)
        case Causal(offset):
            return causal(batch, length, offset)
        case Window(size, offset):
            return window(batch, length, size, offset)


@pytest.mark.parametrize(
    ("spans", "n_keys", "kind"),
    [
        (full(2, 8), 8, Full()),
        (full(2, 8, 5), 5, Full()),
        (Spans(np.full((2, 8), -3), np.full((2, 8), 99)), 8, Full()),
        (causal(2, 8), 8, Causal(0)),
        (causal(2, 8), 5, Causal(0)),
        (causal(2, 8, offset=3), 11, Causal(3)),
        (causal(2, 1, offset=3), 11, Causal(3)),
        (causal(2, 8, offset=7), 8, Full()),
        (window(2, 8, 3), 8, Window(3, 0)),
        (window(2, 8, 1), 8, Window(1, 0)),
        (window(2, 8, 8), 8, Causal(0)),
        (window(2, 8, 3, offset=5), 20, Window(3, 5)),
        (causal(2, 8, offset=np.array([0, 1])), 9, None),
        (from_segments(SEGMENTS), 8, None),
        (prefix(full(2, 8), np.array([3, 3])), 8, None),
        (intersect(causal(2, 8), full(2, 8, 0)), 8, None),
        (full(2, 8, 5), 8, None),
        (causal(2, 8, offset=-2), 8, None),
        (causal(2, 8, offset=jnp.int32(0)), 8, None),
    ],
)
def test_kinds(spans, n_keys, kind):
    assert static_kind(spans, n_keys) == kind
    assert kind is None or type(static_kind(spans, n_keys)) is type(kind)


@settings(max_examples=300)
@given(st.data())
def test_a_kind_shows_exactly_the_same_keys(data):
    length, n_keys = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 6))
    offset, size = data.draw(st.integers(-1, 6)), data.draw(st.integers(1, 7))
    spans = window(2, length, size, offset)
    if data.draw(st.booleans()):
        t = data.draw(st.integers(0, length - 1))
        spans.start[:, t] += data.draw(st.integers(-1, 1))
        spans.stop[:, t] += data.draw(st.integers(-1, 1))
    kind = static_kind(spans, n_keys)
    if kind is not None:
        np.testing.assert_array_equal(dense_mask(rebuilt(kind, 2, length, n_keys), n_keys), dense_mask(spans, n_keys))
