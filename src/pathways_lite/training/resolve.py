"""Turn a recipe as written into one that says everything its result depends on, or say why it cannot run."""

from __future__ import annotations

from pathways_lite.data.store import open_store, require
from pathways_lite.errors import UserError
from pathways_lite.objectives.special import with_special_tokens
from pathways_lite.recipe import Merge, Recipe, Restore, Stage
from pathways_lite.training.growing import require_growth
from pathways_lite.training.load import load_model


def resolve(recipe: Recipe) -> Recipe:
    """`recipe` with corpus fingerprints and restored checkpoints' digests filled in.

    Raises UserError for a corpus that is missing or is not the recorded one, for a vocabulary or special tokens that the
    model cannot hold, for growth that the stage before does not fit, and for a start that this version cannot do.
    """
    for index in range(len(recipe.stages)):
        require_growth(recipe, index)
    return recipe.model_copy(update={"stages": tuple(_resolve_stage(stage) for stage in recipe.stages)})


def _resolve_stage(stage: Stage) -> Stage:
    if isinstance(stage.start, Merge):
        raise UserError(f"stage {stage.name!r}: start=Merge() is not yet supported")
    store = open_store(stage.data.corpus)
    require(store, stage.data, stage.model.vocab_size)
    data = stage.data.model_copy(update={"fingerprint": store.fingerprint})
    ids = {"text_ids": store.vocab_size, "vocab_size": stage.model.vocab_size, "eod": store.eod}
    objective = with_special_tokens(stage.objective, seq_len=data.seq_len, **ids)
    stage = stage.model_copy(update={"data": data, "objective": objective})
    if isinstance(stage.start, Restore):
        digest = load_model(stage.start.path).manifest.digest
        if stage.start.digest not in (None, digest):
            raise UserError(
                f"stage {stage.name!r} was made from the checkpoint {stage.start.digest}, but {stage.start.path} "
                f"now holds {digest}; name the right checkpoint, or set start.digest=none to start from this one"
            )
        stage = stage.model_copy(update={"start": stage.start.model_copy(update={"digest": digest})})
    return stage
