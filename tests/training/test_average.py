"""The moving average of parameters: its definition, warm-up, intervals, dropped steps."""

import jax
import numpy as np
import pytest
from pydantic import ValidationError

from helpers.small_recipes import make_stage
from helpers.small_steps import batch, components
from pathways_lite.recipe import EMA, Prune, ScheduleFree
from pathways_lite.training.average import start_average, update_average


def averages(config, params):
    """The averages after each of several parameters, by an own loop in float64."""
    average, n, results = np.float64(params[0]), 0, []
    for step, p in enumerate(params[1:], 1):
        if step % config.every == 0:
            decay = min(config.decay, (1 + n) / (10 + n)) if config.warmup else config.decay
            average, n = decay * average + (1 - decay) * np.float64(p), n + 1
        results.append((average, n))
    return results


@pytest.mark.parametrize(
    "config", [EMA(decay=0.9), EMA(decay=0.9, warmup=True), EMA(decay=0.5, every=3), EMA(decay=0.0)], ids=str
)
def test_an_average_is_its_definition(config):
    params = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    average, update = start_average({"w": params[0]}), jax.jit(update_average, static_argnums=0)
    for step, (expected, n) in enumerate(averages(config, params), 1):
        average = update(config, average, {"w": params[step]}, np.int32(step))
        np.testing.assert_allclose(average.params["w"], expected, rtol=1e-5, atol=1e-6)
        assert average.count == n


def test_warm_up_by_known_decays():
    """From 0 to 1 with decays 1/10, 2/11, 3/12: what is left of the start is their product."""
    average = start_average(np.float32([0.0]))
    for step in (1, 2, 3):
        average = update_average(EMA(decay=0.999, warmup=True), average, np.float32([1.0]), np.int32(step))
    np.testing.assert_allclose(1 - average.params[0], 1 / 10 * 2 / 11 * 3 / 12, rtol=1e-4)


def test_the_step_averages_what_it_trained_and_drops_with_it():
    parts = components(ema=EMA(decay=0.75))
    step, state = jax.jit(parts.step_function), parts.fresh_state()
    before = jax.device_get(state)
    state, _ = step(state, batch(0), parts.timeline.clock(0))
    jax.tree.map(
        lambda a, p, new: np.testing.assert_allclose(a, p + 0.25 * (new - p), rtol=1e-6, atol=1e-7),
        jax.device_get(state.average.params), before.params, jax.device_get(state.params),
    )  # fmt: skip
    broken = batch(1)
    broken.loss_weights[0, 0] = np.nan
    after, metrics = step(state, broken, parts.timeline.clock(1))
    assert metrics["ok"] == 0
    jax.tree.map(np.testing.assert_array_equal, after.average, state.average)


def test_an_average_changes_nothing_of_what_is_trained():
    with_average, plain = (components(ema=ema) for ema in (EMA(decay=0.5), None))
    states = []
    for parts in (with_average, plain):
        state, step = parts.fresh_state(), jax.jit(parts.step_function)
        for k in range(3):
            state, _ = step(state, batch(k), parts.timeline.clock(k))
        states.append(jax.device_get(state))
    assert states[1].average == ()
    jax.tree.map(np.testing.assert_array_equal, states[0]._replace(average=()), states[1])


def test_combinations_without_a_meaning_are_refused():
    with pytest.raises(ValidationError, match="schedule_free has an average of its own"):
        make_stage(ema=EMA(), optimizer=ScheduleFree())
    with pytest.raises(ValidationError, match="pruning changes parameters that freeze keeps"):
        make_stage(freeze="embedding", pruning=Prune(sparsity=0.5))
