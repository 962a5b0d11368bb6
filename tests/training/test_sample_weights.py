"""Sample weights in the train step: what is differentiated, over slices and chosen rows, and what is never computed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers.bigram import TIMELINE, assert_same_bits, bigram_losses, initial_state, jitted_step, make_batch, take_steps
from helpers.eight_devices import run_on_eight_devices
from pathways_lite.methods.reweighting import statistics, weigh, weights_by_clock
from pathways_lite.models import TokenLosses
from pathways_lite.recipe import LinUpper, Reweighting, Steps, TopLosses, Uniform
from pathways_lite.training.sample_weights import MethodState, SampleWeights, stateless

NOW = Steps(n=0)
LIN_UPPER = Reweighting(rule=LinUpper(), burn_in=NOW)
HALF = Reweighting(rule=TopLosses(fraction=0.5), burn_in=NOW)


def method(how, **fields):
    """Made once, so that steps with it compile once."""
    of_batch = lambda weights, batch, memory: statistics(weights, batch)  # noqa: E731
    return SampleWeights(stateless(weights_by_clock(how, TIMELINE)), of_batch, rows=how.num_kept_rows, **fields)


METHODS = {"row": method(LIN_UPPER), "token": method(LIN_UPPER.model_copy(update={"sample": "token"}))}
SELECTION = method(HALF)


def gradient(weights, params, batch, z_loss=1e-2):
    """By the definition, and its norm as the metrics show it."""

    def total(params):
        loss, log_z, *_ = bigram_losses(params, batch, None)
        return jnp.sum(batch.loss_weights * (weights * loss + z_loss * log_z**2)) / jnp.sum(batch.loss_weights)

    return jax.grad(total)(params)


@pytest.mark.parametrize(("sample", "microbatch"), [("row", None), ("token", 2)])
def test_the_gradient_is_of_weighted_losses_and_of_the_whole_z_loss(sample, microbatch):
    """In slices, too: the weights are those of the whole batch."""
    state, batch = initial_state(), make_batch(0)
    _, metrics = jitted_step(microbatch=microbatch, weights=METHODS[sample])(state, batch, TIMELINE.clock(0))
    losses = bigram_losses(state.params, batch, None).nll
    weights = weigh(LIN_UPPER.model_copy(update={"sample": sample}), losses, batch, 0.4)
    expected = optax.tree.norm(gradient(weights, state.params, batch))
    np.testing.assert_allclose(metrics["grad_norm"], expected, rtol=1e-5)
    _, plain = jitted_step()(state, batch, TIMELINE.clock(0))
    assert abs(metrics["grad_norm"] / plain["grad_norm"] - 1) > 0.01
    for name in ("loss", "z_loss", "tokens_with_loss"):  # unweighted
        np.testing.assert_allclose(metrics[name], plain[name], rtol=1e-6)


@pytest.mark.slow
def test_slices_have_the_weights_and_statistics_of_the_whole_batch():
    batches = [make_batch(seed) for seed in range(3)]
    whole, _ = take_steps(jitted_step(weights=METHODS["row"]), initial_state(), batches)
    parts, _ = take_steps(jitted_step(weights=METHODS["row"], microbatch=2), initial_state(), batches)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6), parts.params, whole.params)
    whole, parts = (
        jitted_step(weights=METHODS["row"], microbatch=m)(initial_state(), batches[0], TIMELINE.clock(0))[1]
        for m in (None, 2)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), parts, whole)


def test_during_the_burn_in_nothing_is_different():
    late = method(LIN_UPPER.model_copy(update={"burn_in": Steps(n=3)}))
    batches = [make_batch(seed) for seed in range(4)]
    plain, _ = take_steps(jitted_step(), initial_state(), batches[:3])
    burnt_in, _ = take_steps(jitted_step(weights=late), initial_state(), batches[:3])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), burnt_in.params, plain.params)
    after, _ = jitted_step(weights=late)(burnt_in, batches[3], TIMELINE.clock(3))
    without, _ = jitted_step()(plain, batches[3], TIMELINE.clock(3))
    assert np.abs(after.params["head"] - without.params["head"]).max() > 1e-5


@pytest.mark.parametrize("microbatch", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_a_selection_trains_on_the_rows_of_highest_loss(microbatch):
    state, batch = initial_state(), make_batch(0)
    batch.loss_weights[:] = 1.0
    _, metrics = jitted_step(microbatch=microbatch, weights=SELECTION)(state, batch, TIMELINE.clock(0))
    losses = np.asarray(bigram_losses(state.params, batch, None).nll)
    rows = np.argsort(losses.mean(axis=1))[4:]
    kept = jax.tree.map(lambda x: x[rows], batch)
    expected = optax.tree.norm(gradient(jnp.ones((4, 1)), state.params, kept))
    np.testing.assert_allclose(metrics["grad_norm"], expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], losses.mean(), rtol=1e-6)  # of all rows
    assert metrics["effective_batch_size"] == 4


def test_a_selection_takes_the_first_rows_during_the_burn_in():
    """However much of a row has loss."""
    batch = make_batch(0)
    batch.loss_weights[:] = 1.0
    batch.loss_weights[:3, 1:] = 0.0
    chosen = SELECTION.select_rows(batch, jnp.ones((8, 1)))
    np.testing.assert_array_equal(chosen.batch.tokens, batch.tokens[:4])


@pytest.mark.slow
def test_rows_that_are_left_out_have_no_backward_pass():
    """Half the rows: a forward pass of all and training on half are 1/3 + 1/2 of the products."""

    def products(params, batch, key):
        del key
        x, square = params["embedding"][batch.tokens], params["embedding"].T @ params["head"]
        for _ in range(20):
            x = jnp.tanh(x @ square)
        return TokenLosses(jnp.sum(jnp.square(x), axis=-1), jnp.zeros(batch.tokens.shape))

    batch = make_batch(0, 64)

    def flops(weights):
        step = jitted_step.__wrapped__(loss_fn=products, weights=weights)
        (cost,) = [step.lower(initial_state(), batch, TIMELINE.clock(0)).compile().cost_analysis()]
        return cost["flops"]

    assert flops(SELECTION) / flops(method(Reweighting(rule=Uniform(), burn_in=NOW))) < 0.9


def test_what_a_reference_already_knows_counts_less():
    """With the model itself as the reference nothing is left: all weights are 1."""
    reference = method(LIN_UPPER, reference_fn=bigram_losses)
    state, batch = initial_state(), make_batch(0)
    state = state._replace(method_state=MethodState(reference=state.params))
    after, metrics = jitted_step(weights=reference)(state, batch, TIMELINE.clock(0))
    np.testing.assert_allclose(metrics["row_weights"][1:], 1, rtol=1e-5)
    assert_same_bits(after.method_state, state.method_state)
    unsure = MethodState(reference=jax.tree.map(jnp.zeros_like, state.params))  # of every token alike
    blank = state._replace(method_state=unsure)
    _, metrics = jitted_step(weights=reference)(blank, batch, TIMELINE.clock(0))
    _, plain = jitted_step(weights=METHODS["row"])(initial_state(), batch, TIMELINE.clock(0))
    np.testing.assert_allclose(metrics["row_weights"], plain["row_weights"], rtol=1e-5)


def test_losses_that_are_not_finite_leave_everything_as_it_was():
    batch = make_batch(9)
    batch.loss_weights[3, 2] = np.inf
    for weights in (METHODS["row"], SELECTION):
        state = initial_state()
        after, metrics = jitted_step(weights=weights)(state, batch, TIMELINE.clock(0))
        assert metrics["ok"] == 0
        assert_same_bits(after._replace(step=state.step), state)


def test_weights_of_a_batch_on_eight_devices_are_those_on_one():
    assert float(run_on_eight_devices("reweight")) < 3e-5  # of numbers up to about 100
