"""Refuse a chain of stages before it starts: what is known of every stage once its recipe is resolved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pathways_lite import models
from pathways_lite.checkpoints import restore_differences
from pathways_lite.checkpoints.arrays import array_spec, differences, named_leaves
from pathways_lite.checkpoints.manifest import ArraySpec
from pathways_lite.data.order import DataCursor
from pathways_lite.data.pipeline import windows_per_domain
from pathways_lite.data.store import open_store
from pathways_lite.errors import UserError
from pathways_lite.parallel.sharding import Layout
from pathways_lite.recipe import Continue, Merge, Recipe, Restore, Stage
from pathways_lite.training.build_sample_weights import build_sample_weights, require_domains_to_weight
from pathways_lite.training.init_merging import require_same_model
from pathways_lite.training.load import load_model
from pathways_lite.training.stage import StageSpec


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
    require_domains_to_weight(spec)
    mixture = spec.stage.data.mixture
    if mixture is not None and mixture.untrained_stages:
        windows_per_domain(spec.store, spec.stage.data.seq_len)
        _require_learned_domains(spec)
        return
    spec.stream(DataCursor()).order  # noqa: B018
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
    """Check that what the stage starts from has its model's parameters."""
    stage, start = spec.stage, spec.stage.start
    if isinstance(start, Continue):
        before = spec.recipe.stages[spec.index - 1]
        stored = _array_specs(models.abstract_params(before.model))
        _refuse(stage, f"stage {before.name!r}", differences(stored, _array_specs(models.abstract_params(stage.model))))
    elif isinstance(start, Restore):
        model = load_model(start.path, examined=False)
        lines = restore_differences(model.manifest, models.abstract_params(stage.model), "params")
        _refuse(stage, str(model.path), lines)
    elif isinstance(start, Merge):
        for ingredient in start.checkpoints:
            require_same_model(load_model(ingredient.path, examined=False), stage.model)


def _array_specs(params: Any) -> dict[str, ArraySpec]:
    return {name: array_spec(leaf) for name, leaf in named_leaves(params, "params").items()}


def _refuse(stage: Stage, source: str, lines: Sequence[str]) -> None:
    if lines:
        head = f"stages.{stage.name} cannot start from {source}, which has other parameters (Grow() makes them larger):"
        raise UserError("\n  ".join([head, *lines]))
