"""What the optimizers read off the model's logical axes."""

import jax

from pathways_lite import models
from pathways_lite.models.params import is_axes, is_matrix, is_stacked, matrix_sides, param_specs


def test_logical_axes_tell_the_models_kernels_from_its_scales_and_biases(config):
    axes = models.logical_axes(config)
    shapes = models.abstract_params(config)
    vectors = sum("scale" in name or "bias" in name for name in (a.name for a in jax.tree.leaves(param_specs(config))))
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
    assert found["table"] == (1 if config.tie_embeddings else 2)  # embedding and head
    assert found["kernel"] == (7 if config.is_gated else 6)
    assert found["scale"] == vectors
