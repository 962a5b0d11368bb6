"""Grown gradients are the grown model's gradients, and so are the moments of optimizers that average them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.small_models import GEMMA, LLAMA, NEOX, OLMO, PALM, TOKENS, T, random_params
from pathways_kernels.attention.spans import causal
from pathways_lite import models
from pathways_lite.ledger import Timeline
from pathways_lite.methods import growth
from pathways_lite.methods.growth import Quantity
from pathways_lite.recipe import (
    SGD,
    AdamW,
    BlockOrder,
    Constant,
    Grow,
    Interpolate,
    Lion,
    MaskedGrowth,
    Model,
    Muon,
    Net2Net,
    Operator,
    Optimizer,
    Ramp,
    Stack,
    Steps,
    ZeroInit,
)
from pathways_lite.training.init_growth import grow_optimizer_state
from pathways_lite.training.optimizers import build_optimizer

KEY = jax.random.key(3)
TIMELINE = Timeline(Ramp(steps=((0, 1),)), T, 1, 1, Steps(n=30))
EVEN = Net2Net(split="even")
UNEVEN_COPIES = {"d_model": 20, "d_ff": 28}  # 8 → 20: some units three times, some twice


@functools.cache
def compiled_gradient(model: Model, masks: Any = None) -> Any:
    """The gradient of a sum of all logits of the batch, each with a weight of its own."""
    weights = jnp.asarray(np.random.default_rng(5).standard_normal((1, T, model.vocab_size)), jnp.float32)

    def loss(params: Any, tokens: jax.Array) -> jax.Array:
        effective = params if masks is None else masks(params, TIMELINE.clock(0))
        hidden = models.apply(model, effective, tokens[None], np.arange(T)[None], causal(1, T))
        return jnp.sum(weights * models.logits(model, effective, hidden))

    return jax.jit(jax.grad(loss))


def gradient(model: Model, params: Any, tokens: np.ndarray, masks: Any = None) -> Any:
    return compiled_gradient(model, masks)(jax.tree.map(jnp.asarray, params), tokens)


def old_part(plan: growth.GrowthPlan, array: models.ParamSpec, x: jax.Array) -> np.ndarray:
    """The part of a grown array that copies the source; zeros elsewhere."""
    keep = np.ones((), bool)
    for axis, name in enumerate(array.axes):
        if name in plan.width:
            shape = [1] * len(array.axes)
            shape[axis] = -1
            keep = keep & (plan.width[name].index >= 0).reshape(shape)
    if array.stacked and plan.depth.treatment is not growth.plan.Treatment.COPY:
        keep = keep & ~plan.depth.fresh.reshape(-1, *[1] * len(array.axes))
    return np.where(keep, np.asarray(x), 0.0)


def assert_like(plan: growth.GrowthPlan, grown: Any, true: Any) -> None:
    def compare(array: models.ParamSpec, a: jax.Array, b: jax.Array) -> None:
        a, b = (old_part(plan, array, x) for x in (a, b))
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4 * np.abs(b).max(), err_msg=array.name)

    jax.tree.map(compare, models.param_specs(plan.target), grown, true)


CASES: dict[str, tuple[Operator, dict, dict]] = {
    "palm doubled": (EVEN, PALM, {"d_model": 16, "d_ff": 24, "n_heads": 4}),
    "palm with unequal numbers of copies": (EVEN, PALM, UNEVEN_COPIES),
    "llama doubled": (EVEN, LLAMA, {"d_model": 16, "d_ff": 24, "n_heads": 8, "n_kv_heads": 4}),
    "llama with unequal numbers of copies": (EVEN, LLAMA, UNEVEN_COPIES),
    "layer norm doubled": (EVEN, PALM | {"norm": "layer"}, {"d_model": 16}),
    "palm padded": (ZeroInit(), PALM, {"d_model": 13, "d_ff": 17, "n_heads": 3}),
    "llama padded and deeper": (ZeroInit(), LLAMA, {"n_layers": 3, "d_model": 13, "d_ff": 17, "n_heads": 6}),
    "under masks": (MaskedGrowth(), PALM, {"n_layers": 3, "d_model": 13, "d_ff": 17}),
    "gemma doubled": (EVEN, GEMMA, {"d_model": 16, "d_ff": 24, "n_heads": 4, "embedding_scale": 4.0}),
    "gemma padded and deeper": (
        ZeroInit(),
        GEMMA,
        {"n_layers": 4, "d_model": 13, "embedding_scale": 4.0},
    ),
    "gemma under masks": (MaskedGrowth(), GEMMA, {"n_layers": 4, "d_model": 13, "d_ff": 17}),
    "olmo doubled": (EVEN, OLMO, {"d_model": 16, "d_ff": 24}),
    "olmo padded": (ZeroInit(), OLMO, {"d_model": 13, "d_ff": 17}),
    "neox doubled": (EVEN, NEOX, {"d_model": 16, "d_ff": 24, "n_heads": 4, "n_kv_heads": 4}),
    "neox padded and deeper": (ZeroInit(), NEOX, {"n_layers": 3, "d_ff": 17}),
    "untied under masks": (MaskedGrowth(), LLAMA, {"d_model": 13, "d_ff": 17}),
}
FAST = ("llama with unequal numbers of copies", "palm padded", "neox doubled")


@pytest.mark.parametrize("case", [c if c in FAST else pytest.param(c, marks=pytest.mark.slow) for c in CASES])
def test_grown_gradients_are_those_of_the_grown_model(case: str) -> None:
    operator, sizes, larger = CASES[case]
    source = Model.model_validate(sizes)
    target = Model.model_validate(sizes | larger)
    plan, params = growth.plan_operator(operator, source, target), random_params(source)
    assert growth.is_function_preserving(plan)
    masks = growth.build_masks(plan, Steps(n=5), TIMELINE) if plan.masked else None
    true = gradient(target, growth.grow_params(plan, params, KEY), TOKENS, masks)
    small = gradient(source, params, TOKENS)
    assert_like(plan, growth.grow_params(plan, small, KEY, quantity=Quantity.GRADIENT), true)
    squares = jax.tree.map(jnp.square, small)
    grown = growth.grow_params(plan, squares, KEY, quantity=Quantity.SQUARED_GRADIENT)
    assert_like(plan, grown, jax.tree.map(jnp.square, true))


@pytest.mark.parametrize(
    ("operator", "source", "larger"),
    [
        (ZeroInit(), PALM | {"norm": "layer"}, {"d_model": 13}),
        pytest.param(ZeroInit(), NEOX, {"d_model": 13}, marks=pytest.mark.slow),
        pytest.param(EVEN, PALM | {"norm": "layer"}, {"d_model": 20}, marks=pytest.mark.slow),
    ],
)
def test_new_units_under_layer_norms_shift_the_gradients_of_what_writes_beside_them(
    operator: Operator, source: dict, larger: dict
) -> None:
    """LayerNorm takes its mean over the new units too, which adds the same to the gradients of all old ones."""
    small, large = Model.model_validate(source), Model.model_validate(source | larger)
    plan, params = growth.plan_operator(operator, small, large), random_params(small)
    old = plan.width["embed"].index >= 0
    true = gradient(large, growth.grow_params(plan, params, KEY), TOKENS)
    grown = growth.grow_params(plan, gradient(small, params, TOKENS), KEY, quantity=Quantity.GRADIENT)

    def centered(array: models.ParamSpec, x: jax.Array) -> np.ndarray:
        x = old_part(plan, array, x)
        writes = array.axes[-1] == "embed" and array.use("embed") is models.params.AxisRole.WRITES
        return np.where(old, x - x[..., old].mean(axis=-1, keepdims=True), 0.0) if writes else x

    specs = models.param_specs(large)
    assert_like(plan, *(jax.tree.map(centered, specs, tree) for tree in (grown, true)))
    shift = np.asarray(true["layers"]["mlp"]["down"] - grown["layers"]["mlp"]["down"])[..., old]
    assert np.abs(shift.mean(axis=-1)).max() > 1e-2 * np.abs(true["layers"]["mlp"]["down"]).max(), "there is one"


@pytest.mark.parametrize(
    "operator", [Stack(), *(pytest.param(o, marks=pytest.mark.slow) for o in (Interpolate(), BlockOrder(order="12-1")))]
)
def test_where_blocks_add_nothing_copies_have_the_gradients_of_their_source(operator: Operator) -> None:
    """Then stacking preserves the function: every copy reads and writes what its source does."""
    source = Model.model_validate(PALM)
    target = source.model_copy(update={"n_layers": 3 if isinstance(operator, BlockOrder) else 4})
    params = random_params(source)
    for part, name in (("attention", "out"), ("mlp", "down")):
        params["layers"][part][name] = np.zeros_like(params["layers"][part][name])
    plan = growth.plan_operator(operator, source, target)
    grown = growth.grow_params(plan, gradient(source, params, TOKENS), KEY, quantity=Quantity.GRADIENT)
    assert_like(plan, grown, gradient(target, growth.grow_params(plan, params, KEY), TOKENS))


@pytest.mark.slow
def test_new_blocks_without_outputs_have_the_moments_of_their_zero_gradients() -> None:
    source, target = Model.model_validate(PALM), Model.model_validate(PALM | {"n_layers": 3})
    plan, params = growth.plan_operator(ZeroInit(), source, target), random_params(source)
    true = gradient(target, growth.grow_params(plan, params, KEY), TOKENS)
    grown = growth.grow_params(plan, gradient(source, params, TOKENS), KEY, quantity=Quantity.GRADIENT)
    for part, name in (("attention", "q"), ("mlp", "up")):
        assert not np.any(true["layers"][part][name][2])
        assert not np.any(grown["layers"][part][name][2])
        assert np.any(grown["layers"][part][name][1])


@pytest.mark.slow
def test_uneven_shares_keep_the_sum_over_copies() -> None:
    """Copies divide the source's gradient by the shares of what reads them; the grown gradient is its mean."""
    source, target = Model.model_validate(PALM), Model.model_validate(PALM | {"d_ff": 24})
    plan, params = growth.plan_operator(Net2Net(), source, target), random_params(source)
    true = gradient(target, growth.grow_params(plan, params, KEY), TOKENS)
    grown = growth.grow_params(plan, gradient(source, params, TOKENS), KEY, quantity=Quantity.GRADIENT)
    down = np.asarray(grown["layers"]["mlp"]["down"])
    np.testing.assert_allclose(down, true["layers"]["mlp"]["down"], rtol=2e-3, atol=1e-4 * np.abs(down).max())
    sums = [np.asarray(tree["layers"]["mlp"]["up"]).reshape(2, 8, 2, 12).sum(axis=2) for tree in (grown, true)]
    np.testing.assert_allclose(*sums, rtol=2e-3, atol=1e-4 * np.abs(sums[0]).max())


OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": SGD(momentum=0.9, schedule=Constant(), clip_norm=None),
    "lion": Lion(schedule=Constant(), clip_norm=None),
    "adamw": AdamW(schedule=Constant(), clip_norm=None),
    "muon": Muon(schedule=Constant(), clip_norm=None),
}


@pytest.mark.parametrize("name", ["sgd", "lion", *(pytest.param(n, marks=pytest.mark.slow) for n in ("adamw", "muon"))])
def test_grown_states_are_those_that_the_grown_model_would_have(name: str) -> None:
    """The small model's optimizer averages three gradients and is grown; the large one's averages its own three."""
    optimizer = OPTIMIZERS[name]
    source, target = Model.model_validate(PALM), Model.model_validate(PALM | {"d_model": 16, "d_ff": 24})
    plan, params = growth.plan_operator(EVEN, source, target), random_params(source)

    def state_after(model: Model, params: Any) -> tuple[Any, Any]:
        transformation = build_optimizer(optimizer, TIMELINE, models.logical_axes(model))
        fresh = state = transformation.init(jax.tree.map(jnp.asarray, params))
        update = jax.jit(lambda grads, state: transformation.update(grads, state, params, clock=TIMELINE.clock(1))[1])
        for seed in range(3):
            tokens = np.random.default_rng(seed).integers(0, model.vocab_size, T)
            state = update(gradient(model, params, tokens), state)
        return fresh, state

    fresh, true = state_after(target, growth.grow_params(plan, params, KEY))
    _, small = state_after(source, params)
    grown = grow_optimizer_state(Grow(operator=EVEN, optimizer="grow"), plan, fresh, small, KEY, growth.unplaced)
    assert any(np.ndim(leaf) for leaf in jax.tree.leaves(true))
    for a, b in zip(jax.tree.leaves(grown), jax.tree.leaves(true), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4 * float(np.abs(b).max()))
