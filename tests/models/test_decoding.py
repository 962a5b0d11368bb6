"""Decoding step by step through the cache gives the logits of the whole sequence."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite import models

step = jax.jit(models.step, static_argnums=0)
merge = jax.jit(models.merge)


def whole(config, params, batch):
    return models.logits(config, params, models.apply(config, params, batch.tokens, batch.positions, batch.spans))


def read(config, weights, cache, tokens, start, prefix_length=0):
    """Read tokens [B, T] behind the cache's first `start` [B] entries: their logits, and the cache with them."""
    start = jnp.asarray(start, jnp.int32)
    recent = models.empty_cache(config, *tokens.shape)
    hidden, recent = step(config, weights, cache, recent, tokens, start, 0, prefix_length)
    return models.step_logits(config, weights, hidden), merge(
        cache, recent, start, jnp.full_like(start, tokens.shape[1])
    )


def test_prefill_and_steps_equal_the_forward_pass(config, make_batch, make_params):
    params, batch = make_params(config), make_batch(config)
    expected = jax.jit(whole, static_argnums=0)(config, params, batch)
    weights, prompt = models.unstack(config, params), 5
    seen, cache = read(config, weights, models.empty_cache(config, 2, 15), batch.tokens[:, :prompt], [0, 0])
    np.testing.assert_allclose(seen, expected[:, :prompt], atol=1e-4)
    start, recent = jnp.full(2, prompt), models.empty_cache(config, 2, 4)
    for t in range(prompt, 9):
        hidden, recent = step(config, weights, cache, recent, batch.tokens[:, t : t + 1], start, t - prompt)
        np.testing.assert_allclose(models.step_logits(config, weights, hidden)[:, 0], expected[:, t], atol=1e-4)
    cache = merge(cache, recent, start, jnp.full(2, 4))
    for t in range(9, 12):
        seen, cache = read(config, weights, cache, batch.tokens[:, t : t + 1], [t, t])
        np.testing.assert_allclose(seen[:, 0], expected[:, t], atol=1e-4)


def test_rows_may_stand_at_different_positions(make_model, make_batch, make_params):
    config = make_model(window=(4, None), scan_layers=False)
    params, batch = make_params(config), make_batch(config)
    expected = jax.jit(whole, static_argnums=0)(config, params, batch)
    weights = models.unstack(config, params)
    # Row 1's prompt of 3 is padded to 6 with tokens that are then overwritten.
    prompts = np.array([6, 3])
    padded = batch.tokens[:, :6].copy()
    padded[1, 3:] = 0
    _, cache = read(config, weights, models.empty_cache(config, 2, 12), padded, [0, 0])
    recent = models.empty_cache(config, 2, 3)
    for i in range(3):
        at = prompts + i
        hidden, recent = step(config, weights, cache, recent, batch.tokens[[0, 1], at][:, None], prompts, i)
        seen = models.step_logits(config, weights, hidden)
        np.testing.assert_allclose(seen[:, 0], expected[[0, 1], at], atol=1e-4)
    # Of row 1 only one of the three is kept; the others are overwritten.
    cache = merge(cache, recent, prompts, np.array([3, 1]))
    for i in range(2):
        at = prompts + np.array([3, 1]) + i
        seen, cache = read(config, weights, cache, batch.tokens[[0, 1], at][:, None], at)
        np.testing.assert_allclose(seen[:, 0], expected[[0, 1], at], atol=1e-4)


def test_tokens_of_a_prefix_see_each_other(make_model, make_params):
    config = make_model()
    params, tokens = make_params(config), np.random.default_rng(0).integers(0, config.vocab_size, (2, 8), np.int32)
    weights, prefix = models.unstack(config, params), np.array([5, 0])
    seen, _ = read(config, weights, models.empty_cache(config, 2, 8), tokens, [0, 0], prefix)
    positions = np.broadcast_to(np.arange(8, dtype=np.int32), (2, 8))
    spans = models.decoding.Spans(np.zeros_like(positions), np.maximum(positions + 1, prefix[:, None]))
    hidden = jax.jit(functools.partial(models.apply, config))(params, tokens, positions, spans)
    np.testing.assert_allclose(seen, models.logits(config, params, hidden), atol=1e-4)
