"""Names of parameters, what is trained of them, and what training it costs."""

import jax
import numpy as np
import pytest

from pathways_lite import models
from pathways_lite.errors import UserError
from pathways_lite.models.accounting import flops_per_token
from pathways_lite.models.trainable import (
    EVERYTHING,
    make_trainable,
    match_rows,
    put_rows,
    take_rows,
    trained_parameters,
    training_flops_per_token,
)
from pathways_lite.recipe import Model

MODEL = Model(
    d_model=8,
    n_layers=12,
    n_heads=2,
    n_kv_heads=1,
    head_dim=4,
    d_ff=12,
    vocab_size=11,
    tie_embeddings=False,
    qk_norm=True,
)


@pytest.mark.parametrize(
    ("pattern", "rows"),
    [
        ("embedding", {"embedding": (0,)}),
        ("params.embedding", {"embedding": (0,)}),
        ("final_norm", {"final_norm.scale": (0,)}),
        ("layers.attention.q", {"layers.attention.q": tuple(range(12))}),
        ("layers.1.mlp.up", {"layers.mlp.up": (1,)}),
        ("layers.9-11.mlp.up", {"layers.mlp.up": (9, 10, 11)}),
        ("*.10.*.up", {"layers.mlp.up": (10,)}),
    ],
)
def test_patterns_name_arrays_and_single_blocks(pattern, rows):
    assert match_rows(MODEL, pattern, "freeze") == rows


def test_a_range_of_blocks_names_everything_in_them():
    blocks = match_rows(MODEL, "layers.0-3", "freeze")
    assert set(blocks.values()) == {(0, 1, 2, 3)}
    assert len(blocks) == 10
    assert match_rows(MODEL, "layers.1", "freeze").keys() == blocks.keys()


@pytest.mark.parametrize("pattern", ["embeddings", "layers.12", "layers.3-12", "layers.3-1", "layers.x", ""])
def test_a_pattern_that_names_nothing_is_refused_with_the_names(pattern):
    with pytest.raises(
        UserError, match=r"^here: .* is the name of no parameter; the names are embedding, .*\(\*.scale\)"
    ):
        match_rows(MODEL, pattern, "here")


def test_trees_take_apart_and_put_together_what_is_trained():
    trainable = make_trainable(MODEL, ("embedding", "layers.1-2.mlp", "layers.7.mlp.up"))
    tree = jax.tree.map(lambda leaf: np.arange(np.prod(leaf.shape)).reshape(leaf.shape), models.abstract_params(MODEL))
    rows = trainable.rows(tree)
    assert "embedding" not in rows
    np.testing.assert_array_equal(
        rows["layers"]["mlp"]["up"], np.delete(tree["layers"]["mlp"]["up"], [1, 2, 7], axis=0)
    )
    assert rows["layers"]["attention"]["q"] is tree["layers"]["attention"]["q"]
    changed = trainable.with_rows(tree, jax.tree.map(lambda leaf: leaf + 1, rows))
    np.testing.assert_array_equal(changed["embedding"], tree["embedding"])
    difference = np.asarray(changed["layers"]["mlp"]["up"]) - tree["layers"]["mlp"]["up"]
    assert [int(layer.min()) for layer in difference] == [1, 0, 0, 1, 1, 1, 1, 0, 1, 1, 1, 1]
    assert [run[:2] for run in trainable.segments(12)] == [(0, 1), (1, 3), (3, 7), (7, 8), (8, 12)]


def test_rows_are_put_where_they_were_taken():
    array = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    rows = (0, 1, 4, 6, 7)
    np.testing.assert_array_equal(take_rows(array, rows), array[list(rows)])
    put = np.asarray(put_rows(np.zeros_like(array), rows, array[list(rows)]))
    np.testing.assert_array_equal(put[list(rows)], array[list(rows)])
    assert not put[[2, 3, 5, 8]].any()


@pytest.mark.parametrize("tied", [True, False])
def test_training_everything_costs_what_palm_counts(tied):
    model = MODEL.model_copy(update={"tie_embeddings": tied})
    assert training_flops_per_token(model, 16, EVERYTHING) == flops_per_token(model, 16)
    assert make_trainable(model, None) is EVERYTHING


def test_costs_of_frozen_parameters():
    """Known answers: a frozen block costs 2 FLOPs per parameter, or 4 below a trained embedding."""
    total, attention = flops_per_token(MODEL, 16), 12 * 2 * 4 * 16
    block = sum(int(np.prod(s.shape)) for s in jax.tree.leaves(models.param_specs(MODEL)) if s.stacked)
    table = 11 * 8
    cost = lambda *freeze: training_flops_per_token(MODEL, 16, make_trainable(MODEL, freeze))  # noqa: E731
    assert cost("layers.0-3") == total - 4 * 2 * block
    assert cost("embedding") == total - 4 * table
    assert cost("layers.0-3", "embedding") == total - 4 * table - 4 * (4 * block + attention * 2 // 3)
    assert cost("layers.2") == total - 2 * block
    assert cost("layers", "embedding", "final_norm") == total - 4 * table - 12 * (4 * block + attention * 2 // 3) - (
        4 * 8 + 2 * table
    )
    assert trained_parameters(MODEL, make_trainable(MODEL, ("layers.0-3", "head"))) == 8 * block + table + 8
