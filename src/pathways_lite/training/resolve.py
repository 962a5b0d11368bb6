"""Turn a recipe as written into one that says everything its result depends on, or say why it cannot run."""

from __future__ import annotations

from pathways_lite.data.store import open_store, require
from pathways_lite.objectives.special import with_special_tokens
from pathways_lite.recipe import Merge, Recipe, Restore, Stage
from pathways_lite.training.earlier import resolve_earlier
from pathways_lite.training.growing import require_growth
from pathways_lite.training.load import load_model
from pathways_lite.training.merging import resolve_merge


def resolve(recipe: Recipe) -> Recipe:
    """`recipe` with corpus fingerprints and digests of the checkpoints that it names filled in.

    Raises UserError for a corpus that is missing or is not the recorded one, for a vocabulary or special tokens that
    the model cannot hold, for growth that the stage before does not fit, and for earlier results that are not there.
    """
    for index in range(len(recipe.stages)):
        require_growth(recipe, index)
    resolved = recipe.model_copy(update={"stages": ()})
    for stage in recipe.stages:
        stage = resolve_earlier(_resolve_stage(stage), resolved)
        resolved = resolved.model_copy(update={"stages": (*resolved.stages, stage)})
    return resolved


def _resolve_stage(stage: Stage) -> Stage:
    store = open_store(stage.data.corpus)
    require(store, stage.data, stage.model.vocab_size)
    data = stage.data.model_copy(update={"fingerprint": store.fingerprint})
    ids = {"text_ids": store.vocab_size, "vocab_size": stage.model.vocab_size, "eod": store.eod}
    objective = with_special_tokens(stage.objective, seq_len=data.seq_len, **ids)
    stage = stage.model_copy(update={"data": data, "objective": objective})
    if isinstance(stage.start, Restore):
        found = load_model(stage.start.path)
        found.require_recorded(stage.start.digest, stage.name, stage.start.path, "set start.digest=none")
        start = stage.start.model_copy(update={"digest": found.manifest.digest})
        stage = stage.model_copy(update={"start": start})
    if isinstance(stage.start, Merge):
        stage = stage.model_copy(update={"start": resolve_merge(stage.start, stage.name)})
    return stage
