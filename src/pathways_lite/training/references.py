"""What a stage uses of earlier results beside its start: references, and weights of domains that others learned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from pathways_lite.checkpoints import restore
from pathways_lite.data.store import open_store, require
from pathways_lite.errors import UserError
from pathways_lite.ledger import Ledger
from pathways_lite.objectives.denoisers import with_special_tokens
from pathways_lite.recipe import (
    CheckpointRef,
    Continue,
    DataMixture,
    Grow,
    LearnedWeights,
    Merge,
    MixturePhase,
    Recipe,
    Reference,
    Restore,
    Stage,
    stage_identity,
)
from pathways_lite.run_directory import RunDirectory
from pathways_lite.training.init_growth import require_growth
from pathways_lite.training.init_merging import resolve_merge
from pathways_lite.training.load import TrainedModel, load_model
from pathways_lite.training.reweighting import stage_reference


def resolve_checkpoint_refs(stage: Stage, before: Recipe) -> Stage:
    """`stage` with the identities and digests of what it uses, and a reference's model; `before`: the stages before it.

    Raises UserError where one is not there, is not the recorded one, or does not fit.
    """
    if (reference := stage_reference(stage)) is not None:
        stage = _with_reference(stage, _resolve_reference(stage, reference, before))
    if (mixture := stage.data.mixture) is not None and mixture.learned:
        stage = _with_mixture(stage, _each_learned(mixture, lambda one: _resolve_learned(stage, one, before)))
    return stage


def with_learned_weights(recipe: Recipe, index: int, run: RunDirectory) -> Recipe:
    """`recipe` with the weights that its earlier stages have learned filled into the mixture of stage `index`."""
    stage = recipe.stages[index]
    if stage.data.mixture is None or not stage.data.mixture.unknown:
        return recipe

    def filled(one: LearnedWeights) -> LearnedWeights:
        weights = learned_by(_load(one, recipe, index, run)) if one.weights is None else one.weights
        return one.model_copy(update={"weights": weights})

    stage = _with_mixture(stage, _each_learned(stage.data.mixture, filled))
    return recipe.model_copy(update={"stages": (*recipe.stages[:index], stage, *recipe.stages[index + 1 :])})


def learned_by(found: TrainedModel) -> tuple[tuple[str, float], ...]:
    """The average weight of each domain that a checkpoint's stage has learned by then."""
    memory = found.setup.abstract_state.method_state.memory
    learned = restore(found.path, memory, "method_state.memory").arrays
    return tuple(zip(found.setup.store.domains, np.asarray(learned.average).astype(float).tolist(), strict=True))


def load_reference(recipe: Recipe, index: int, run: RunDirectory) -> TrainedModel | None:
    """The reference of stage `index`, if it has one."""
    reference = stage_reference(recipe.stages[index])
    return None if reference is None else _load(reference, recipe, index, run)


def cost_of_uses(recipe: Recipe, index: int, run: RunDirectory) -> Ledger:
    """What it cost to get what stage `index` uses beside its start: FLOPs and seconds. Tokens are those of what its
    own parameters have been trained on, so these are none.

    A stage of the recipe that led to several of them, or to the start as well, is counted once, and so is a checkpoint.
    What different checkpoints of other runs have in common is counted for each.
    """
    uses = list(_uses(recipe.stages[index]))
    used = [_number(recipe, index, one) for one in uses if one.stage is not None]
    own: dict[int, Ledger] = {}  # of each stage that led to them, without the stages that led to it
    for number in sorted({*used}.union(*(_ancestors(recipe, number) for number in used))):
        cost = load_model(run.stage(recipe.stages[number].name).checkpoints, examined=False).cost
        own[number] = cost - sum((own[before] for before in _ancestors(recipe, number)), Ledger())
    inherited = _ancestors(recipe, index, beside_the_start=False)
    total = sum((ledger for number, ledger in own.items() if number not in inherited), Ledger())
    elsewhere = [load_model(one.path, examined=False) for one in uses if one.stage is None]
    costs = {found.manifest.digest: found.cost for found in elsewhere}
    costs.pop(getattr(recipe.stages[index].start, "digest", None) or "", None)
    return replace(sum(costs.values(), total), steps=0, tokens=0, active_parameter_tokens=0)


def _uses(stage: Stage) -> Iterator[CheckpointRef]:
    if (reference := stage_reference(stage)) is not None:
        yield reference
    if stage.data.mixture is not None:
        yield from stage.data.mixture.learned


def _ancestors(recipe: Recipe, index: int, *, beside_the_start: bool = True) -> set[int]:
    """The stages whose cost is in that of stage `index`."""
    stage = recipe.stages[index]
    found = {index - 1} if isinstance(stage.start, Continue | Grow) else set()
    if beside_the_start:
        found |= {_number(recipe, index, one) for one in _uses(stage) if one.stage is not None}
    return found.union(*(_ancestors(recipe, number) for number in found))


