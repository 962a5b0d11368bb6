"""The train step on a bigram model: the loss's definition, accumulation, dropped updates, donation, determinism."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers.bigram import (
    CONFIG,
    OVERFLOW,
    TIMELINE,
    B,
    T,
    assert_same_bits,
    bigram_losses,
    initial_state,
    jitted_step,
    make_batch,
    take_steps,
)
from pathways_lite.checkpoints.finite import join_some, non_finite_arrays
from pathways_lite.models import Auxiliary, TokenLosses
from pathways_lite.recipe import ScheduleFree


def test_metrics_are_the_weighted_means_of_their_definitions():
    batch, state = make_batch(0), initial_state()
    _, metrics = jitted_step()(state, batch, TIMELINE.clock(1))
    assert all(value.shape == () and value.dtype == jnp.float32 for value in metrics.values())
    losses = jax.jit(bigram_losses)(state.params, batch, None)
    loss, log_z = np.float64(losses.nll), np.float64(losses.log_z)
    weights = np.float64(batch.loss_weights)
    np.testing.assert_allclose(metrics["loss"], (weights * loss).sum() / weights.sum(), rtol=1e-6)
    np.testing.assert_allclose(metrics["z_loss"], 1e-2 * (weights * log_z**2).sum() / weights.sum(), rtol=1e-6)
    np.testing.assert_allclose(metrics["learning_rate"], 0.02 * 2 / 5, rtol=1e-6)
    assert metrics["tokens_with_loss"] == (weights > 0).sum()
    assert metrics["ok"] == 1

    def total(params):
        loss, log_z, *_ = bigram_losses(params, batch, None)
        return jnp.sum(batch.loss_weights * (loss + 1e-2 * log_z**2)) / weights.sum()

    grads = jax.jit(jax.grad(total))(state.params)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(grads), rtol=1e-5)


def smoothed_losses(params, batch, key):
    """Label smoothing of 0.1 over the vocabulary."""
    nll, log_z, *_ = bigram_losses(params, batch, key)
    logits = params["embedding"][batch.tokens] @ params["head"].T
    return TokenLosses(nll, log_z, smoothed_nll=0.9 * nll + 0.1 * (log_z - logits.mean(-1)))


@pytest.mark.parametrize("microbatch", [None, 2])
def test_smoothed_losses_are_trained_on_and_the_plain_one_is_logged(microbatch):
    batch = make_batch(0)
    plain = lambda params, batch, key: TokenLosses(smoothed_losses(params, batch, key).smoothed_nll, jnp.zeros((B, T)))  # noqa: E731
    as_nll, expected = jitted_step(loss_fn=plain, z_loss=0.0)(initial_state(), batch, TIMELINE.clock(1))
    step = jitted_step(loss_fn=smoothed_losses, z_loss=0.0, microbatch=microbatch)
    smoothed, metrics = step(initial_state(), batch, TIMELINE.clock(1))
    _, unsmoothed = jitted_step(z_loss=0.0)(initial_state(), batch, TIMELINE.clock(1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6), smoothed.params, as_nll.params)
    np.testing.assert_allclose(metrics["smoothed_loss"], expected["loss"], rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], unsmoothed["loss"], rtol=1e-6)
    assert abs(metrics["smoothed_loss"] - metrics["loss"]) > 1e-3
    assert "smoothed_loss" not in unsmoothed


@pytest.mark.parametrize("microbatch", [1, 4])
def test_accumulation_equals_the_whole_batch(microbatch):
    batches = [make_batch(seed) for seed in range(3)]
    whole, whole_losses = take_steps(jitted_step(), initial_state(), batches)
    parts, part_losses = take_steps(jitted_step(microbatch=microbatch), initial_state(), batches)
    np.testing.assert_allclose(part_losses, whole_losses, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6), parts.params, whole.params)


def masked(params, clock):
    return params | {"head": (0.5 + clock.step) * params["head"]}


def losses_under_masks(params, batch, key):
    return bigram_losses(masked(params, TIMELINE.clock(1)), batch, key)


def test_a_view_is_what_the_model_computes_with():
    """Its gradient is of what is trained, with slices of the batch, too."""
    batch, clock = make_batch(0), TIMELINE.clock(1)
    viewed, metrics = jitted_step(reparameterize=masked, microbatch=4)(initial_state(), batch, clock)
    composed, expected = jitted_step(loss_fn=losses_under_masks)(initial_state(), batch, clock)
    np.testing.assert_allclose(metrics["grad_norm"], expected["grad_norm"], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6), viewed.params, composed.params)


def test_a_microbatch_that_does_not_divide_the_batch_is_refused():
    with pytest.raises(ValueError, match="microbatch=3 does not divide a batch of 8 samples"):
        jax.eval_shape(jitted_step(microbatch=3), initial_state(), make_batch(0), TIMELINE.clock(0))


def poisoned(how):
    batch = make_batch(9)
    if how == "loss":
        batch.loss_weights[3, 2] = math.inf
    elif how == "nan weight":
        batch.loss_weights[3, 2] = math.nan
    else:
        batch.targets[3, 2], batch.loss_weights[3, 2] = OVERFLOW, 1.0
    return batch


@pytest.mark.parametrize(
    ("config", "microbatch"), [(CONFIG, None), (CONFIG, 4), (ScheduleFree(), None)], ids=["adamw", "slices", "average"]
)
@pytest.mark.parametrize("how", ["loss", "nan weight", "gradient"])
def test_an_update_that_is_not_finite_leaves_everything_as_it_was(how, config, microbatch):
    step = jitted_step(config, microbatch)
    before, _ = take_steps(step, initial_state(config), [make_batch(1), make_batch(2)])
    after, metrics = step(before, poisoned(how), TIMELINE.clock(2))
    assert metrics["ok"] == 0
    assert math.isfinite(metrics["loss"]) == (how == "gradient")
    assert not math.isfinite(metrics["grad_norm"])
    assert after.step == 3
    assert_same_bits(after._replace(step=before.step), before)
    # The run goes on as if that step had not been.
    assert_same_bits(
        step(after, make_batch(3), TIMELINE.clock(3))[0].params,
        step(before, make_batch(3), TIMELINE.clock(3))[0].params,
    )


def test_a_batch_without_loss_has_loss_zero_and_moves_no_moment():
    batch = make_batch(0)
    batch.loss_weights[:] = 0.0
    state = initial_state()
    after, metrics = jitted_step()(state, batch, TIMELINE.clock(0))
    assert (metrics["ok"], metrics["loss"], metrics["grad_norm"], metrics["tokens_with_loss"]) == (1, 0, 0, 0)
    assert optax.tree.norm(optax.tree.get(after.opt_state, "mu")) == 0


def test_donation_frees_the_old_state_and_changes_no_bit():
    batches = [make_batch(seed) for seed in range(3)]
    key, state = jax.random.key(3), initial_state()
    donated, _ = take_steps(jitted_step(donate=True), state, batches)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.opt_state)))
    assert not key.is_deleted()
    assert_same_bits(donated, take_steps(jitted_step(), initial_state(), batches)[0])


def test_two_runs_and_two_compilations_agree_to_the_bit():
    batches = [make_batch(seed) for seed in range(4)]
    again = jitted_step.__wrapped__()  # compiled anew
    first, losses = take_steps(jitted_step(), initial_state(), batches)
    second, same_losses = take_steps(again, initial_state(), batches)
    assert losses == same_losses
    assert_same_bits(second, first)


def test_each_step_and_slice_has_a_key_of_its_own_that_depends_on_the_step_alone():
    def noise(params, batch, key):
        nll = jax.random.uniform(key, batch.tokens.shape) + 0 * params["head"].sum()
        return TokenLosses(nll, jnp.zeros(batch.tokens.shape))

    batch = make_batch(0)
    batch.loss_weights[:] = 1.0
    step = jitted_step(loss_fn=noise, z_loss=0.0)
    _, losses = take_steps(step, initial_state(), [batch] * 4)
    assert len(set(losses)) == 4
    third = initial_state()._replace(step=jnp.int32(2))
    assert float(step(third, batch, TIMELINE.clock(2))[1]["loss"]) == losses[2]
    other_key = initial_state()._replace(key=jax.random.key_data(jax.random.key(4)))
    assert float(step(other_key, batch, TIMELINE.clock(0))[1]["loss"]) != losses[0]


def test_the_loss_falls():
    batch = make_batch(0)
    _, losses = take_steps(jitted_step(), initial_state(), [batch] * 60)
    assert losses[-1] < 0.5 * losses[0]


def routed_losses(params, batch, key):
    """The bigram model with an auxiliary loss and a metric, both means over the batch's positions."""
    losses = bigram_losses(params, batch, key)
    share = jnp.mean(params["embedding"][batch.tokens] ** 2)
    return losses._replace(auxiliary=Auxiliary({"balance_loss": 0.1 * share}, {"largest_share": 2.0 * share}))


