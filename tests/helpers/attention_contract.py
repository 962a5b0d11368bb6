"""The contract of every attention backend: a backend's test file subclasses `AttentionContract` and names it."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pathways_kernels.attention import Spans, attention
from pathways_kernels.attention.spans import causal, dense_mask, from_segments, full, intersect, prefix, window

SCALE = 0.3


class Shape(NamedTuple):
    B: int
    T: int
    S: int
    H: int
    K: int
    D: int
    soft_cap: float | None = None
    dtype: str = "float32"


# Multi-head, grouped and multi-query; one block and several, of keys alone, of queries and keys; partial blocks; a cap.
SHAPES = (
    Shape(2, 33, 33, 4, 4, 8),
    Shape(3, 140, 140, 16, 4, 8, soft_cap=2.0),
    Shape(2, 20, 1100, 16, 1, 16),
    Shape(2, 300, 130, 16, 1, 16),
)

# Fewer heads, for kernels in an interpreter.
INTERPRETER_SHAPES = (
    Shape(2, 33, 33, 4, 4, 8),
    Shape(3, 140, 140, 4, 2, 8, soft_cap=2.0),
    Shape(2, 20, 300, 4, 1, 24),
)
INTERPRETER_PACKED_SHAPE = Shape(2, 300, 300, 4, 1, 16)


def arrays(shape: Shape, seed: int = 0) -> tuple[jax.Array, ...]:
    """Return q, k, v and a cotangent of the output."""
    B, T, S, H, K, D = shape[:6]
    rng = np.random.default_rng(seed)
    sizes = (B, T, H, D), (B, S, K, D), (B, S, K, D), (B, T, H, D)
    return tuple(jnp.asarray(rng.standard_normal(size), shape.dtype) for size in sizes)


def random_spans(rng: np.random.Generator, B: int, T: int, S: int) -> Spans:
    """Return arbitrary intervals: out of order, empty, reversed, beyond both ends."""
    start = rng.integers(-2, S + 2, (B, T))
    lengths = rng.choice([1, S // 8 + 1, S], (B, 1))
    return Spans(start.astype(np.int32), (start + rng.integers(-2, lengths + 1, (B, T))).astype(np.int32))


def training_spans(rng: np.random.Generator, B: int, T: int, S: int) -> Spans:
    """Return one of the kinds that training uses, or arbitrary spans."""
    segments = np.cumsum(rng.random((B, T)) < rng.choice([0.02, 0.3]), axis=1)
    kind = rng.integers(6)
    if kind == 0:
        return causal(B, T, offset=rng.integers(0, max(S - T, 0) + 1, B))
    if kind == 1:
        return intersect(from_segments(segments), window(B, T, int(rng.integers(1, T + 1))))
    if kind == 2:
        return prefix(from_segments(segments, bidirectional=True), rng.integers(0, T, B))
    if kind == 3:
        return full(B, T, S)
    return random_spans(rng, B, T, S)


@partial(jax.jit, static_argnames=("soft_cap", "implementation"))
def run(q, k, v, d_out, spans, soft_cap=None, implementation=None):
    """Return the output and the gradients of q, k, v for one cotangent."""

    def f(q, k, v):
        return attention(q, k, v, spans, scale=SCALE, logits_soft_cap=soft_cap, implementation=implementation)

    out, pullback = jax.vjp(f, q, k, v)
    return out, *pullback(d_out)


def float64_reference(q, k, v, spans, soft_cap=None) -> np.ndarray:
    """Compute attention by its definition in float64 NumPy, query by query; shares no code with any backend."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    B, T, H, _ = q.shape
    S, K = k.shape[1:3]
    out = np.zeros(q.shape)
    for b, t, h in np.ndindex(B, T, H):
        keys = slice(max(int(spans.start[b, t]), 0), max(min(int(spans.stop[b, t]), S), 0))
        logits = SCALE * k[b, keys, h // (H // K)] @ q[b, t, h]
        if logits.size:
            logits = logits if soft_cap is None else soft_cap * np.tanh(logits / soft_cap)
            weights = np.exp(logits - logits.max())
            out[b, t, h] = weights @ v[b, keys, h // (H // K)] / weights.sum()
    return out


def assert_close(actual, expected, relative: float, what: str = "") -> None:
    """Within `relative` of the largest value expected, or of 0.1: terms that cancel to 0 leave their rounding."""
    actual, expected = (np.asarray(x, np.float32) for x in (actual, expected))
    bound = relative * max(np.abs(expected).max(), 0.1)
    assert np.abs(actual - expected).max() <= bound, (
        f"{what}: off by {np.abs(actual - expected).max()}, allowed {bound}"
    )


def limit_examples(examples: int):
    return settings(max_examples=examples, suppress_health_check=list(HealthCheck))


class AttentionContract:
    """Subclass it and set `implementation`; narrow `shapes` if a backend does not support some."""

    implementation: str
    shapes: tuple[Shape, ...] = SHAPES
    packed_shape = Shape(2, 300, 300, 16, 1, 16)
    check_vma = True  # of shard_map; jax's kernel interpreters and foreign functions cannot

    def run(self, shape: Shape, *args) -> tuple[jax.Array, ...]:
        return run(*args, soft_cap=shape.soft_cap, implementation=self.implementation)

    def test_equals_the_definition(self):
        shape = Shape(2, 19, 23, 6, 2, 8, soft_cap=1.5)
        q, k, v, d_out = arrays(shape)
        spans = random_spans(np.random.default_rng(1), shape.B, shape.T, shape.S)
        out = self.run(shape, q, k, v, d_out, spans)[0]
        np.testing.assert_allclose(out, float64_reference(q, k, v, spans, shape.soft_cap), atol=1e-5)

    @pytest.mark.parametrize("index", range(len(SHAPES)))
    @limit_examples(8)
    @given(seed=st.integers(0, 2**31))
    def test_equals_the_reference(self, index, seed):
        if index >= len(self.shapes):
            pytest.skip(f"{self.implementation} supports {len(self.shapes)} of the shapes")
        shape = self.shapes[index]
        args = *arrays(shape, seed), training_spans(np.random.default_rng(seed), shape.B, shape.T, shape.S)
        expected = run(*args, soft_cap=shape.soft_cap, implementation="reference")
        actual = self.run(shape, *args)
        assert_close(actual[0], expected[0], 1e-5, "output")
        for name, a, b in zip(("d_q", "d_k", "d_v"), actual[1:], expected[1:], strict=True):
            assert_close(a, b, 1e-4, name)

    @pytest.mark.parametrize("shape", [Shape(2, 140, 140, 16, 4, 8, dtype="bfloat16")])
    def test_bfloat16_is_as_near_as_its_rounding(self, shape):
        q, k, v, d_out = arrays(shape)
        spans = random_spans(np.random.default_rng(2), shape.B, shape.T, shape.S)
        actual = self.run(shape, q, k, v, d_out, spans)
        expected = run(*(x.astype(jnp.float32) for x in (q, k, v, d_out)), spans, implementation="reference")
        for name, a, b in zip(("output", "d_q", "d_k", "d_v"), actual, expected, strict=True):
            assert a.dtype == jnp.bfloat16
            assert_close(a, b, 2**-6, name)

    @limit_examples(6)
    @given(seed=st.integers(0, 2**31))
    def test_nothing_leaks(self, seed):
        """A key outside a query's interval has no influence, to the bit, and no gradient; one inside has both."""
        shape = self.shapes[1]
        rng = np.random.default_rng(seed)
        q, k, v, d_out = arrays(shape, seed)
        spans = random_spans(rng, shape.B, shape.T, shape.S)
        mask = dense_mask(spans, shape.S)
        j = int(rng.integers(shape.S))
        before = self.run(shape, q, k, v, d_out, spans)[0]
        other_k, other_v = k.at[:, j].multiply(-3), v.at[:, j].add(1)
        after = self.run(shape, q, other_k, other_v, d_out, spans)[0]
        same = np.asarray(before == after).all((2, 3))
        np.testing.assert_array_equal(same, ~mask[:, :, j])

        # The cotangent of one query reaches only the keys that it sees.
        t = int(rng.integers(shape.T))
        only = jnp.zeros_like(d_out).at[:, t].set(d_out[:, t])
        _, d_q, _, d_v = self.run(shape, q, k, v, only, spans)
        np.testing.assert_array_equal(np.asarray(d_v != 0).any((2, 3)), mask[:, t])
        assert not np.asarray(jnp.delete(d_q, t, axis=1)).any()

    def test_keys_nobody_sees_get_no_gradient(self):
        shape = self.shapes[0]
        spans = intersect(causal(shape.B, shape.T), full(shape.B, shape.T, shape.S - 5))
        _, _, d_k, d_v = self.run(shape, *arrays(shape), spans)
        assert not np.asarray(d_k)[:, -5:].any()
        assert not np.asarray(d_v)[:, -5:].any()
        assert np.asarray(d_v)[:, :-5].all()

    def test_queries_that_see_nothing_are_zero(self):
        """So are their gradients; also in whole rows, with values that would overflow if they were read."""
        shape = self.shapes[1]
        q, k, v, d_out = arrays(shape)
        spans = causal(shape.B, shape.T)
        blind = np.zeros((shape.B, shape.T), bool)
        blind[0], blind[1, ::3] = True, True
        spans = Spans(np.where(blind, 9, spans.start), np.where(blind, 9, spans.stop))
        out, d_q, d_k, d_v = self.run(shape, q.at[0].multiply(1e4), k, v, d_out, spans)
        for x in (out, d_q):
            assert not np.asarray(x)[blind].any()
        assert np.asarray(out)[~blind].any((-1, -2)).all()
        assert all(np.isfinite(x).all() for x in (out, d_q, d_k, d_v))
        assert not np.asarray(d_k)[0].any()
        assert not np.asarray(d_v)[0].any()

    def test_large_logits_stay_finite(self):
        shape = self.shapes[0]
        q, k, v, d_out = arrays(shape)
        actual = self.run(shape, 100 * q, 100 * k, v, d_out, causal(shape.B, shape.T))
        assert all(np.isfinite(x).all() for x in actual)
        expected = float64_reference(100 * q, 100 * k, v, causal(shape.B, shape.T))
        np.testing.assert_allclose(actual[0], expected, atol=1e-3)

    def test_packed_documents_are_separate_documents(self):
        shape = self.packed_shape
        q, k, v, d_out = arrays(shape)
        segments = np.broadcast_to(np.arange(shape.T) // 100, (shape.B, shape.T))
        packed = self.run(shape, q, k, v, d_out, from_segments(segments))
        for a in range(0, shape.T, 100):
            document = slice(a, a + 100)
            arguments = (x[:, document] for x in (q, k, v, d_out))
            alone = run(*arguments, causal(shape.B, 100), implementation="reference")
            for name, together, separate in zip(("output", "d_q", "d_k", "d_v"), packed, alone, strict=True):
                np.testing.assert_allclose(together[:, document], separate, atol=1e-4, err_msg=name)

    def test_decoding_equals_the_full_result(self):
        """One query at a time over a cache that is only partly written."""
        shape = self.shapes[0]
        q, k, v, d_out = arrays(shape)
        whole = self.run(shape, q, k, v, d_out, causal(shape.B, shape.T))[0]
        spare = ((0, 0), (0, 20), (0, 0), (0, 0))
        k, v = jnp.pad(k, spare, constant_values=7.0), jnp.pad(v, spare, constant_values=7.0)
        for t in (0, 13, shape.T - 1):
            spans = causal(shape.B, 1, offset=jnp.full(shape.B, t))
            one = self.run(shape, q[:, t : t + 1], k, v, d_out[:, :1], spans)[0]
            np.testing.assert_allclose(one[:, 0], whole[:, t], atol=1e-5)

    def test_vmap_and_checkpoint(self):
        shape = self.shapes[0]
        stacked = tuple(jnp.stack(x) for x in zip(arrays(shape, 0), arrays(shape, 1), strict=True))
        rng = np.random.default_rng(3)
        spans = [random_spans(rng, shape.B, shape.T, shape.S) for _ in range(2)]
        many = jax.vmap(partial(run, implementation=self.implementation))(*stacked, Spans(*map(np.stack, zip(*spans))))  # noqa: B905

        @jax.jit
        def rematerialized(q, k, v, d_out, spans):
            f = jax.checkpoint(partial(attention, scale=SCALE, implementation=self.implementation))
            out, pullback = jax.vjp(lambda q, k, v: f(q, k, v, spans), q, k, v)
            return out, *pullback(d_out)

        for i in range(2):
            args = *(x[i] for x in stacked), spans[i]
            one, again = self.run(shape, *args), rematerialized(*args)
            for a, b, c in zip(one, many, again, strict=True):
                np.testing.assert_allclose(a, b[i], atol=1e-5)
                np.testing.assert_allclose(a, c, atol=1e-5)

    def test_works_inside_shard_map(self):
        shape = self.packed_shape
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
        split = jax.sharding.PartitionSpec("data")
        one = partial(run, implementation=self.implementation)
        f = jax.shard_map(one, mesh=mesh, in_specs=(split,) * 5, out_specs=(split,) * 4, check_vma=self.check_vma)
        args = *arrays(shape), Spans(*map(jnp.asarray, causal(shape.B, shape.T)))
        for a, b in zip(f(*args), one(*args), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)

    def test_the_same_call_gives_the_same_bits(self):
        shape = self.shapes[1]
        args = *arrays(shape), training_spans(np.random.default_rng(4), shape.B, shape.T, shape.S)
        for a, b in zip(self.run(shape, *args), self.run(shape, *args), strict=True):
            np.testing.assert_array_equal(a, b)
