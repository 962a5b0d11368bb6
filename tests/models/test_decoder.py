"""The decoder computes the published formulas, however it is run."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.reference_decoder import reference_logits
from pathways_kernels.attention import Spans
from pathways_lite import models
from pathways_lite.models.layers import drop_branch

apply = jax.jit(models.apply, static_argnums=0)
token_losses = jax.jit(models.token_losses, static_argnums=0)


def tree_close(a: Any, b: Any, tolerance: float) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance, err_msg=jax.tree_util.keystr(path))


def loss_and_gradient(config, params, batch, dropout_key=None):
    def loss(params):
        nll, log_z, *_ = models.token_losses(config, params, batch, dropout_key=dropout_key)
        return jnp.mean(nll) + 1e-2 * jnp.mean(jnp.square(log_z))

    return jax.jit(jax.value_and_grad(loss))(params)


def test_logits_and_losses_are_the_formula(config, make_batch, make_params):
    params = make_params(config)
    batch = make_batch(config)
    z = reference_logits(config, params, batch.tokens, batch.positions, batch.spans)
    log_z = np.log(np.exp(z).sum(-1))
    nll = log_z - np.take_along_axis(z, batch.targets[..., None], -1)[..., 0]

    hidden = apply(config, params, batch.tokens, batch.positions, batch.spans)
    np.testing.assert_allclose(models.logits(config, params, hidden), z, atol=2e-5)
    losses = token_losses(config, params, batch)
    np.testing.assert_allclose(losses[0], nll, atol=2e-5)
    np.testing.assert_allclose(losses[1], log_z, atol=2e-5)


def test_how_blocks_are_run_changes_nothing(config, make_batch, make_params):
    config = config.model_copy(update={"dropout": 0.2})
    params, batch, dropout_key = make_params(config), make_batch(config), jax.random.key(7)
    expected = loss_and_gradient(config, params, batch, dropout_key)
    implementations = {
        "parallel": ({"scan_layers": False}, {"remat": "full"}, {"remat": "offload"}),
        "serial": ({"scan_layers": False, "remat": "full"}, {"remat": "attention"}, {"remat": "dots"}),
    }
    for changes in implementations[config.block]:
        variant = config.model_copy(update=changes)
        tree_close(loss_and_gradient(variant, params, batch, dropout_key), expected, 1e-5)
    for path, gradient in jax.tree.leaves_with_path(expected[1]):
        per_layer = gradient if "layers" in jax.tree_util.keystr(path) else gradient[None]
        norms = jnp.sqrt(jnp.sum(jnp.square(per_layer.reshape(per_layer.shape[0], -1)), axis=1))
        assert jnp.all(norms > 1e-6), f"no gradient reaches {jax.tree_util.keystr(path)}"


def test_how_blocks_are_run_drops_the_same_branches(config, make_batch, make_params):
    config = config.model_copy(update={"stochastic_depth": 0.5})
    params, batch, key = make_params(config), make_batch(config, rows=8), jax.random.key(7)
    expected = loss_and_gradient(config, params, batch, key)
    for changes in ({"scan_layers": False}, {"remat": "full"}):
        tree_close(loss_and_gradient(config.model_copy(update=changes), params, batch, key), expected, 1e-5)


def test_remat_keeps_less(make_model, make_batch):
    def residual_bytes(remat):
        config = make_model(remat=remat)
        params = models.abstract_params(config)
        batch = make_batch(config, length=64)
        loss = lambda p: models.token_losses(config, p, batch)[0].sum()  # noqa: E731
        residuals = jax.eval_shape(lambda p: jax.vjp(loss, p)[1], params)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(residuals))

    kept = [residual_bytes(remat) for remat in ("full", "attention", "up", "dots", "none")]
    assert kept == sorted(kept)
    assert len(set(kept)) == len(kept)


def test_a_later_token_changes_no_earlier_position(config, make_batch, make_params):
    params, batch = make_params(config), make_batch(config)
    before = apply(config, params, batch.tokens, batch.positions, batch.spans)
    tokens = batch.tokens.copy()
    tokens[:, 7] = (tokens[:, 7] + 1) % config.vocab_size
    after = apply(config, params, tokens, batch.positions, batch.spans)
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert np.all(np.abs(before - after)[:, 7:].max(-1) > 1e-6)


def test_packed_documents_are_as_if_alone(config, make_batch, make_params):
    params, batch = make_params(config), make_batch(config)
    cut = 6
    t = np.tile(np.arange(12, dtype=np.int32), (2, 1))
    start = np.where(t < cut, 0, cut).astype(np.int32)
    packed = apply(config, params, batch.tokens, t - start, Spans(start, t + 1))
    for first, last in ((0, cut), (cut, 12)):
        p = t[:, : last - first]
        alone = apply(config, params, batch.tokens[:, first:last], p, Spans(np.zeros_like(p), p + 1))
        np.testing.assert_allclose(packed[:, first:last], alone, atol=1e-5)


def test_bfloat16_computes_in_bfloat16_and_trains_float32(make_model, make_batch, make_params):
    config, exact = make_model(dtype="bfloat16"), make_model()
    params, batch = make_params(config), make_batch(config)
    hidden = jax.eval_shape(lambda p: models.apply(config, p, batch.tokens, batch.positions, batch.spans), params)
    assert hidden.dtype == jnp.bfloat16
    loss, gradient = jax.eval_shape(lambda p: loss_and_gradient(config, p, batch), params)
    assert loss.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradient))
    rounded, exact = (token_losses(c, params, batch)[0] for c in (config, exact))
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded.mean(), exact.mean(), atol=0.02)


def test_dropout_needs_a_key_and_follows_it(make_model, make_batch, make_params):
    config, plain = make_model(dropout=0.5), make_model()
    params, batch = make_params(config), make_batch(config)
    key = jax.random.key(0)

    def run(config, key):
        return token_losses(config, params, batch, dropout_key=key)[0]

    np.testing.assert_array_equal(run(config, None), run(plain, key))
    assert np.array_equal(run(config, key), run(config, key))
    assert not np.allclose(run(config, key), run(config, jax.random.key(1)))


def test_stochastic_depth_drops_whole_branches_of_rows(config, make_batch, make_params):
    """A row whose branches are all dropped is its embedding; with a key for evaluation nothing is dropped."""
    config = config.model_copy(update={"stochastic_depth": 0.9})
    params, batch = make_params(config), make_batch(config, rows=64)
    arguments = (batch.tokens, batch.positions, batch.spans)
    plain = apply(config, params, *arguments)
    np.testing.assert_array_equal(
        plain, apply(config.model_copy(update={"stochastic_depth": None}), params, *arguments)
    )
    never = config.model_copy(update={"stochastic_depth": 0.0})
    np.testing.assert_array_equal(plain, apply(never, params, *arguments, dropout_key=jax.random.key(3)))
    empty = jax.tree.map(jnp.zeros_like, params["layers"])
    embedded = apply(config, params | {"layers": empty}, *arguments)
    dropped = apply(config, params, *arguments, dropout_key=jax.random.key(3))
    is_embedding = np.isclose(dropped, embedded, atol=1e-6).all((1, 2))
    # Of a parallel block one draw, of a serial one two: rates 0.45 and 0.9 of 2 blocks.
    expected = (0.45 * 0.9) ** (1 if config.block == "parallel" else 2)
    assert abs(is_embedding.mean() - expected) < 4 * math.sqrt(expected * (1 - expected) / 64)
    assert np.array_equal(dropped, apply(config, params, *arguments, dropout_key=jax.random.key(3)))


def test_stochastic_depth_by_batch_drops_all_rows_together(make_model, make_batch, make_params):
    config = make_model(stochastic_depth=0.9, stochastic_depth_by="batch")
    params, batch = make_params(config), make_batch(config, rows=8)
    same = batch.tokens[:1].repeat(8, 0)
    kinds = set()
    for seed in range(8):
        rows = np.asarray(apply(config, params, same, batch.positions, batch.spans, dropout_key=jax.random.key(seed)))
        np.testing.assert_allclose(rows, rows[:1].repeat(8, 0), atol=1e-6)
        kinds.add(rows.tobytes())
    assert len(kinds) > 1


def test_a_dropped_branch_keeps_its_expectation_and_is_drawn_per_row():
    x = jnp.ones((4000, 2, 3), jnp.bfloat16)
    dropped = drop_branch(x, jnp.float32(0.25), jax.random.key(0), by_row=True)
    assert dropped.dtype == jnp.bfloat16
    rows = np.asarray(dropped, np.float64)
    assert set(np.unique(rows)) == {0.0, float(jnp.bfloat16(4 / 3))}
    np.testing.assert_array_equal(rows, np.broadcast_to(rows[:, :1, :1], rows.shape))
    assert abs(rows.mean() - 1) < 4 * math.sqrt((1 / 0.75 - 1) / 4000) + 2**-8


def test_stochastic_depth_computes_what_it_drops(make_model, make_batch):
    """The ledger's FLOPs are the same with and without it, and so are those that XLA counts."""
    flops = []
    for config in (make_model(scan_layers=False), make_model(scan_layers=False, stochastic_depth=0.5)):
        batch = make_batch(config, rows=4, length=32)
        step = jax.jit(lambda p, c=config, b=batch: loss_and_gradient(c, p, b, jax.random.key(0)))
        flops.append(step.lower(models.abstract_params(config)).compile().cost_analysis()["flops"])
    assert abs(flops[1] / flops[0] - 1) < 0.02


def test_tokens_outside_the_vocabulary_are_loud(make_model, make_batch, make_params):
    config = make_model()
    batch = make_batch(config)
    batch.tokens[0, 3] = config.vocab_size
    hidden = apply(config, make_params(config), batch.tokens, batch.positions, batch.spans)
    assert np.isnan(hidden[0, 3:]).all()
    assert np.isfinite(hidden[1]).all()


@pytest.mark.parametrize("field", ["window", "dropout", "stochastic_depth"])
def test_an_option_that_is_off_costs_nothing(make_model, make_batch, field, make_params):
    off = {"window": (None, None), "dropout": 0.5, "stochastic_depth": 0.5}[field]
    text = [
        str(jax.make_jaxpr(lambda p, c=c: models.token_losses(c, p, make_batch(c)))(models.abstract_params(c)))
        for c in (make_model(), make_model(**{field: off}))
    ]
    assert text[0] == text[1]