@pytest.mark.parametrize("microbatch", [None, 4])
def test_auxiliary_losses_are_trained_on_and_logged(microbatch):
    """As a router's would be: added to the loss that is differentiated, not to the one that is logged."""
    batch, state, clock = make_batch(0), initial_state(), TIMELINE.clock(1)
    batch.loss_weights[:] = 1.0
    _, metrics = jitted_step(loss_fn=routed_losses, microbatch=microbatch)(state, batch, clock)

    @jax.jit
    @jax.grad
    def gradient(params):
        losses = routed_losses(params, batch, None)
        main = jnp.mean(losses.nll + 1e-2 * losses.log_z**2)
        return main + losses.auxiliary.losses["balance_loss"]

    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(gradient(state.params)), rtol=1e-5)
    auxiliary = routed_losses(state.params, batch, None).auxiliary
    np.testing.assert_allclose(metrics["balance_loss"], auxiliary.losses["balance_loss"], rtol=1e-5)
    np.testing.assert_allclose(metrics["largest_share"], auxiliary.metrics["largest_share"], rtol=1e-5)
    plain = jitted_step(microbatch=microbatch)(state, batch, clock)[1]
    np.testing.assert_allclose(metrics["loss"], plain["loss"], rtol=1e-6)
    assert abs(metrics["grad_norm"] - plain["grad_norm"]) > 1e-4


