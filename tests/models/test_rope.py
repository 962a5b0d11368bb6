"""RoPE turns pairs by an angle that grows with the position."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pathways_lite.models.layers import rotary, rotate


def turned(x, position, base=10_000.0):
    positions = jnp.full((1, 1), position, jnp.int32)
    return np.asarray(rotate(x[None, None, None], rotary(positions, x.size, base)))[0, 0, 0]


@settings(max_examples=25)
@given(st.integers(0, 2000), st.integers(0, 2000), st.integers(0, 2000), st.integers(0, 9))
def test_products_depend_on_the_distance_alone(i, j, shift, seed):
    q, k = jax.random.normal(jax.random.key(seed), (2, 16))
    near = turned(q, i) @ turned(k, j)
    far = turned(q, i + shift) @ turned(k, j + shift)
    np.testing.assert_allclose(near, far, atol=5e-3)


def test_half_split_pairs_and_angles():
    x = jnp.array([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(turned(x, 0), x)
    for position in (1, 5):
        a, b = position, position * 100.0**-0.5
        pairs = np.array([(1 + 3j) * np.exp(1j * a), (2 + 4j) * np.exp(1j * b)])
        np.testing.assert_allclose(turned(x, position, 100.0), [*pairs.real, *pairs.imag], rtol=1e-5)


def test_large_positions_keep_float32_precision_in_bfloat16():
    x = jnp.ones(8, jnp.bfloat16)
    exact = turned(x.astype(jnp.float32), 1999)
    np.testing.assert_allclose(turned(x, 1999).astype(np.float32), exact, atol=1e-2)
