"""Decoding through the cache gives the logits of the whole sequence."""

import jax
import numpy as np
import pytest

from pathways_lite import models
from pathways_lite.errors import UserError

decode = jax.jit(models.decode, static_argnums=0)


def whole(config, params, batch):
    return models.logits(config, params, models.apply(config, params, batch.tokens, batch.positions, batch.spans))


def test_prefill_and_steps_equal_the_forward_pass(config, make_batch, make_params):
    params, batch = make_params(config), make_batch(config)
    expected = jax.jit(whole, static_argnums=0)(config, params, batch)
    prompt = 5
    seen, cache = decode(config, params, models.init_cache(config, 2, 15), batch.tokens[:, :prompt], 0)
    np.testing.assert_allclose(seen, expected[:, :prompt], atol=1e-4)
    for t in range(prompt, 12):
        seen, cache = decode(config, params, cache, batch.tokens[:, t : t + 1], t)
        np.testing.assert_allclose(seen[:, 0], expected[:, t], atol=1e-4)


def test_rows_may_stand_at_different_positions(make_model, make_batch, make_params):
    config = make_model(window=(4, None), scan_layers=False)
    params, batch = make_params(config), make_batch(config)
    expected = jax.jit(whole, static_argnums=0)(config, params, batch)
    # Row 1's prompt of 3 is padded to 6 with tokens that are then overwritten.
    prompts = np.array([6, 3])
    padded = batch.tokens[:, :6].copy()
    padded[1, 3:] = 0
    _, cache = decode(config, params, models.init_cache(config, 2, 12), padded, 0)
    for step in range(4):
        at = prompts + step
        seen, cache = decode(config, params, cache, batch.tokens[[0, 1], at][:, None], at)
        np.testing.assert_allclose(seen[:, 0], expected[[0, 1], at], atol=1e-4)


def test_a_full_cache_refuses(make_model, make_batch, make_params):
    config = make_model()
    params, batch = models.abstract_params(config), make_batch(config)
    with pytest.raises(UserError, match="positions 9 to 10 do not fit into a cache for 10"):
        jax.eval_shape(
            lambda p: models.decode(config, p, models.init_cache(config, 2, 10), batch.tokens[:, :2], 9), params
        )
