"""SwiGLU's gating computes its definition, and keeps only what it was given for the backward pass."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pathways_lite import models
from pathways_lite.models.layers import gated


@settings(max_examples=25)
@given(st.integers(0, 99), st.floats(0.1, 20.0))
def test_value_and_gradient_are_those_of_the_definition(seed, spread):
    gate, up, cotangent = spread * np.asarray(jax.random.normal(jax.random.key(seed), (3, 2, 5)), np.float64)
    sigmoid = 1 / (1 + np.exp(-gate))
    value, pull = jax.vjp(gated, jnp.float32(gate), jnp.float32(up))
    slope = sigmoid * (1 + gate * (1 - sigmoid))
    for found, expected in zip(
        (value, *pull(jnp.float32(cotangent))),
        (gate * sigmoid * up, cotangent * up * slope, cotangent * gate * sigmoid),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * spread**2)


def test_a_layer_keeps_three_arrays_of_the_width_of_the_mlp(make_model, make_batch):
    config = make_model(d_ff=52)
    params, batch = models.abstract_params(config), make_batch(config)
    kept = jax.eval_shape(lambda p: jax.vjp(lambda p: models.token_losses(config, p, batch)[0].sum(), p)[1], params)
    width = [leaf.shape for leaf in jax.tree.leaves(kept) if leaf.shape == (config.n_layers, *batch.tokens.shape, 52)]
    assert len(width) == 3  # gate, up and their product
