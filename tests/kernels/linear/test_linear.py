"""`linear(x, w)` equals `x @ w`, value and gradient; on platforms other than CPUs it lowers to the same products."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathways_kernels.linear import linear


def matmul(x, w):
    return x @ w


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradients(function, x, w, cotangent):
    value, pull_back = jax.vjp(function, x, w)
    return value, *pull_back(cotangent)


def operands(leading, n_in, n_out, dtype, seed=0):
    random = np.random.default_rng(seed)
    shapes = ((*leading, n_in), (n_in, n_out), (*leading, n_out))
    return [jnp.asarray(random.normal(size=shape), dtype) for shape in shapes]


@settings(max_examples=10)
@given(st.lists(st.integers(1, 4), max_size=3), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_equals_matmul(leading, n_in, n_out, seed):
    x, w, cotangent = operands(leading, n_in, n_out, jnp.float32, seed)
    for ours, plain in zip(
        value_and_gradients(linear, x, w, cotangent), value_and_gradients(matmul, x, w, cotangent), strict=True
    ):
        assert (ours.shape, ours.dtype) == (plain.shape, plain.dtype)
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-5)


def test_bfloat16_rounds_the_exact_product_once():
    x, w, cotangent = operands((3, 32), 256, 64, jnp.bfloat16)
    wide = [a.astype(jnp.float32) for a in (x, w, cotangent)]
    for ours, exact in zip(
        value_and_gradients(linear, x, w, cotangent), value_and_gradients(matmul, *wide), strict=True
    ):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_allclose(ours.astype(jnp.float32), exact, rtol=2**-8, atol=1e-3)


def test_same_inside_scan_vmap_and_remat():
    x, w, cotangent = operands((5, 4), 8, 8, jnp.float32)

    def twice(product):
        body = jax.checkpoint(lambda x, w: (jnp.tanh(product(x, w)), None))
        return lambda x, w: jax.lax.scan(body, x, jnp.stack([w, w]))[0]

    for transform in (lambda f: f, lambda f: jax.vmap(f, in_axes=(0, None))):
        ours = value_and_gradients(transform(twice(linear)), x, w, cotangent)
        plain = value_and_gradients(transform(twice(matmul)), x, w, cotangent)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, plain)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_other_platforms_get_three_plain_products(platform, dtype):
    step = jax.jit(lambda *a: value_and_gradients(linear, *a))
    text = step.trace(*operands((2, 8), 4, 6, dtype)).lower(lowering_platforms=(platform,)).as_text()
    operations = re.findall(r"stablehlo\.(\w+)", text)
    assert operations.count("dot_general") == 3
    assert not {"transpose", "reshape", "convert", "copy", "custom_call"} & set(operations)


@pytest.mark.parametrize(("x", "w"), [((2, 3), (4, 5)), ((), (1, 1)), ((2, 3), (1, 3, 5))])
def test_shapes_that_do_not_fit_are_refused(x, w):
    with pytest.raises(ValueError, match="do not fit"):
        linear(jnp.zeros(x), jnp.zeros(w))
