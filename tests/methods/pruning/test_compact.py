"""A pruned model of every family computes the same without what is pruned, or is not made smaller."""

import jax
import numpy as np
import pytest

from helpers.small_models import FAMILIES, logits, random_params
from pathways_lite import models
from pathways_lite.errors import UserError
from pathways_lite.methods.pruning.compact import CompactModel, compact_model
from pathways_lite.methods.pruning.structures import prune_groups
from pathways_lite.recipe import Channels, Heads, Model, Prune, WholeBlocks


def masks_of(model: Model, structure: Channels | Heads | WholeBlocks, kept: np.ndarray) -> dict[str, np.ndarray]:
    """Masks of the arrays of a structure's group, of which the units in `kept` [units] stay in every set."""
    (group,) = prune_groups(Prune(sparsity=0.5, structure=structure), model, 8)
    units = np.broadcast_to(np.resize(kept, group.units), (group.sets, group.units))
    return {m.array.name: np.asarray(x) for m, x in zip(group.members, group.masks(units), strict=True)}


def masked(model: Model, params: dict, masks: dict[str, np.ndarray]) -> dict:
    def mask(array: models.ParamSpec, x: np.ndarray) -> np.ndarray:
        return np.where(masks[array.name], x, 0) if array.name in masks else x

    return jax.tree.map(mask, models.param_specs(model), params)


def shrink(compact: CompactModel, params: dict) -> dict:
    def take(array: models.ParamSpec, x: np.ndarray) -> np.ndarray:
        if not array.stacked:
            return x
        return np.stack([compact.take_units(array, x[block], i) for i, block in enumerate(compact.blocks)])

    return jax.tree.map(take, models.param_specs(compact.source), params)


@pytest.mark.parametrize("structure", [Channels(), Heads()], ids=lambda s: s.kind)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_smaller_model_computes_what_the_masked_one_does(
    family: str, structure: Channels | Heads | WholeBlocks
) -> None:
    model = Model.model_validate(FAMILIES[family])
    masks = masks_of(model, structure, np.array([True, False]))
    params = masked(model, random_params(model), masks)
    if model.qk_norm_over is not None and isinstance(structure, Heads):
        with pytest.raises(UserError, match="2 heads are pruned, but qk_norm_over='all_heads' counts them"):
            compact_model(model, masks)
        return
    compact = compact_model(model, masks)
    sizes = (compact.target.n_heads, compact.target.d_ff)
    assert sizes == ((model.n_heads, 6) if isinstance(structure, Channels) else (model.n_heads // 2, 12))
    np.testing.assert_allclose(logits(compact.target, shrink(compact, params)), logits(model, params), atol=1e-9)


@pytest.mark.parametrize("family", ["gemma", "olmo", "neox"])
def test_blocks_are_pruned_where_they_then_add_nothing(family: str) -> None:
    model = Model.model_validate(FAMILIES[family])
    if model.bias is not None:
        with pytest.raises(UserError, match=r"model\.bias=\['qkv', 'attention_out'.* would still be added"):
            masks_of(model, WholeBlocks(), np.array([True, False]))
        return
    model = model.model_copy(update={"window": (3,)})
    masks = masks_of(model, WholeBlocks(), np.array([True, False]))
    params = masked(model, random_params(model), masks)
    compact = compact_model(model, masks)
    assert compact.target.n_layers == 1
    np.testing.assert_allclose(logits(compact.target, shrink(compact, params)), logits(model, params), atol=1e-9)


@pytest.mark.parametrize("family", ["gemma", "neox"])
def test_a_unit_with_a_bias_is_not_dead_where_only_its_inputs_are_pruned(family: str) -> None:
    model = Model.model_validate(FAMILIES[family])
    arrays = {a.name: a for a in jax.tree.leaves(models.param_specs(model))}
    shape = (model.n_layers, *arrays["layers.mlp.up"].shape)
    up = np.broadcast_to(np.arange(shape[-1]) % 2 == 0, shape)
    masks = {"layers.mlp.up": up}
    compact = compact_model(model, masks)
    assert compact.target.d_ff == (model.d_ff if model.has_bias("mlp") else model.d_ff // 2)
    params = masked(model, random_params(model), masks)
    np.testing.assert_allclose(logits(compact.target, shrink(compact, params)), logits(model, params), atol=1e-9)
