"""Where a stage's data begins: after what led to it, or again. Known from the recipe, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from pathways_lite.data.order import DataCursor
from pathways_lite.errors import UserError
from pathways_lite.recipe import Continue, Data, Grow, Merge, Restore
from pathways_lite.tracking.formatting import si
from pathways_lite.training.load import TrainedModel, load_model
from pathways_lite.training.stage import StageSpec, changes_of_order


class Left(NamedTuple):
    """A stage that another one starts from, and the step at which it is left."""

    spec: StageSpec
    step: int
    model: TrainedModel | None = None  # where it is a checkpoint


def describe_data_position(spec: StageSpec, position: int | None = None) -> str:
    """Say in one line where the data of a stage begins, and what of it was read before.

    `position`: the number of sequences of its order that were read before its first step, where it is known; otherwise
    it follows from the recipe, without what a guard skips. No corpus is read.
    """
    try:
        left = _starts_from(spec)
    except UserError:  # a plan of a recipe whose checkpoints are elsewhere
        return "data continues after the checkpoint that the stage starts from, which is not here"
    if left is None:
        return "data begins at sequence 0"
    if not left.spec.stage.data.corpus:
        return "data begins at sequence 0; what it starts from was imported and has read no corpus here"
    changes = changes_of_order(left.spec.stage.data, spec.stage.data)
    if not changes:
        open_end = position is None and left.model is None and left.spec.stage.early_stopping is not None
        earlier = f", or earlier where stage {left.spec.stage.name!r} stops early" if open_end else ""
        return f"data continues at sequence {_position_after(left) if position is None else position:,}{earlier}"
    tokens = sum(count for data, count in _read_until(left) if _is_same_corpus(data, spec.stage.data))
    reason = f"because {' and '.join(changes)} changed"
    if not tokens:
        return f"data begins at sequence 0, {reason}; nothing of it was read before"
    return f"data begins again, {reason}; {si(tokens, 'tokens')} of it were read before"


def _starts_from(spec: StageSpec) -> Left | None:
    """Return what the stage starts from; None for random parameters. Raises UserError where a checkpoint is missing."""
    start = spec.stage.start
    if isinstance(start, Continue | Grow):
        before = StageSpec(spec.recipe, spec.index - 1)
        return Left(before, before.timeline.total_steps)
    if isinstance(start, Restore):
        return _left_checkpoint(start.path)
    if isinstance(start, Merge):
        models = [_left_checkpoint(ingredient.path) for ingredient in start.checkpoints]
        same = [left for left in models if not changes_of_order(left.spec.stage.data, spec.stage.data)]
        return max(same or models, key=_position_after, default=None)
    return None


def _left_checkpoint(path: str) -> Left:
    model = load_model(path, examined=False)
    return Left(model.spec, model.manifest.step, model)


def _position_after(left: Left) -> int:
    """Return the number of sequences of the stage's order that are read when it is left."""
    if left.model is not None:
        cursor = DataCursor.from_json(left.model.manifest.meta["cursor"])
    else:
        cursor = DataCursor(first_sequence=_position_of(left.spec))
    return cursor.sequences_read_by(left.spec.timeline, left.step)


def _position_of(spec: StageSpec) -> int:
    left = _starts_from(spec)
    if left is None or changes_of_order(left.spec.stage.data, spec.stage.data):
        return 0
    return _position_after(left)


def _read_until(left: Left) -> Iterator[tuple[Data, int]]:
    """Yield what the stage and those that led to it have read: the data, and a number of tokens."""
    yield left.spec.stage.data, left.spec.timeline.tokens_before(left.step)
    with suppress(UserError):  # a checkpoint that led to this one may be gone
        if (before := _starts_from(left.spec)) is not None:
            yield from _read_until(before)


def _is_same_corpus(a: Data, b: Data) -> bool:
    return a.fingerprint == b.fingerprint if a.fingerprint and b.fingerprint else a.corpus == b.corpus
