"""Refuse a chain of stages before it starts: what is known of every stage once its recipe is resolved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from pathways_lite import models
from pathways_lite.checkpoints import Manifest
from pathways_lite.checkpoints.arrays import array_spec, differences, named_leaves
from pathways_lite.checkpoints.manifest import ArraySpec
from pathways_lite.data.order import DataCursor
from pathways_lite.data.pipeline import windows_per_domain
from pathways_lite.data.store import open_store
from pathways_lite.errors import UserError
from pathways_lite.parallel.sharding import Layout
from pathways_lite.recipe import Continue, Recipe, Restore, Stage
from pathways_lite.training.build_sample_weights import build_sample_weights, initial_memory
from pathways_lite.training.init_merging import require_same_model
from pathways_lite.training.load import load_model
from pathways_lite.training.optimizers import build_stage_optimizer
from pathways_lite.training.stage import StageSpec, stage_timeline


def require_trainable(recipe: Recipe) -> None:
    """Raise UserError where a stage of a resolved recipe could not start: its data, sample weights or parameters.

    What needs devices (a mesh, memory) is not checked here.
    """
    for index in range(len(recipe.stages)):
        spec = StageSpec(recipe, index)
        _require_data(spec)
        _require_parameters(spec)


def _require_data(spec: StageSpec) -> None:
    """Check that the corpus has windows, and the domains that mixture and sample weights name."""
    mixture = spec.stage.data.mixture
    if mixture is not None and mixture.untrained_stages:
        windows_per_domain(spec.store, spec.stage.data.seq_len)
        _require_learned_domains(spec)
        return
    spec.stream(DataCursor()).order  # noqa: B018
    initial_memory(spec)
    build_sample_weights(spec, Layout(None))


def _require_learned_domains(spec: StageSpec) -> None:
    """Check that weights which an earlier stage learns are weights of this stage's domains."""
    assert spec.stage.data.mixture is not None
    stages = {stage.name: stage for stage in spec.recipe.stages[: spec.index]}
    for learned in spec.stage.data.mixture.learned_weights:
        if (source := stages.get(learned.stage or "")) is None:
            continue
        unknown = set(open_store(source.data.corpus).domains) - set(spec.store.domains)
        if unknown:
            raise UserError(
                f"stages.{spec.stage.name}.data.mixture: stage {source.name!r} learns weights of "
                f"{', '.join(sorted(unknown))}, which the corpus {spec.store.address} does not have"
            )


def _require_parameters(spec: StageSpec) -> None:
    """Check that what the stage starts from has its model's parameters, and its optimizer's state where it is kept."""
    stage, start = spec.stage, spec.stage.start
    if isinstance(start, Continue):
        before = spec.recipe.stages[spec.index - 1]
        keep = start.optimizer == "keep"
        _require_arrays(stage, f"stage {before.name!r}", _arrays_of(before, optimizer=keep), keep=keep)
    elif isinstance(start, Restore):
        model = load_model(start.path, examined=False)
        keep = start.optimizer == "keep"
        if keep:
            model.require_unmasked()
        stored = _arrays_in(model.manifest, optimizer=keep)
        if keep and not any(name.startswith("opt_state.") for name in stored):
            raise UserError(
                f"stages.{stage.name}.start.optimizer='keep', but {model.path} holds no optimizer state (it was made "
                "without training, or is not a checkpoint of `train`); use 'reset'"
            )
        _require_arrays(stage, str(model.path), stored, keep=keep)
    elif start.kind == "merge":
        for ingredient in start.checkpoints:
            require_same_model(load_model(ingredient.path, examined=False), stage.model)


def _require_arrays(stage: Stage, source: str, stored: Mapping[str, ArraySpec], *, keep: bool) -> None:
    expected = _arrays_of(stage, optimizer=keep)
    if lines := differences(stored, expected):
        hint = "use Grow() for a larger model" + (", or optimizer='reset' for another optimizer" if keep else "")
        raise UserError(
            "\n  ".join([f"stages.{stage.name} cannot start from {source}, which has other arrays ({hint}):", *lines])
        )


def _arrays_of(stage: Stage, *, optimizer: bool) -> dict[str, ArraySpec]:
    """Return what a checkpoint of the stage holds: its parameters and, if asked for, its optimizer's state."""
    params = models.abstract_params(stage.model)
    trees: dict[str, Any] = {"params": params}
    if optimizer:
        trees["opt_state"] = jax.eval_shape(build_stage_optimizer(stage, stage_timeline(stage)).init, params)
    leaves = {name: leaf for prefix, tree in trees.items() for name, leaf in named_leaves(tree, prefix).items()}
    return {name: array_spec(leaf) for name, leaf in leaves.items()}


def _arrays_in(manifest: Manifest, *, optimizer: bool) -> dict[str, ArraySpec]:
    prefixes = ("params.", "opt_state.") if optimizer else ("params.",)
    return {name: info for name, info in manifest.arrays.items() if name.startswith(prefixes)}
