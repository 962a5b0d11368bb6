"""The train step with frozen parameters: their bits, gradients, clipping, cost, scan against unrolled."""

import functools

import jax
import numpy as np
import optax
import pytest

from helpers.small_steps import B, T, components, take_steps
from pathways_lite.models.trainable import make_trainable
from pathways_lite.recipe import EMA, SGD, Adafactor, AdamW, Constant, Lion, Muon, ParameterGroup, ScheduleFree

FREEZE = ("embedding", "layers.0-1", "layers.3.mlp", "layers.attention.k")
OPTIMIZERS = [AdamW(), Adafactor(), Lion(), Muon(), ScheduleFree(), SGD(momentum=0.9)]


def names(tree):
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in leaves}


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda config: config.kind)
def test_frozen_parameters_keep_their_bits_under_every_optimizer(optimizer):
    groups = (ParameterGroup(parameters=("*",), rate=0.5, weight_decay=0.2),)
    ema = None if optimizer.averages_params else EMA(decay=0.5)
    parts = components(freeze=FREEZE, optimizer=optimizer.model_copy(update={"groups": groups}), ema=ema)
    start, state, _ = take_steps(parts, 2)
    before, after = names(start.params), names(state.params)
    trainable = parts.spec.trainable
    for name, old in before.items():
        rows = trainable.rows_of(name, len(old) if name.startswith("layers.") else 1)
        layers = zip(old, after[name], strict=True) if name.startswith("layers.") else [(old, after[name])]
        for row, (x, y) in enumerate(layers):
            assert np.array_equal(x, y) == (row not in rows), (name, row)
    in_state = {name for leaf in names(state.opt_state) for name in before if leaf.endswith(f".{name}")}
    assert in_state <= before.keys() - trainable.frozen
    if ema is None:
        averaged = names(parts.evaluated_params(state.opt_state, state.params, 2))
    else:
        averaged = names(parts.averaged_params(state.average, state.opt_state, state.params, 2))
    np.testing.assert_array_equal(averaged["embedding"], before["embedding"])
    np.testing.assert_array_equal(averaged["layers.mlp.up"][3], before["layers.mlp.up"][3])


def test_unrolled_layers_train_as_scanned_ones():
    scanned, unrolled = (take_steps(components(freeze=FREEZE, scan_layers=scan), 3) for scan in (True, False))
    np.testing.assert_allclose(scanned[2]["grad_norm"], unrolled[2]["grad_norm"], rtol=1e-5)
    for name, value in names(scanned[1].params).items():
        np.testing.assert_allclose(value, names(unrolled[1].params)[name], rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("microbatch", [None, 2])
def test_the_gradient_is_that_of_the_whole_model_where_it_is_trained(microbatch):
    """The norm that clips counts nothing that is frozen."""
    config = SGD(learning_rate=1.0, schedule=Constant(), clip_norm=None)
    full, frozen = components(optimizer=config), components(optimizer=config, freeze=FREEZE, microbatch=microbatch)
    start, state, _ = take_steps(full, 1)
    expected = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), start.params, state.params)
    rows = make_trainable(full.stage.model, FREEZE).rows(expected)
    start, state, metrics = take_steps(frozen, 1)
    change = frozen.spec.trainable.rows(
        jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), start.params, state.params)
    )
    for name, value in names(rows).items():
        np.testing.assert_allclose(names(change)[name], value, rtol=1e-3, atol=2e-6, err_msg=name)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(rows), rtol=1e-4)


@functools.cache
def compiled_flops(*freeze):
    """FLOPs of the compiled step of a model whose matrix products are nearly all of its cost."""
    sizes = {"d_model": 64, "d_ff": 256, "head_dim": 32, "vocab_size": 64, "scan_layers": False}
    parts = components(freeze=freeze or None, optimizer=SGD(clip_norm=None), **sizes)
    (cost,) = [parts.compile_step(B).cost_analysis()]
    return cost["flops"], parts.timeline.flops_per_token * B * T


@pytest.mark.parametrize(
    "freeze", [("layers.0-2", "embedding"), ("layers.*.mlp.*",), ("layers.1", "layers.3.attention")]
)
def test_the_ledger_counts_what_the_compiled_step_computes(freeze):
    (full, full_counted), (frozen, counted) = compiled_flops(), compiled_flops(*freeze)
    assert counted / full_counted < 0.95
    assert frozen / full == pytest.approx(counted / full_counted, rel=0.05)
