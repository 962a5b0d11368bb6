"""Every optimizer against optax's own and by its properties: decay, clipping, the clock, stacked layers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib
from pydantic import ValidationError

from pathways_lite.ledger import Clock, Timeline
from pathways_lite.models.params import is_matrix, matrix_sides
from pathways_lite.recipe import (
    SGD,
    Adafactor,
    AdamW,
    Constant,
    Lion,
    Muon,
    Ramp,
    ScheduleFree,
    Steps,
    Tokens,
)
from pathways_lite.training.optimizers import build_optimizer, clip, evaluation_params, learning_rate_fn

ALL = [AdamW(), Adafactor(), Lion(), Muon(), ScheduleFree(), SGD()]
DECAYING = [AdamW(weight_decay=0.5), Lion(weight_decay=0.5), Muon(weight_decay=0.5), ScheduleFree(weight_decay=0.5)]
FLAT = Constant()
COURSE = Timeline(Ramp(steps=((0, 2),)), seq_len=4, flops_per_token=1, active_parameters=1, budget=Steps(n=60))
AXES = {
    "embedding": ("vocab", "embed"),
    "layers": {
        "norm": ("layers", "embed"),
        "query": ("layers", "embed", "heads", "head_dim"),
        "out": ("layers", "heads", "head_dim", "embed"),
        "up": ("layers", "embed", "mlp"),
    },
}
KERNELS = ("query", "out", "up")


def changed(config: Any, **fields: Any) -> Any:
    """Return the optimizer with other values of the fields that it has."""
    return config.model_copy(
        update={name: value for name, value in fields.items() if name in type(config).model_fields}
    )


def kind(config):
    return config.kind


def tree(seed, scale=1.0):
    sizes = {"layers": 2, "embed": 6, "heads": 2, "head_dim": 2, "mlp": 12, "vocab": 5}
    rng = np.random.default_rng(seed)
    draw = lambda names: jnp.asarray(scale * rng.normal(size=[sizes[n] for n in names]), jnp.float32)  # noqa: E731
    return jax.tree.map(draw, AXES, is_leaf=lambda node: isinstance(node, tuple))


def run(optimizer, params, gradients, timeline=COURSE):
    """Parameters and optimizer state after each of the gradients."""
    update = jax.jit(optimizer.update)
    state = jax.jit(optimizer.init)(params)
    path = []
    for k, grads in enumerate(gradients):
        updates, state = update(grads, state, params, clock=timeline.clock(k))
        params = optax.apply_updates(params, updates)
        path.append((params, state))
    return path


def assert_close(actual, expected, rtol=1e-6, atol=1e-7):
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=rtol, atol=atol), actual, expected)


@pytest.mark.parametrize("config", ALL, ids=kind)
def test_minimises_a_quadratic_and_keeps_the_structure_of_its_state(config):
    target, params = tree(1), tree(0)
    changes = {"learning_rate": 0.05, "weight_decay": 0.0, "clip_norm": None}
    optimizer = build_optimizer(changed(config, **changes), COURSE, AXES)
    loss = lambda p: sum(jnp.sum((a - b) ** 2) for a, b in zip(*map(jax.tree.leaves, (p, target)), strict=True))  # noqa: E731

    def step(carry, clock):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params, clock=clock)
        return (optax.apply_updates(params, updates), state), None

    clocks = Clock(*(np.array(c) for c in zip(*(COURSE.clock(k) for k in range(60)), strict=True)))
    state = optimizer.init(params)
    # A scan refuses a state whose structure, shapes or types change.
    (after, state), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, clocks))((params, state))
    assert loss(evaluation_params(state, after)) < 0.7 * loss(params)


def oracle(config):
    """The same optimizer as optax has it, at a constant learning rate."""
    clipped = optax.clip_by_global_norm(1.0)
    matrices = jax.tree.map(is_matrix, AXES, is_leaf=lambda node: isinstance(node, tuple))
    rate = config.learning_rate
    match config:
        case AdamW():
            return optax.chain(clipped, optax.adamw(rate, 0.9, 0.95, 1e-8, weight_decay=0.5, mask=matrices))
        case Lion():
            return optax.chain(clipped, optax.lion(rate, 0.9, 0.99, weight_decay=0.5, mask=matrices))
        case SGD():
            return optax.chain(clipped, optax.sgd(rate, momentum=0.9, nesterov=True))
        case ScheduleFree():
            return optax.chain(clipped, contrib.schedule_free_adamw(rate, b1=0.9, b2=0.95))


@pytest.mark.parametrize(
    "config",
    [
        AdamW(schedule=FLAT, weight_decay=0.5),
        Lion(schedule=FLAT, weight_decay=0.5),
        SGD(schedule=FLAT, momentum=0.9, nesterov=True),
        ScheduleFree(schedule=FLAT),
    ],
    ids=kind,
)
def test_equals_optax_at_a_constant_rate(config):
    gradients = [tree(seed, scale) for seed, scale in ((1, 1.0), (2, 0.01), (3, 3.0), (4, 0.1))]
    params, plain = tree(0), optax.with_extra_args_support(oracle(config))
    expected = run(plain, params, gradients)[-1][0]
    assert_close(run(build_optimizer(config, COURSE, AXES), params, gradients)[-1][0], expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("config", DECAYING, ids=kind)
def test_decay_falls_on_matrices_and_not_on_scales(config):
    """With a gradient of zero nothing else moves. A norm scale stacked over layers has two axes and is no matrix."""
    config = config.model_copy(update={"schedule": FLAT})
    params = tree(0)
    ((after, _),) = run(build_optimizer(config, COURSE, AXES), params, [jax.tree.map(jnp.zeros_like, params)])
    np.testing.assert_allclose(after["layers"]["norm"], params["layers"]["norm"], rtol=2e-7)
    keep = 1 - 0.5 * config.learning_rate
    for name in KERNELS:
        np.testing.assert_allclose(after["layers"][name], keep * params["layers"][name], rtol=1e-6)
    keep = 1 - 0.5 * getattr(config, "adam_learning_rate", config.learning_rate)
    np.testing.assert_allclose(after["embedding"], keep * params["embedding"], rtol=1e-6)


@pytest.mark.parametrize("config", ALL, ids=kind)
def test_the_rate_is_the_clocks_and_not_a_count(config):
    """From the same state, a step twice as far into the warm-up moves twice as far."""
    timeline = Timeline(Ramp(steps=((0, 2),)), 4, 1, 1, budget=Tokens(n=8000))
    config = changed(config, schedule=Constant(warmup=Tokens(n=800)), weight_decay=0.0)
    if isinstance(config, Adafactor):
        config = config.model_copy(update={"weight_decay_exponent": None})
    optimizer, params = build_optimizer(config, timeline, AXES), tree(0)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    early, late = (update(tree(1), state, params, clock=timeline.clock(k))[0] for k in (9, 19))
    assert_close(late, jax.tree.map(lambda u: 2 * u, early), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        learning_rate_fn(config, timeline)(timeline.clock(9)), config.learning_rate / 10, rtol=1e-6
    )


def test_clip_scales_down_to_the_norm_and_leaves_the_rest_alone():
    small, large = tree(0, 1e-3), tree(1, 10.0)
    of = lambda grads, **extra: clip(1.0).update(grads, (), **extra)[0]  # noqa: E731
    jax.tree.map(np.testing.assert_array_equal, of(small), small)
    np.testing.assert_allclose(optax.tree.norm(of(large)), 1.0, rtol=1e-6)
    norm = optax.tree.norm(large)
    assert_close(of(large), jax.tree.map(lambda g: g / norm, large))
    assert_close(of(large, grad_norm=2 * norm), jax.tree.map(lambda g: g / norm / 2, large))  # the given one is used


def test_muon_orthogonalises_the_kernels_of_each_layer_by_itself():
    config = Muon(schedule=FLAT, clip_norm=None)
    optimizer, params, grads = build_optimizer(config, COURSE, AXES), tree(0), tree(1)
    grads["layers"] = jax.tree.map(lambda g: g * jnp.array([1.0, 1e3]).reshape(2, *[1] * (g.ndim - 1)), grads["layers"])
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params, clock=COURSE.clock(0))
    for name, (n_in, n_out) in {"query": (6, 4), "out": (4, 6), "up": (6, 12)}.items():
        for update in updates["layers"][name]:
            singular = np.linalg.svd(update.reshape(n_in, n_out), compute_uv=False)
            singular /= config.learning_rate * max(1, n_out / n_in) ** 0.5
            assert (singular > 0.3).all(), name  # Newton-Schulz brings all of them near 1, not to it
            assert (singular < 1.3).all(), name
    # The rest is Adam's first step: the sign, times its own rate.
    np.testing.assert_allclose(updates["embedding"], -3e-3 * np.sign(grads["embedding"]), rtol=1e-3)
    np.testing.assert_allclose(updates["layers"]["norm"], -3e-3 * np.sign(grads["layers"]["norm"]), rtol=1e-3)


def test_muon_equals_optax_on_the_kernels():
    config = Muon(schedule=FLAT, clip_norm=None)
    dimensions = lambda names: (sides := matrix_sides(names)) and contrib.MuonDimensionNumbers(*sides)  # noqa: E731
    dimensions = jax.tree.map(dimensions, AXES, is_leaf=lambda node: isinstance(node, tuple))
    plain = contrib.muon(config.learning_rate, muon_weight_dimension_numbers=lambda _: dimensions)
    params, gradients = tree(0), [tree(1), tree(2)]
    expected = run(optax.with_extra_args_support(plain), params, gradients)[-1][0]
    got = run(build_optimizer(config, COURSE, AXES), params, gradients)[-1][0]
    for name in KERNELS:
        np.testing.assert_allclose(got["layers"][name], expected["layers"][name], rtol=1e-5, atol=1e-6)


def test_schedule_free_evaluates_the_average_weighted_by_the_clocks_rate():
    """x = sum of w_t z_t / sum of w_t with w_t the square of the largest rate so far."""
    config = ScheduleFree(schedule=Constant(warmup=Steps(n=4)), learning_rate=0.1)
    optimizer, params = build_optimizer(config, COURSE, AXES), tree(0)
    assert_close(evaluation_params(optimizer.init(params), params), params, atol=1e-6)
    path = run(optimizer, params, [tree(seed) for seed in range(1, 7)])
    weights = np.minimum(np.arange(1, 7) / 4, 1) ** 2
    fast = [next(n for n in s if isinstance(n, contrib.ScheduleFreeState)).z for _, s in path]
    average = jax.tree.map(lambda *z: sum(w * x for w, x in zip(weights, z, strict=True)) / weights.sum(), *fast)
    params, state = path[-1]
    assert_close(evaluation_params(state, params), average, rtol=1e-4, atol=1e-5)
    assert_close(params, jax.tree.map(lambda x, z: 0.9 * x + 0.1 * z, average, fast[-1]), rtol=1e-4, atol=1e-5)


def test_schedule_free_refuses_a_momentum_it_would_divide_by():
    with pytest.raises(ValidationError, match="b1"):
        ScheduleFree(b1=0.0)


@pytest.mark.parametrize("config", [c for c in ALL if not isinstance(c, ScheduleFree)], ids=kind)
def test_the_others_evaluate_what_they_train(config):
    params = tree(0)
    assert evaluation_params(build_optimizer(config, COURSE, AXES).init(params), params) is params
