"""Initialize a stage by merging: the average of several checkpoints of one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pathways_lite.data.order import DataCursor
from pathways_lite.errors import UserError
from pathways_lite.ledger import Ledger
from pathways_lite.methods import merging
from pathways_lite.recipe import Ingredient, Merge, Model, Stage
from pathways_lite.training.components import Components
from pathways_lite.training.find_checkpoints import newest_checkpoints
from pathways_lite.training.load import TrainedModel, load_model


def resolve_merge(start: Merge, stage: str) -> Merge:
    """Return `start` with each of its checkpoints named, with digest and weight.

    Raises UserError where there are none, too few, or others than were recorded.
    """
    if not start.checkpoints:
        raise UserError(f"stages.{stage}.start=Merge() needs checkpoints; give checkpoints=('runs/a', 'runs/b')")
    ingredients = [resolved for ingredient in start.checkpoints for resolved in _resolve(ingredient, start, stage)]
    return Merge(checkpoints=tuple(ingredients))


def _resolve(ingredient: Ingredient, start: Merge, stage: str) -> list[Ingredient]:
    """List the checkpoints that an ingredient stands for."""
    if start.last > 1 and ingredient.digest is not None:
        raise UserError(f"stages.{stage}.start: of {ingredient.path} one checkpoint was recorded; use last=1")
    paths = newest_checkpoints(ingredient.path, start.last)
    weights = merging.ages(len(paths), start.decay)
    resolved = []
    for path, weight in zip(paths, weights, strict=True):
        model = load_model(path, examined=False)  # `newest_checkpoints` has just verified it
        model.require_recorded(ingredient.digest, stage, ingredient.path, "leave out the digest")
        digest = model.manifest.digest
        resolved.append(Ingredient(path=str(path), weight=ingredient.weight * weight, digest=digest))
    return resolved


def merge_params(components: Components, models: Sequence[TrainedModel], weights: Sequence[float]) -> Any:
    """Average the models' parameters (those to evaluate) on the stage's mesh; two are in memory at a time.

    Raises UserError where one has another architecture.
    """
    for model in models:
        require_same_model(model, components.stage.model)
    return merging.average((model.params(components) for model in models), weights)


def require_same_model(trained: TrainedModel, model: Model) -> None:
    """Raise UserError where a checkpoint's parameters cannot be averaged with those of `model`."""
    given, expected = trained.stage.model.model_dump(), model.model_dump()
    differences = [
        f"{name}={given[name]!r}, not {expected[name]!r}" for name in expected if given[name] != expected[name]
    ]
    if differences:
        raise UserError(
            f"{trained.path} is of another model: {'; '.join(differences)}; merged models have to be the same"
        )


def merge_cost(models: Sequence[TrainedModel]) -> Ledger:
    """Return what the checkpoints cost together; a stage that they share, or the one before it, is counted once.

    Ancestors further back that they share are counted for each.
    """
    stages: dict[str, Ledger] = {}
    inherited: dict[str, Ledger] = {}
    for model in models:
        meta = model.manifest.meta
        identity, own = meta["lineage"]["identity"], Ledger.from_json(meta["ledger"]["stage"])
        if identity not in stages or own.steps > stages[identity].steps:
            stages[identity] = own
        inherited[meta["lineage"]["parent"] or ""] = Ledger.from_json(meta["inherited"])
    return sum([*stages.values(), *inherited.values()], Ledger())


def furthest_cursor(models: Sequence[TrainedModel], stage: Stage) -> DataCursor:
    """Return where the data of a stage that starts from all of them continues: after the one that has read most."""
    return max((model.cursor_for(stage) for model in models), key=lambda cursor: cursor.sequences_read)


def merge_lineage(models: Sequence[TrainedModel]) -> str:
    """Return the digests of the checkpoints, as a stage's parent."""
    return " ".join(model.manifest.digest for model in models)
