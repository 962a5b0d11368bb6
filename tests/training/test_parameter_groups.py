"""Groups of parameters: against an own float64 AdamW, for every optimizer by its meaning, by layer, with `freeze`."""

import functools

import jax
import numpy as np
import pytest
from pydantic import ValidationError

from helpers.small_models import random_params
from helpers.small_steps import components
from pathways_lite.models.trainable import make_trainable
from pathways_lite.recipe import (
    SGD,
    Adafactor,
    AdamW,
    Constant,
    Lion,
    Muon,
    ParameterGroup,
    ScheduleFree,
)

FLAT = Constant()
MATRICES = AdamW(learning_rate=0.01, schedule=FLAT, weight_decay=0.3, clip_norm=None)
OPTIMIZERS = [
    AdamW(schedule=FLAT, weight_decay=0.5),
    Adafactor(schedule=FLAT),
    Lion(schedule=FLAT, weight_decay=0.5),
    Muon(schedule=FLAT, weight_decay=0.5),
    ScheduleFree(schedule=FLAT, weight_decay=0.5),
    SGD(schedule=FLAT, momentum=0.9),
]


def kind(config):
    return config.kind


@functools.cache
def updates_of(config, steps=1, freeze=None):
    """Gradients, parameters, and the updates of the last of several steps at the same parameters."""
    parts = components(optimizer=config, freeze=freeze)
    params = random_params(parts.stage.model)
    rng = np.random.default_rng(0)
    grads = [jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), params) for _ in range(steps)]
    state, update = parts.optimizer.init(params), jax.jit(parts.optimizer.update)
    updates = None
    for k, g in enumerate(grads):
        updates, state = update(parts.spec.trainable.rows(g), state, params, clock=parts.timeline.clock(k))
    return grads, params, jax.device_get(updates)


def test_two_groups_against_an_own_adamw():
    groups = (
        ParameterGroup(parameters=("embedding", "layers.0-1"), rate=0.25, weight_decay=0.05),
        ParameterGroup(parameters=("*.scale", "layers.3.attention.q"), rate=2.0),
    )
    config = MATRICES.model_copy(update={"groups": groups})
    grads, params, updates = updates_of(config, steps=3)

    def own(name, layer, g, p):
        """One array of one block, in float64."""
        matrix = p.ndim >= 2
        rate, decay = 1.0, 0.3 if matrix else 0.0
        if name == "embedding" or layer in (0, 1):
            rate, decay = 0.25, 0.05
        elif name.endswith("scale") or (name == "layers.attention.q" and layer == 3):
            rate = 2.0
        m = v = 0.0
        for x in np.float64(g):
            m, v = 0.9 * m + 0.1 * x, 0.95 * v + 0.05 * x * x
        step = (m / (1 - 0.9**3)) / (np.sqrt(v / (1 - 0.95**3)) + 1e-8)
        return -0.01 * rate * (step + decay * np.float64(p))

    def check(path, p, update, *gs):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if not name.startswith("layers."):
            np.testing.assert_allclose(update, own(name, None, gs, p), rtol=2e-5, atol=1e-9, err_msg=name)
            return
        for layer in range(len(p)):
            expected = own(name, layer, [g[layer] for g in gs], p[layer])
            np.testing.assert_allclose(update[layer], expected, rtol=2e-5, atol=1e-9, err_msg=f"{name} {layer}")

    jax.tree.map_with_path(check, params, updates, *grads)


@pytest.mark.parametrize("config", OPTIMIZERS, ids=kind)
def test_a_group_of_everything_with_the_rate_one_changes_nothing(config):
    *_, plain = updates_of(config)
    *_, grouped = updates_of(config.model_copy(update={"groups": (ParameterGroup(parameters=("*",)),)}))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), grouped, plain)


@pytest.mark.parametrize("config", OPTIMIZERS, ids=kind)
def test_a_rate_is_another_learning_rate_for_its_group_alone(config):
    """As if the whole optimizer had that rate there; what is decayed, and by what rule, stays."""
    group = ParameterGroup(parameters=("layers.1-2", "embedding"), rate=0.5)
    *_, plain = updates_of(config)
    rates = {
        name: 0.5 * getattr(config, name) for name in ("learning_rate", "adam_learning_rate") if hasattr(config, name)
    }
    *_, half = updates_of(config.model_copy(update=rates))
    *_, grouped = updates_of(config.model_copy(update={"groups": (group,)}))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-9)  # noqa: E731
    close(grouped["embedding"], half["embedding"])
    close(grouped["final_norm"]["scale"], plain["final_norm"]["scale"])
    for name in ("q", "out"):
        close(grouped["layers"]["attention"][name][1:3], half["layers"]["attention"][name][1:3])
        close(grouped["layers"]["attention"][name][[0, 3]], plain["layers"]["attention"][name][[0, 3]])


@pytest.mark.parametrize("config", OPTIMIZERS, ids=kind)
def test_a_weight_decay_is_of_all_parameters_of_its_group(config):
    """Norm scales too; per step, `decay` times the group's rate of each parameter is taken away."""
    without, with_decay = (
        (ParameterGroup(parameters=("layers.norm", "layers.3.mlp", "final_norm"), rate=0.5, weight_decay=decay),)
        for decay in (0.0, 0.2)
    )
    _, params, plain = updates_of(config.model_copy(update={"groups": without}))
    *_, decayed = updates_of(config.model_copy(update={"groups": with_decay}))
    difference = jax.tree.map(lambda a, b: a - b, decayed, plain)
    of_matrices, of_others = config.learning_rate, getattr(config, "adam_learning_rate", config.learning_rate)
    if isinstance(config, ScheduleFree):  # the first step's update is (1 - b1) of the iterate's, up to rounding
        return
    np.testing.assert_allclose(
        difference["layers"]["norm"]["scale"], -0.5 * 0.2 * of_others * params["layers"]["norm"]["scale"], rtol=1e-2
    )
    expected = -0.5 * 0.2 * of_matrices * params["layers"]["mlp"]["up"][3]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(difference["layers"]["mlp"]["up"][3], expected, atol=1e-2 * scale)
    np.testing.assert_array_equal(difference["layers"]["mlp"]["up"][:3], 0.0)
    np.testing.assert_array_equal(difference["embedding"], 0.0)


@pytest.mark.parametrize("config", OPTIMIZERS, ids=kind)
def test_groups_and_frozen_blocks_go_together(config):
    """The rows that are trained move as without `freeze`, where nothing is clipped."""
    group = ParameterGroup(parameters=("layers.2-3",), rate=0.5)
    config = config.model_copy(update={"groups": (group,), "clip_norm": None})
    freeze = ("layers.0.mlp", "layers.3")
    *_, whole = updates_of(config)
    *_, frozen = updates_of(config, freeze=freeze)
    expected = make_trainable(components().stage.model, freeze).rows(whole)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-9), frozen, expected)


def test_rates_that_cannot_be_meant_are_refused():
    with pytest.raises(ValidationError, match="the group embedding has the absurd rate 30"):
        AdamW(learning_rate=0.3, groups=(ParameterGroup(parameters="embedding", rate=100.0),))
    with pytest.raises(ValidationError, match=r"together 1\.5 of each weight"):
        AdamW(learning_rate=0.1, weight_decay=0.1, groups=(ParameterGroup(parameters="*", weight_decay=15.0),))
    with pytest.raises(ValidationError, match="rate"):
        ParameterGroup(parameters="*", rate=0.0)
