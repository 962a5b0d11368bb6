"""Weights of domains that are learned in the train step: what is differentiated, in slices, and what is kept."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers.bigram import TIMELINE, assert_same_bits, bigram_losses, jitted_step, make_batch
from helpers.domain_weight_steps import SAMPLE_WEIGHTS, D, state_of_method
from pathways_lite.training.sample_weights import split_halves


def of_domains(seed):
    batch = make_batch(seed)
    return batch._replace(domain=np.asarray([0, 1, 2, 0, 0, 1, 0, 2], np.int32))


def means(params, batch):
    """Mean losses of the domains, [D]."""
    losses = bigram_losses(params, batch, None).nll
    of = batch.domain[:, None] == np.arange(D)
    sizes = (batch.loss_weights.sum(axis=1)[:, None] * of).sum(axis=0)
    return jnp.sum(jnp.sum(batch.loss_weights * losses, axis=1)[:, None] * of, axis=0) / sizes


def test_the_loss_is_the_mean_of_the_domains_losses_by_their_weights_and_the_logged_one_is_plain():
    """However often each domain is read."""
    state, batch = state_of_method("doremi"), of_domains(0)
    after, metrics = jitted_step(weights=SAMPLE_WEIGHTS["doremi"])(state, batch, TIMELINE.clock(0))
    weights = after.method_state.memory.weights

    @jax.jit
    @jax.grad
    def gradient(params):
        z_loss = jnp.average(jnp.square(bigram_losses(params, batch, None).log_z), weights=batch.loss_weights)
        return jnp.dot(weights, means(params, batch)) + 1e-2 * z_loss

    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(gradient(state.params)), rtol=1e-5)
    losses = bigram_losses(state.params, batch, None).nll
    np.testing.assert_allclose(metrics["loss"], np.average(losses, weights=batch.loss_weights), rtol=1e-6)


def test_doges_scores_are_those_of_exact_gradients_of_the_halves_of_the_whole_batch():
    """The gradients of a step in slices."""
    state, batch = state_of_method("doge"), of_domains(0)
    batch.loss_weights[:] = np.maximum(batch.loss_weights, 0.1)
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    jacobian = jax.jit(jax.jacobian(means))

    def gradients(half):
        found = jax.tree.leaves(jacobian(state.params, half))
        return np.concatenate([np.asarray(leaf).reshape(D, -1) for leaf in found], axis=1)

    one, other = split_halves(batch, key, D)
    towards = gradients(one).sum(axis=0)
    expected = gradients(other) @ towards / np.linalg.norm(towards)
    _, metrics = jitted_step(weights=SAMPLE_WEIGHTS["doge"], microbatch=2)(state, batch, TIMELINE.clock(0))
    np.testing.assert_allclose(metrics["domain_scores"], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_slices_learn_what_the_whole_batch_does():
    whole, parts = state_of_method("doremi"), state_of_method("doremi")
    for step in range(3):
        whole, _ = jitted_step(weights=SAMPLE_WEIGHTS["doremi"])(whole, of_domains(step), TIMELINE.clock(step))
        parts, _ = jitted_step(weights=SAMPLE_WEIGHTS["doremi"], microbatch=2)(
            parts, of_domains(step), TIMELINE.clock(step)
        )
    assert whole.method_state.memory.steps == 3
    assert np.ptp(whole.method_state.memory.weights) > 0.01
    for a, b in zip(
        jax.tree.leaves((parts.params, parts.method_state)),
        jax.tree.leaves((whole.params, whole.method_state)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_step_that_is_dropped_teaches_nothing():
    batch = of_domains(9)
    batch.loss_weights[3, 2] = np.inf
    state = state_of_method("doremi")
    after, metrics = jitted_step(weights=SAMPLE_WEIGHTS["doremi"])(state, batch, TIMELINE.clock(0))
    assert metrics["ok"] == 0
    assert_same_bits(after._replace(step=state.step), state)
