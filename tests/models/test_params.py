"""Initialisation, and the trees that describe the parameters."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pathways_lite import models


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)


FAN_IN = {
    "q": lambda c: c.d_model, "k": lambda c: c.d_model, "v": lambda c: c.d_model,
    "out": lambda c: c.n_heads * c.head_dim, "gate": lambda c: c.d_model, "up": lambda c: c.d_model,
    "down": lambda c: c.d_ff, "embedding": lambda c: 1, "head": lambda c: c.d_model,
}  # fmt: skip


def named_leaves(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree.leaves_with_path(tree)
    }


def test_standard_deviations_are_palms(make_model, key):
    # Heads times head_dim differs from d_model, so that a wrong fan-in of the output projection shows.
    config = make_model(d_model=96, n_heads=8, head_dim=32, d_ff=256, n_kv_heads=2, tie_embeddings=False, qk_norm=True)
    for path, leaf in named_leaves(models.init(config, key)).items():
        name = path.split("/")[-1]
        if name == "scale":
            assert np.all(np.asarray(leaf) == 1.0)
            continue
        expected = FAN_IN[name](config) ** -0.5
        assert abs(np.std(leaf) / expected - 1) < 4 / math.sqrt(2 * leaf.size), path
        assert abs(np.mean(leaf)) < 5 * expected / math.sqrt(leaf.size), path


def test_normal_initialisation(make_model, key):
    for path, leaf in named_leaves(models.init(make_model(init="normal"), key)).items():
        if not path.endswith("scale"):
            assert abs(np.std(leaf) / 0.02 - 1) < 4 / math.sqrt(2 * leaf.size), path


def test_a_layer_does_not_depend_on_the_depth(make_model, key):
    shallow, deep = models.init(make_model(n_layers=3), key), models.init(make_model(n_layers=5), key)
    for path, leaf in named_leaves(shallow).items():
        other = named_leaves(deep)[path]
        np.testing.assert_array_equal(leaf, other[:3] if path.startswith("layers/") else other, err_msg=path)


def test_jitted_initialisation_gives_the_same_bits(make_model, key):
    config = make_model(tie_embeddings=False)
    jitted = jax.jit(models.init, static_argnums=0)(config, key)
    jax.tree.map(np.testing.assert_array_equal, jitted, models.init(config, key))


def test_no_two_draws_are_alike(make_model, key):
    params = models.init(make_model(d_ff=24, d_model=24, n_kv_heads=4), key)
    draws = [np.ravel(leaf)[:24] for path, leaf in named_leaves(params).items() if not path.endswith("scale")]
    layers = [np.ravel(layer)[:24] for layer in params["layers"]["mlp"]["gate"][1:]]
    firsts = np.array([draw / draw.std() for draw in draws + layers])
    correlation = np.corrcoef(firsts) - np.eye(len(firsts))
    assert np.abs(correlation).max() < 0.9


def test_the_loss_at_init_is_near_that_of_guessing(make_model, make_batch, key):
    config = make_model(d_model=64, n_layers=6, n_heads=4, head_dim=16, d_ff=256, vocab_size=4096)
    params, batch = models.init(config, key), make_batch(config, rows=4, length=64)

    def losses_and_spread(params):
        hidden = models.apply(config, params, batch.tokens, batch.positions, batch.spans)
        return models.token_losses(config, params, batch)[0].mean(), jnp.std(models.logits(config, params, hidden))

    loss, spread = jax.jit(losses_and_spread)(params)
    assert abs(loss - math.log(config.vocab_size)) < 0.6
    assert abs(spread - 1) < 0.1


def test_the_trees_agree(config, key):
    params, abstract = models.init(config, key), models.abstract_params(config)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), params) == jax.tree.map(lambda a: (a.shape, a.dtype), abstract)
    axes = models.logical_axes(config)
    is_axes = lambda leaf: isinstance(leaf, tuple)  # noqa: E731
    assert jax.tree.structure(axes, is_leaf=is_axes) == jax.tree.structure(params)
    sizes = {
        "layers": config.n_layers, "embed": config.d_model, "heads": config.n_heads, "kv": config.n_kv_heads,
        "head_dim": config.head_dim, "mlp": config.d_ff, "vocab": config.vocab_size,
    }  # fmt: skip
    jax.tree.map(
        lambda a, p: np.testing.assert_equal(tuple(sizes[n] for n in a), p.shape), axes, params, is_leaf=is_axes
    )
    assert all(type(node) is dict for node in (params, params["layers"], params["layers"]["attention"], axes, abstract))
