"""Pruning around optimizers: what is active in every step, under masks everywhere, and the same as a smaller model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pathways_lite import models
from pathways_lite.methods import pruning
from pathways_lite.methods.growth import grow
from pathways_lite.methods.pruning.compact import compact_model, compress_nm, decompress_nm
from pathways_lite.methods.pruning.pruned_params import unpack_np
from pathways_lite.recipe import (
    NM,
    SGD,
    Adafactor,
    AdamW,
    Channels,
    Constant,
    Data,
    FirstOrder,
    Heads,
    Interpolate,
    Lion,
    Model,
    Movement,
    Muon,
    Prune,
    RandomScores,
    Regrowth,
    ScheduleFree,
    Stack,
    Stage,
    WholeBlocks,
)
from pathways_lite.training import optimizers
from pathways_lite.training.stage import stage_timeline

STEPS = 12
UP = ("layers.mlp.up",)
MODEL = Model(
    d_model=8, n_layers=3, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=16, vocab_size=11, dtype="float32", qk_norm=True
)
MLPS = (("mlp", "gate"), ("mlp", "up"), ("mlp", "down"))
FLAT = Constant()
ADAMW = AdamW(learning_rate=1e-2, schedule=FLAT, weight_decay=0.1)


def stage(prune, optimizer=ADAMW, model=MODEL):
    data = Data(corpus="nowhere", seq_len=8)
    return Stage(model=model, data=data, optimizer=optimizer, batch_size=2, budget=f"{STEPS} steps", pruning=prune)


def draw(seed, model=MODEL):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: np.float32(rng.normal(size=p.shape)), models.abstract_params(model))


@functools.cache
def compiled(config):
    """(optimizer, timeline, jitted init, jitted update)."""
    timeline = stage_timeline(config)
    optimizer = optimizers.build_stage_optimizer(config, timeline)

    def update(grads, state, params, clock):
        updates, state = optimizer.update(grads, state, params, clock=clock, grad_norm=optax.tree.norm(grads))
        return optax.apply_updates(params, updates), state

    def init(params):
        state = optimizer.init(params)
        return pruning.apply_masks(state, params), state

    return timeline, jax.jit(init), jax.jit(update)


def run(config, params=None, gradient=lambda step: draw(step + 1), steps=STEPS):
    """Parameters and state before every step, and after the last."""
    timeline, init, update = compiled(config)
    path = [init(draw(0) if params is None else params)]
    for step in range(steps):
        params, state = path[-1]
        path.append(update(gradient(step), state, params, timeline.clock(step)))
    return path


def leaves(tree, names):
    """The named arrays of a tree like the parameters."""
    arrays = jax.tree.leaves(models.param_specs(MODEL))
    found = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, optax.MaskedNode))
    return {a.name: np.asarray(x) for a, x in zip(arrays, found, strict=True) if a.name in names}


def masks_of(params, state):
    """Unpacked masks by name."""
    arrays = [a.name for a in jax.tree.leaves(models.param_specs(MODEL))]
    holes = jax.tree.leaves(state.masks, is_leaf=lambda node: isinstance(node, optax.MaskedNode))
    sizes = [p.shape[-1] for p in jax.tree.leaves(params)]
    return {
        name: unpack_np(np.asarray(bits), size)
        for name, bits, size in zip(arrays, holes, sizes, strict=True)
        if not isinstance(bits, optax.MaskedNode)
    }


ONE_SHOT = Prune(sparsity=0.5, begin=0.5, end=0.5, scope=UP)
AT_ONCE = Prune(sparsity=0.5, begin=0.0, end=0.0, scope=UP)
RIGL = Prune(sparsity=0.8, start_sparsity=0.8, begin=0.0, update_every=2, scope=UP, regrowth=Regrowth())
PATTERNS = Prune(sparsity=0.5, update_every=2, scope=UP, structure=NM(), shape="cubic")
FAST = [RIGL, PATTERNS]
SLOW = [
    Prune(sparsity=0.7, update_every=2, scope=("layers.mlp.up", "embedding", "final_norm.scale"), allocation="global"),
    Prune(sparsity=0.5, update_every=3, structure=Heads()),
    Prune(sparsity=0.7, update_every=2, scope=UP),
    Prune(sparsity=0.5, update_every=2, scope=UP, criterion=FirstOrder()),
    Prune(sparsity=0.5, update_every=2, scope=UP, criterion=Movement()),
    Prune(sparsity=0.5, update_every=2, scope=UP, criterion=RandomScores()),
    Prune(sparsity=0.8, start_sparsity=0.8, begin=0.0, end=0.0, scope=UP, criterion=RandomScores()),
    Prune(sparsity=0.0, start_sparsity=0.75, update_every=3, scope=UP),
    Prune(sparsity=0.6, update_every=2, scope=UP, regrowth=Regrowth(by="random", falls=False)),
    Prune.as_published(0.6, update_every=2),
    Prune(sparsity=0.5, update_every=3, structure=Channels(), allocation="global"),
    Prune(sparsity=0.5, update_every=3, structure=WholeBlocks()),
]


@pytest.mark.parametrize("operator", [Stack(), Interpolate()])
@pytest.mark.parametrize("allocation", ["tensor", "global"])
def test_a_static_stage_keeps_the_zeros_that_it_starts_from(operator, allocation):
    """Also of a model that was grown of a pruned one: a threshold at the same density finds the copied zeros."""
    prune = Prune(sparsity=0.5, start_sparsity=0.5, begin=0.0, end=0.0, allocation=allocation)
    small = draw(0)
    for part, name in (("attention", "q"), ("attention", "k"), ("attention", "v"), ("attention", "out"), *MLPS):
        x = small["layers"][part][name]
        order = np.random.default_rng(1).permuted(np.tile(np.arange(x[0].size) % 2, (len(x), 1)), axis=1)
        small["layers"][part][name] = np.where(order.reshape(x.shape), x, np.float32(0))
    deeper = MODEL.model_copy(update={"n_layers": 6})
    for model, params in ((MODEL, small), (deeper, grow(operator, small, MODEL, deeper, jax.random.key(0)))):
        config = stage(prune, model=model)
        state = optimizers.build_stage_optimizer(config, stage_timeline(config)).init(params)
        for part, name in MLPS:
            x = np.asarray(params["layers"][part][name])
            np.testing.assert_array_equal(unpack_np(np.asarray(state.masks["layers"][part][name]), x.shape[-1]), x != 0)


def slowly(cases):
    return [pytest.param(case, marks=pytest.mark.slow) for case in cases]


@pytest.mark.parametrize("prune", [*FAST, *slowly(SLOW)], ids=str)
def test_what_is_active_is_what_the_ledger_counts(prune):
    config = stage(prune)
    timeline = compiled(config)[0]
    prunable = sum(group.sets * group.units * group.weights for group in pruning.prune_groups(prune, MODEL, 8))
    before = None
    for step, (params, state) in enumerate(run(config)):
        masks = masks_of(params, state)
        active = sum(mask.sum() for mask in masks.values())
        everything = sum(p.size for p in jax.tree.leaves(params))
        assert everything - prunable + active == timeline.active_parameters_at(step)
        assert sum(np.count_nonzero(p) for p in jax.tree.leaves(params)) == timeline.active_parameters_at(step)
        for name, mask in masks.items():
            for part in (params, state.inner[1].mu, state.inner[1].nu):
                assert not leaves(part, [name])[name][~mask].any()
        if before is not None and prune.regrowth is None and prune.start_sparsity <= prune.sparsity:
            assert all((mask <= before[name]).all() for name, mask in masks.items())
        before = masks
    bits = sum(leaf.nbytes for leaf in jax.tree.leaves(state.masks)) * 8
    assert bits == prunable


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer", [Muon(), Adafactor(), Lion(), ScheduleFree(), SGD(momentum=0.9)], ids=lambda o: o.kind
)
def test_every_optimizer_leaves_zeros_alone(optimizer):
    config = stage(Prune(sparsity=0.5, update_every=4, scope=UP), optimizer)
    timeline = compiled(config)[0]
    for step, (params, state) in enumerate(run(config)):
        (mask,) = masks_of(params, state).values()
        assert np.count_nonzero(params["layers"]["mlp"]["up"]) == mask.sum()
        assert (~mask).sum() == timeline.active_parameters - timeline.active_parameters_at(step)
        kept = optimizers.evaluation_params(state, params)["layers"]["mlp"]["up"]
        assert not np.asarray(kept)[~mask].any()


@pytest.mark.parametrize("allocation", ["tensor", *slowly(["global"])])
def test_magnitudes_choose(allocation):
    """The weights that one shot leaves are the largest of each layer, or of all."""
    config = stage(ONE_SHOT.model_copy(update={"allocation": allocation}))
    path = run(config)
    change_step = compiled(config)[0].phases[1].step
    size = np.abs(np.asarray(path[change_step - 1][0]["layers"]["mlp"]["up"])).reshape(3, -1)
    (mask,) = masks_of(*path[change_step]).values()
    middle = np.median(size, axis=1, keepdims=True) if allocation == "tensor" else np.median(size)
    np.testing.assert_array_equal(mask.reshape(3, -1), size > middle)


def test_gradients_bring_weights_back():
    """RigL: of the inactive weights those with the largest gradients, from zero."""
    path = run(stage(RIGL))
    swaps = 0
    for step in range(STEPS):
        (old,), (new,) = (masks_of(*path[number]).values() for number in (step, step + 1))
        gradient = np.abs(draw(step + 1)["layers"]["mlp"]["up"])
        for layer in range(3):
            back = new[layer] & ~old[layer]
            swaps += back.sum()
            if back.any():
                assert gradient[layer][back].min() > gradient[layer][~old[layer] & ~new[layer]].max()
    assert swaps > 3 * 10  # 7 of 26 at first


def test_patterns_are_whole_at_the_end_and_pack_smaller():
    params, state = run(stage(PATTERNS))[-1]
    (mask,) = masks_of(params, state).values()
    assert (mask.reshape(3, 2, 4, 16).sum(axis=2) == 2).all()  # along what `up` reads
    up = np.asarray(params["layers"]["mlp"]["up"])
    for axis in (1, 2):
        some = mask if axis == 1 else np.tile(np.array([1, 0, 0, 1], bool), (3, 8, 4))
        values, places = compress_nm(up, some, axis, NM())
        assert values.size == up.size // 2
        assert places.size == up.size // 8
        np.testing.assert_array_equal(decompress_nm(values, places, axis, NM()), np.where(some, up, 0))
    with pytest.raises(ValueError, match="more than 1"):
        compress_nm(up, mask, 1, NM(n=1))


def test_what_is_not_finite_goes_first():
    config = stage(AT_ONCE)
    params = draw(0)
    params["layers"]["mlp"]["up"][0, :4] = np.nan
    after, state = run(config, params, steps=0)[-1]
    assert np.isfinite(after["layers"]["mlp"]["up"]).all()
    (mask,) = masks_of(after, state).values()
    assert mask.sum(axis=(1, 2)).tolist() == [64, 64, 64]


def test_ties_are_broken_by_place():
    config = stage(AT_ONCE)
    (mask,) = masks_of(*run(config, jax.tree.map(np.ones_like, draw(0)), steps=0)[-1]).values()
    np.testing.assert_array_equal(mask.reshape(3, -1), np.arange(128)[None].repeat(3, 0) < 64)


def test_a_dropped_update_of_the_masks_comes_with_the_next():
    config = stage(ONE_SHOT)
    timeline, _, update = compiled(config)
    change_step = timeline.phases[1].step
    params, state = run(config, steps=change_step - 1)[-1]  # the step that builds the masks is left out
    params, state = update(draw(1), state, params, timeline.clock(change_step))
    assert np.count_nonzero(params["layers"]["mlp"]["up"]) == 3 * 64


def test_it_goes_on_to_the_bit():
    """All that is needed is in the state: arrays that went through host memory."""
    config = stage(RIGL)
    path = run(config)
    params, state = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), path[5])
    timeline, _, update = compiled(config)
    for step in range(5, STEPS):
        params, state = update(draw(step + 1), state, params, timeline.clock(step))
    jax.tree.map(np.testing.assert_array_equal, (params, state), path[-1])


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [Adafactor(schedule=FLAT), ADAMW], ids=lambda o: o.kind)
def test_channels_that_are_gone_leave_a_smaller_model_that_trains_alike(optimizer):
    """Clipping, decay, moments and Adafactor's RMS take no notice of zeros."""
    path = run(stage(Prune(sparsity=0.5, begin=0.0, end=0.0, structure=Channels()), optimizer))
    compact = compact_model(MODEL, masks_of(*path[0]))
    assert compact.target == MODEL.model_copy(update={"d_ff": 8})
    smaller = run(
        stage(None, optimizer, compact.target),
        shrink_params(compact, path[0][0]),
        lambda k: shrink_params(compact, draw(k + 1)),
    )
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, shrink_params(compact, path[-1][0]), smaller[-1][0])


def shrink_params(compact, params):
    """Select what the compact model keeps of a tree like the parameters."""

    def shrink(array, x):
        x = np.asarray(x)
        if not array.stacked:
            return x
        return np.stack([compact.take_units(array, x[block], layer) for layer, block in enumerate(compact.blocks)])

    return jax.tree.map(shrink, models.param_specs(compact.source), params)
