"""How a merged stage begins: several checkpoints of one model, averaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pathways_lite.data.order import DataCursor
from pathways_lite.errors import UserError
from pathways_lite.ledger import Ledger
from pathways_lite.methods import merging
from pathways_lite.recipe import Ingredient, Merge, Model, Stage
from pathways_lite.training.load import TrainedModel, load_model, newest_checkpoints
from pathways_lite.training.setup import Setup


def resolve_merge(start: Merge, stage: str) -> Merge:
    """`start` with each of its checkpoints named, with digest and weight.

    Raises UserError where there are none, too few, or others than were recorded.
    """
    if not start.of:
        raise UserError(f"stages.{stage}.start=Merge() needs checkpoints; give of=('runs/a', 'runs/b')")
    found = [ingredient for one in start.of for ingredient in _named(one, start, stage)]
    return Merge(of=tuple(found))


def _named(one: Ingredient, start: Merge, stage: str) -> list[Ingredient]:
    """The checkpoints that an ingredient stands for."""
    if start.last > 1 and one.digest is not None:
        raise UserError(f"stages.{stage}.start: of {one.path} one checkpoint was recorded; use last=1")
    paths = newest_checkpoints(one.path, start.last)
    weights = merging.ages(len(paths), start.decay)
    named = []
    for path, weight in zip(paths, weights, strict=True):
        found = load_model(path, examined=False)  # it has just been
        found.require_recorded(one.digest, stage, one.path, "leave out the digest")
        named.append(Ingredient(path=str(path), weight=one.weight * weight, digest=found.manifest.digest))
    return named


def merged_params(setup: Setup, ingredients: Sequence[TrainedModel], weights: Sequence[float]) -> Any:
    """The average of the checkpoints' parameters (those to evaluate) on the stage's mesh; two are held at a time.

    Raises UserError where one is of another model.
    """
    for found in ingredients:
        require_same_model(found, setup.stage.model)
    return merging.average((found.params(setup) for found in ingredients), weights)


def require_same_model(found: TrainedModel, model: Model) -> None:
    """Raise UserError where a checkpoint's parameters cannot be averaged with those of `model`."""
    theirs, ours = found.stage.model.model_dump(), model.model_dump()
    if different := [f"{name}={theirs[name]!r}, not {ours[name]!r}" for name in ours if theirs[name] != ours[name]]:
        raise UserError(f"{found.path} is of another model: {'; '.join(different)}; merged models have to be the same")


def merge_cost(ingredients: Sequence[TrainedModel]) -> Ledger:
    """What the checkpoints cost together: what they share, a stage or the one before it, is counted once.

    What ancestors further back share is counted for each.
    """
    stages: dict[str, Ledger] = {}
    before: dict[str, Ledger] = {}
    for found in ingredients:
        meta = found.manifest.meta
        identity, own = meta["lineage"]["identity"], Ledger.from_json(meta["ledger"]["stage"])
        if identity not in stages or own.steps > stages[identity].steps:
            stages[identity] = own
        before[meta["lineage"]["parent"] or ""] = Ledger.from_json(meta["inherited"])
    return sum([*stages.values(), *before.values()], Ledger())


def furthest(ingredients: Sequence[TrainedModel], stage: Stage) -> DataCursor:
    """Where the data of a stage goes on that begins with all of them: behind the one that has come furthest in it."""
    return max((found.cursor_for(stage) for found in ingredients), key=lambda cursor: cursor.read)


def merge_lineage(ingredients: Sequence[TrainedModel]) -> str:
    """The digests of the checkpoints, as a stage's parent."""
    return " ".join(found.manifest.digest for found in ingredients)
