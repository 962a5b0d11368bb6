"""What the optimizers read off the model's logical axes."""

import jax
import pytest

from pathways_lite import models
from pathways_lite.models.params import is_axes, is_matrix, is_stacked, matrix_sides
from pathways_lite.recipe import Model


@pytest.mark.parametrize("block", ["parallel", "serial"])
def test_logical_axes_tell_the_models_kernels_from_its_scales(block):
    config = Model(
        d_model=8, n_layers=2, n_heads=2, n_kv_heads=2, head_dim=4, d_ff=16, vocab_size=32, block=block,
        qk_norm=True, tie_embeddings=False,
    )  # fmt: skip
    axes = models.logical_axes(config)
    shapes = models.abstract_params(config)
    found = {"kernel": 0, "table": 0, "scale": 0}
    for names, shape in zip(jax.tree.leaves(axes, is_leaf=is_axes), jax.tree.leaves(shapes), strict=True):
        assert len(names) == len(shape.shape)
        sides = matrix_sides(names)
        if sides is not None:
            assert sorted((0, *sides[0], *sides[1])) == list(range(len(names)))  # every axis but the layers'
            assert is_stacked(names)
            assert is_matrix(names)
            found["kernel"] += 1
        else:
            found["table" if is_matrix(names) else "scale"] += 1
            assert is_matrix(names) == ("vocab" in names)
    assert found["table"] == 2  # embedding and head
    assert found["kernel"] >= 5
    assert found["scale"] == {"parallel": 4, "serial": 5}[block]
