"""Turn a recipe as written into one that says everything its result depends on, or say why it cannot run."""

from __future__ import annotations

from pathways_lite.data.store import open_store, require
from pathways_lite.errors import UserError
from pathways_lite.objectives.special import with_special_tokens
from pathways_lite.recipe import Merge, Recipe, Reference, Restore, Stage
from pathways_lite.training.growing import require_growth
from pathways_lite.training.load import Loaded, load_model
from pathways_lite.training.merging import resolve_merge


def resolve(recipe: Recipe) -> Recipe:
    """`recipe` with corpus fingerprints and digests of the checkpoints that it names filled in.

    Raises UserError for a corpus that is missing or is not the recorded one, for a vocabulary or special tokens that
    the model cannot hold, and for growth that the stage before does not fit.
    """
    for index in range(len(recipe.stages)):
        require_growth(recipe, index)
    return recipe.model_copy(update={"stages": tuple(_resolve_stage(stage) for stage in recipe.stages)})


def _resolve_stage(stage: Stage) -> Stage:
    store = open_store(stage.data.corpus)
    require(store, stage.data, stage.model.vocab_size)
    data = stage.data.model_copy(update={"fingerprint": store.fingerprint})
    ids = {"text_ids": store.vocab_size, "vocab_size": stage.model.vocab_size, "eod": store.eod}
    objective = with_special_tokens(stage.objective, seq_len=data.seq_len, **ids)
    stage = stage.model_copy(update={"data": data, "objective": objective})
    if isinstance(stage.start, Restore):
        digest = _found(stage, "start", stage.start).manifest.digest
        stage = stage.model_copy(update={"start": stage.start.model_copy(update={"digest": digest})})
    if isinstance(stage.start, Merge):
        stage = stage.model_copy(update={"start": resolve_merge(stage.start, stage.name)})
    if (how := stage.reweighting) is not None and how.reference is not None:
        reference = _resolve_reference(stage, how.reference)
        stage = stage.model_copy(update={"reweighting": how.model_copy(update={"reference": reference})})
    return stage


def _found(stage: Stage, field: str, named: Restore | Reference) -> Loaded:
    """The checkpoint that a field names. Raises UserError where it is not the recorded one."""
    found = load_model(named.path)
    found.require_recorded(named.digest, stage.name, named.path, f"set {field}.digest=none")
    return found


def _resolve_reference(stage: Stage, reference: Reference) -> Reference:
    found = _found(stage, "reweighting.reference", reference)
    if found.stage.model.vocab_size != stage.model.vocab_size:
        raise UserError(
            f"stage {stage.name!r}: the reference {reference.path} has vocab_size={found.stage.model.vocab_size}, but "
            f"the model has {stage.model.vocab_size}; both have to score the same tokens"
        )
    return reference.model_copy(update={"digest": found.manifest.digest, "model": found.stage.model})
