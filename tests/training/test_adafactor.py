"""Adafactor against PaLM's numbers, and layer by layer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pathways_lite.ledger import Timeline
from pathways_lite.recipe import Adafactor, Constant, Ramp, Steps
from pathways_lite.training.optimizers import build_optimizer

COURSE = Timeline(Ramp(steps=((0, 1),)), seq_len=1, flops_per_token=1, active_parameters=1, budget=Steps(n=20_000))


def run(optimizer, params, gradients, first_step=0):
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    path = []
    for k, grads in enumerate(gradients, first_step):
        updates, state = update(grads, state, params, clock=COURSE.clock(k))
        params = optax.apply_updates(params, updates)
        path.append(params)
    return path


def test_three_steps_to_the_last_digit():
    """Decay of v, both clips, parameter scaling, momentum after scaling and lr^2 decay, worked out in float64.

    The second gradient's norm is 3.8, so the global clip is at work; lr is 1e-2 up to step 10,000.
    """
    params = {"w": jnp.array([[0.5, -0.25], [0.125, 1.0]]), "s": jnp.array([1.0, 1.0])}
    gradients = [
        {"w": jnp.array([[0.3, -0.1], [0.2, 0.0]]), "s": jnp.array([0.05, -0.05])},
        {"w": jnp.array([[3.0, 1.0], [-2.0, 0.5]]), "s": jnp.array([0.5, 0.1])},
        {"w": jnp.array([[-0.1, 0.2], [0.0, 0.4]]), "s": jnp.array([0.0, 0.2])},
    ]
    expected = [
        ([0.4993737785, -0.2493987785, 0.1244112785, 0.9999], [0.9989, 1.0009]),
        ([0.4982368854, -0.2494235955, 0.1244485943, 0.9992018751], [0.9966600193, 1.0010203682]),
        ([0.4973275302, -0.2500033362, 0.1244809307, 0.9977072172], [0.9946342717, 0.9997061017]),
    ]
    axes = {"w": ("embed", "mlp"), "s": ("embed",)}
    path = run(build_optimizer(Adafactor(), COURSE, axes), params, gradients)
    for after, (w, s) in zip(path, expected, strict=True):
        np.testing.assert_allclose(after["w"].ravel(), w, rtol=1.5e-7)
        np.testing.assert_allclose(after["s"], s, rtol=1.5e-7)


def test_the_rate_falls_as_the_inverse_root_behind_the_knee_and_the_decay_as_its_square():
    axes, params = {"w": ("vocab", "embed")}, {"w": jnp.full((2, 3), 0.5)}
    gradient = [{"w": jnp.zeros((2, 3))}]
    for k in (10_000, 16_000):
        (after,) = run(build_optimizer(Adafactor(), COURSE, axes), params, gradient, first_step=k - 1)
        np.testing.assert_allclose(after["w"], 0.5 * (1 - 1 / k), rtol=1e-6)
    (kept,) = run(build_optimizer(Adafactor(weight_decay_exponent=None), COURSE, axes), params, gradient)
    np.testing.assert_array_equal(kept["w"], params["w"])


def test_stacked_layers_move_as_separate_ones():
    names = {"kernel": ("embed", "heads", "head_dim"), "norm": ("embed",)}
    shapes = {"kernel": (4, 2, 3), "norm": (4,)}
    scale = np.array([1.0, 10.0, 0.1])  # the RMS differ from layer to layer

    def draw(seed):
        rng = np.random.default_rng(seed)
        return [{n: (scale[i] * rng.normal(size=s)).astype(np.float32) for n, s in shapes.items()} for i in range(3)]

    stack = lambda layers: jax.tree.map(lambda *leaves: np.stack(leaves), *layers)  # noqa: E731
    config = Adafactor(clip_norm=None, schedule=Constant())
    stacked_axes = {n: ("layers", *a) for n, a in names.items()}
    params, gradients = draw(0), [draw(seed) for seed in range(1, 4)]
    together = run(build_optimizer(config, COURSE, stacked_axes), stack(params), [stack(g) for g in gradients])[-1]
    apart = build_optimizer(config, COURSE, names)
    for i in range(3):
        alone = run(apart, params[i], [g[i] for g in gradients])[-1]
        for name in names:
            np.testing.assert_allclose(together[name][i], alone[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("gradient", [0.0, 1e-30, 1e-12, 1e12])
def test_any_finite_gradient_moves_a_parameter_by_no_more_than_its_size_times_the_rate(gradient):
    params = {"w": jnp.array([0.0, 0.0, 0.0]), "x": jnp.full(3, 2.0)}
    axes = {"w": ("embed",), "x": ("embed",)}
    config = Adafactor(clip_norm=None, weight_decay_exponent=None)
    (after,) = run(
        build_optimizer(config, COURSE, axes), params, [jax.tree.map(lambda p: jnp.full(3, gradient), params)]
    )
    rate, first_moment = 1e-2, 0.1
    assert np.all(np.abs(after["w"]) <= rate * first_moment * 1e-3 * (1 + 1e-6))  # zeros can move, a little
    assert np.all(np.abs(after["x"] - 2) <= rate * first_moment * 2 + 1e-6)
    if gradient >= 1e-12:
        assert np.all(after["w"] < 0)