def test_an_auxiliary_loss_that_is_not_finite_drops_the_update():
    def infinite(params, batch, key):
        return bigram_losses(params, batch, key)._replace(
            auxiliary=Auxiliary({"balance_loss": jnp.float32(jnp.inf)}, {})
        )

    state = initial_state()
    after, metrics = jitted_step(loss_fn=infinite)(state, make_batch(0), TIMELINE.clock(0))
    assert metrics["ok"] == 0
    assert_same_bits(after._replace(step=state.step), state)


@pytest.mark.parametrize(
    ("moment", "value", "usable"),
    [("mu", np.nan, False), ("mu", np.inf, False), ("nu", np.nan, False), ("nu", 1.0, True)],
)
def test_an_update_that_is_not_finite_is_noticed_though_loss_and_gradient_are(moment, value, usable):
    state = initial_state()
    damage = lambda path, leaf: (  # noqa: E731
        leaf.at[2, 1].set(value) if moment in jax.tree_util.keystr(path) and leaf.shape == (7, 5) else leaf
    )
    state = state._replace(opt_state=jax.tree.map_with_path(damage, state.opt_state))
    _, metrics = jitted_step()(state, make_batch(0), TIMELINE.clock(1))
    assert metrics["ok"] == 1
    assert metrics["usable"] == usable


def test_arrays_that_hold_nan_or_infinities_are_named():
    state = {"a": jnp.ones(3), "b": [jnp.array([1.0, jnp.nan]), jnp.zeros((0,))], "c": jnp.array(-jnp.inf)}
    state |= {"d": jnp.float32(3e38), "e": jnp.array([2**31 - 1])}
    assert non_finite_arrays(state) == ["b.0", "c"]
    assert join_some(list("abcdef"), 4) == "a, b, c, d and 2 more"