def _load(one: CheckpointRef, recipe: Recipe, index: int, run: RunDirectory) -> TrainedModel:
    if one.stage is None:
        return load_model(one.path)
    return load_model(run.stage(recipe.stages[_number(recipe, index, one)].name).checkpoints)


def _number(recipe: Recipe, index: int, one: CheckpointRef) -> int:
    """Of the stage that stage `index` means: by its identity where that is known, as a study may call it otherwise."""
    before = recipe.stages[:index]
    for number in range(len(before)):
        if one.identity is not None and stage_identity(recipe, number) == one.identity:
            return number
    names = [stage.name for stage in before]
    if one.stage in names:
        return names.index(one.stage)
    there = f"there are {', '.join(names)}" if names else "there is none"
    raise UserError(f"stage {recipe.stages[index].name!r} uses stage {one.stage!r}; before it {there}")


# ---- resolving ----


def _resolve_reference(stage: Stage, one: Reference, before: Recipe) -> Reference:
    identified, theirs = _identified(stage, one, before)
    if theirs.model.vocab_size != stage.model.vocab_size:
        raise UserError(
            f"stage {stage.name!r}: the reference {one.stage or one.path} has vocab_size={theirs.model.vocab_size}, "
            f"but the model has {stage.model.vocab_size}; both have to score the same tokens"
        )
    if len({_tokenizer(theirs), _tokenizer(stage)} - {None}) > 1:
        raise UserError(
            f"stage {stage.name!r}: the reference {one.stage or one.path} was trained on {theirs.data.corpus}, whose "
            f"tokenizer is another one than that of {stage.data.corpus}; both have to score the same tokens"
        )
    return identified.model_copy(update={"model": theirs.model})


def _tokenizer(stage: Stage) -> str | None:
    """Which one tokenised what the stage reads; None where the corpus is not there any more."""
    try:
        return open_store(stage.data.corpus).manifest.tokenizer
    except UserError:
        return None


def _resolve_learned(stage: Stage, one: LearnedWeights, before: Recipe) -> LearnedWeights:
    identified, theirs = _identified(stage, one, before)
    if theirs.domain_weights is None:
        raise UserError(
            f"the mixture of stage {stage.name!r} is learned by {one.stage or one.path}, which learns no weights; "
            "give that stage domain_weights, e.g. DoGE()"
        )
    weights = learned_by(load_model(one.path)) if one.stage is None else None
    return identified.model_copy(update={"weights": weights})


def _identified[E: CheckpointRef](stage: Stage, one: E, before: Recipe) -> tuple[E, Stage]:
    """`one` with what says which result it is, and the stage that it is of."""
    if one.stage is not None:
        recipe = before.model_copy(update={"stages": (*before.stages, stage)})
        number = _number(recipe, len(before.stages), one)
        return one.model_copy(update={"identity": stage_identity(recipe, number)}), before.stages[number]
    found = load_model(one.path)
    found.require_recorded(one.digest, stage.name, one.path, "leave out the digest")
    return one.model_copy(update={"digest": found.manifest.digest}), found.stage


def _with_reference(stage: Stage, reference: Reference) -> Stage:
    field = "reweighting" if stage.domain_weights is None else "domain_weights"
    how = getattr(stage, field).model_copy(update={"reference": reference})
    return stage.model_copy(update={field: how})


def _with_mixture(stage: Stage, mixture: DataMixture) -> Stage:
    return stage.model_copy(update={"data": stage.data.model_copy(update={"mixture": mixture})})


def _each_learned(mixture: DataMixture, change: Callable[[LearnedWeights], LearnedWeights]) -> DataMixture:
    def changed(phase: MixturePhase) -> MixturePhase:
        if not isinstance(phase.weights, LearnedWeights):
            return phase
        return phase.model_copy(update={"weights": change(phase.weights)})

    return mixture.model_copy(update={"phases": tuple(changed(phase) for phase in mixture.phases)})


# Turn a recipe as written into one that says everything its result depends on, or say why it cannot run.


def resolve_recipe(recipe: Recipe) -> Recipe:
    """`recipe` with corpus fingerprints and digests of the checkpoints that it names filled in.

    Raises UserError for a corpus that is missing or is not the recorded one, for a vocabulary or special tokens that
    the model cannot hold, for growth that the stage before does not fit, and for earlier results that are not there.
    """
    for index in range(len(recipe.stages)):
        require_growth(recipe, index)
    resolved = recipe.model_copy(update={"stages": ()})
    for stage in recipe.stages:
        stage = resolve_checkpoint_refs(_resolve_stage(stage), resolved)
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
