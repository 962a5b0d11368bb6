"""Resolve a recipe: fill in what its result depends on, including the checkpoints that its stages refer to.

A stage may refer to other checkpoints beside its start: a reference model, or domain weights that a proxy learned. Each
is a `CheckpointRef` to an earlier stage of the recipe, or to another run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from pathways_lite.checkpoints import restore
from pathways_lite.data.reserved_tokens import reserved_ids
from pathways_lite.data.store import MissingStoreError, find_store, open_store, require_compatible
from pathways_lite.errors import UserError, did_you_mean
from pathways_lite.ledger import Ledger
from pathways_lite.objectives.denoisers import default_special_tokens, resolve_special_tokens
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
    SpecialTokens,
    Stage,
    stage_identity,
    with_plugins_recorded,
)
from pathways_lite.run_directory import RunDirectory
from pathways_lite.run_history import last_start, read_history
from pathways_lite.training.check_chain import require_kept_optimizer, require_stored_optimizer, require_trainable
from pathways_lite.training.init_growth import require_growth, require_something_grown
from pathways_lite.training.init_merging import resolve_merge
from pathways_lite.training.load import TrainedModel, load_final, load_model
from pathways_lite.training.resolve_amounts import resolve_budgets, with_relative_rate
from pathways_lite.training.stage import reference_of, stage_timeline
from pathways_lite.training.stage_tasks import stage_tasks


def resolve_recipe(recipe: Recipe, run: RunDirectory | None = None, finished: Sequence[Stage] = ()) -> Recipe:
    """Fill in corpus fingerprints, special tokens and digests of the checkpoints that a recipe names.

    Raises UserError for a corpus that is missing or is not the recorded one, for a vocabulary or special tokens that
    the model cannot hold, for growth that does not fit the stage before, for checkpoints that are not there, and for
    whatever else would keep a stage from starting. Stages that were begun in `run` may be what is refused today.

    A stage that is finished in `run` needs no corpus. `finished`: resolved stages, trained elsewhere, whose corpora
    need not be there either; nothing but what they recorded is then known of such a corpus.
    """
    recipe = with_plugins_recorded(recipe)
    if run is not None:
        recipe = with_corpora_found(recipe, run)
    recipe = resolve_budgets(recipe)
    for index in range(len(recipe.stages)):
        require_growth(recipe, index)
        if run is None or not run.stage(recipe.stages[index].name).path.exists():
            require_something_grown(recipe, index)
        require_kept_optimizer(recipe, index)
    resolved, without_corpus = recipe.copy_unchecked(stages=()), set()
    for stage in recipe.stages:
        try:
            stage = _resolve_data(stage, resolved)
        except MissingStoreError as error:
            here = finished_stages([run], stage.name) if run is not None else ()
            if (recorded := _as_recorded(stage, [*here, *finished])) is None:
                raise MissingStoreError(
                    f"{error}\nStage {stage.name!r} reads it; if it is elsewhere now, say where: "
                    "'stages.*.data.corpus=PLACE'"
                ) from error
            stage = recorded
            without_corpus.add(stage.name)
        stage = resolve_checkpoint_refs(_resolve_start(stage), resolved)
        stage = with_relative_rate(stage, *_left(stage, resolved))
        resolved = resolved.model_copy(update={"stages": (*resolved.stages, stage)})
    require_trainable(resolved, without_corpus)
    return resolved


def with_corpora_found(recipe: Recipe, run: RunDirectory) -> Recipe:
    """Return the recipe with relative corpora as they lie from where `run` was started, where they are not here."""
    directory = (last_start(read_history(run.path)) or {}).get("directory")
    places = [find_store(stage.data.corpus, directory) for stage in recipe.stages]
    if places == [stage.data.corpus for stage in recipe.stages]:
        return recipe
    stages = zip(recipe.stages, places, strict=True)
    moved = (s.model_copy(update={"data": s.data.model_copy(update={"corpus": place})}) for s, place in stages)
    return recipe.copy_unchecked(stages=tuple(moved))


def finished_stages(runs: Iterable[RunDirectory], name: str | None = None) -> list[Stage]:
    """Return the stages that are finished in run directories, resolved, as their recipes have them; or those of a name.

    Directories without a recipe that can be read have none.
    """
    stages: list[Stage] = []
    for run in runs:
        try:
            recorded = run.recipe().stages
        except UserError:
            continue
        stages += [one for one in recorded if name in (None, one.name) and run.stage(one.name).is_finished]
    return stages


def _as_recorded(stage: Stage, finished: Sequence[Stage]) -> Stage | None:
    """Fill in what a stage's missing corpus would say, from a finished stage that has read it; None if none has."""
    for one in finished:
        tokens, own = getattr(one.objective, "tokens", None), getattr(stage.objective, "tokens", None)
        objective = stage.objective
        if own is None and tokens is not None and hasattr(objective, "tokens"):
            objective = objective.model_copy(update={"tokens": tokens})
        same_place = stage.data.fingerprint is None and stage.data.corpus == one.data.corpus
        is_same = same_place or stage.data.fingerprint == one.data.fingerprint is not None
        if is_same and one.data.fingerprint is not None and objective == one.objective:
            data = stage.data.model_copy(update={"fingerprint": one.data.fingerprint})
            return stage.model_copy(update={"data": data, "objective": objective})
    return None


def _left(stage: Stage, before: Recipe) -> tuple[Stage | None, int | None]:
    """Return the stage that `stage` starts from, and the step at which that is left; None where it is not known yet."""
    if isinstance(stage.start, Continue | Grow):
        parent = before.stages[-1]
        return parent, None if parent.early_stopping is not None else stage_timeline(parent).total_steps
    if isinstance(stage.start, Restore):
        model = load_model(stage.start.path, examined=False)
        return model.stage, model.manifest.step
    return None, None


def _resolve_data(stage: Stage, before: Recipe) -> Stage:
    store = open_store(stage.data.corpus)
    require_compatible(store, stage.data, stage.model.vocab_size)
    data = stage.data.model_copy(update={"fingerprint": store.fingerprint})
    objective = resolve_special_tokens(
        stage.objective,
        seq_len=data.seq_len,
        text_ids=store.vocab_size,
        vocab_size=stage.model.vocab_size,
        frame=store.frame,
        reserved=lambda: reserved_ids(store.tokenizer()),
        kept=lambda: _kept_tokens(stage, before),
    )
    resolved = stage.model_copy(update={"data": data, "objective": objective})
    stage_tasks(resolved, store)  # what is wrong with them is said before anything runs
    return resolved


def _kept_tokens(stage: Stage, before: Recipe) -> SpecialTokens | None:
    """Return the special tokens of the stage that `stage` starts from, where they do not follow from sizes alone.

    So they keep their meaning after the vocabulary has grown, where they are reserved tokens, and where they were
    declared. None where there is no such stage, where it had none, or where the same rule gives this stage its own.
    """
    parent: Stage | None = None
    if isinstance(stage.start, Continue | Grow):
        parent = before.stages[-1]
    elif isinstance(stage.start, Restore):
        parent = load_model(stage.start.path, examined=False).stage
    tokens: SpecialTokens | None = getattr(parent.objective, "tokens", None) if parent is not None else None
    if parent is None or tokens is None:
        return None
    by_rule = tokens == default_special_tokens(tokens.s2s, parent.model.vocab_size)
    return None if by_rule and parent.model.vocab_size == stage.model.vocab_size else tokens


def _resolve_start(stage: Stage) -> Stage:
    if isinstance(stage.start, Restore):
        model = load_model(stage.start.path, report=None)
        model.require_recorded(stage.start.digest, stage.name, stage.start.path, "set start.digest=none")
        require_stored_optimizer(stage, model)
        start = stage.start.model_copy(update={"digest": model.manifest.digest})
        stage = stage.model_copy(update={"start": start})
    if isinstance(stage.start, Merge):
        stage = stage.model_copy(update={"start": resolve_merge(stage.start, stage.name)})
    return stage


# ---- references to checkpoints ----


def resolve_checkpoint_refs(stage: Stage, before: Recipe) -> Stage:
    """Fill in identities and digests of a stage's references, and a reference's model; `before`: the earlier stages.

    Raises UserError where one is not there, is not the recorded one, or does not fit.
    """
    if (reference := reference_of(stage)) is not None:
        stage = _with_reference(stage, _resolve_reference(stage, reference, before))
    if (mixture := stage.data.mixture) is not None and mixture.learned_weights:
        stage = _with_mixture(stage, _map_learned(mixture, lambda weights: _resolve_learned(stage, weights, before)))
    return stage


def _resolve_reference(stage: Stage, reference: Reference, before: Recipe) -> Reference:
    identified, referred = _identify(stage, reference, before)
    source = reference.stage or reference.path
    if referred.model.vocab_size != stage.model.vocab_size:
        raise UserError(
            f"stage {stage.name!r}: the reference {source} has vocab_size={referred.model.vocab_size}, "
            f"but the model has {stage.model.vocab_size}; both have to score the same tokens"
        )
    if len({_tokenizer(referred), _tokenizer(stage)} - {None}) > 1:
        raise UserError(
            f"stage {stage.name!r}: the reference {source} was trained on {referred.data.corpus}, whose "
            f"tokenizer is another one than that of {stage.data.corpus}; both have to score the same tokens"
        )
    return identified.model_copy(update={"model": referred.model})


def _tokenizer(stage: Stage) -> str | None:
    """The fingerprint of the corpus's tokenizer; None where the corpus no longer exists."""
    try:
        return open_store(stage.data.corpus).manifest.tokenizer
    except UserError:
        return None


def _resolve_learned(stage: Stage, learned: LearnedWeights, before: Recipe) -> LearnedWeights:
    identified, referred = _identify(stage, learned, before)
    if referred.domain_weights is None:
        source = learned.stage or learned.path
        raise UserError(
            f"the mixture of stage {stage.name!r} is learned by {source}, which learns no weights; "
            "give that stage domain_weights, e.g. DoGE()"
        )
    weights = learned_weights(load_model(learned.path, report=None)) if learned.stage is None else None
    return identified.model_copy(update={"weights": weights})


def _identify[R: CheckpointRef](stage: Stage, ref: R, before: Recipe) -> tuple[R, Stage]:
    """Fill in the identity or digest of `ref`; also return the stage that it refers to."""
    if ref.stage is not None:
        recipe = before.model_copy(update={"stages": (*before.stages, stage)})
        index = _stage_index(recipe, len(before.stages), ref)
        return ref.model_copy(update={"identity": stage_identity(recipe, index)}), before.stages[index]
    model = load_model(ref.path, report=None)
    model.require_recorded(ref.digest, stage.name, ref.path, "leave out the digest")
    return ref.model_copy(update={"digest": model.manifest.digest}), model.stage


def _with_reference(stage: Stage, reference: Reference) -> Stage:
    field = "reweighting" if stage.domain_weights is None else "domain_weights"
    rule = getattr(stage, field).model_copy(update={"reference": reference})
    return stage.model_copy(update={field: rule})


def _with_mixture(stage: Stage, mixture: DataMixture) -> Stage:
    return stage.model_copy(update={"data": stage.data.model_copy(update={"mixture": mixture})})


def _map_learned(mixture: DataMixture, change: Callable[[LearnedWeights], LearnedWeights]) -> DataMixture:
    """Apply `change` to the learned weights of every phase."""

    def map_phase(phase: MixturePhase) -> MixturePhase:
        if not isinstance(phase.weights, LearnedWeights):
            return phase
        return phase.model_copy(update={"weights": change(phase.weights)})

    return mixture.model_copy(update={"phases": tuple(map_phase(phase) for phase in mixture.phases)})


# ---- when a stage starts ----


def with_learned_weights(recipe: Recipe, index: int, run: RunDirectory) -> Recipe:
    """Fill the weights that earlier stages have learned into the mixture of stage `index`."""
    stage = recipe.stages[index]
    if stage.data.mixture is None or not stage.data.mixture.untrained_stages:
        return recipe

    def fill(learned: LearnedWeights) -> LearnedWeights:
        if learned.weights is not None:
            return learned
        return learned.model_copy(update={"weights": learned_weights(_load(learned, recipe, index, run))})

    stage = _with_mixture(stage, _map_learned(stage.data.mixture, fill))
    return recipe.model_copy(update={"stages": (*recipe.stages[:index], stage, *recipe.stages[index + 1 :])})


def learned_weights(model: TrainedModel) -> tuple[tuple[str, float], ...]:
    """Read the average weight of each domain that a checkpoint's stage has learned so far."""
    memory = model.components.abstract_state.method_state.memory
    learned = restore(model.path, memory, "method_state.memory").arrays
    return tuple(zip(model.spec.store.domains, np.asarray(learned.average).astype(float).tolist(), strict=True))


def load_reference(recipe: Recipe, index: int, run: RunDirectory) -> TrainedModel | None:
    """Load the reference model of stage `index`, if it has one."""
    reference = reference_of(recipe.stages[index])
    return None if reference is None else _load(reference, recipe, index, run)


def reference_cost(recipe: Recipe, index: int, run: RunDirectory) -> Ledger:
    """Return the cost of the checkpoints that stage `index` refers to beside its start: FLOPs and seconds.

    Tokens count what its own parameters have been trained on, so these are zero. A stage of the recipe that led to
    several of the checkpoints, or to the start as well, is counted once, and so is a checkpoint. Ancestors that
    checkpoints of other runs share are counted for each.
    """
    refs = list(_checkpoint_refs(recipe.stages[index]))
    used = [_stage_index(recipe, index, ref) for ref in refs if ref.stage is not None]
    own: dict[int, Ledger] = {}  # cost of each stage that led to them, without its ancestors
    for number in sorted({*used}.union(*(_ancestors(recipe, number) for number in used))):
        stage = recipe.stages[number]
        cost = load_final(run.stage(stage.name).checkpoints, stage).cost
        own[number] = cost - sum((own[before] for before in _ancestors(recipe, number)), Ledger())
    inherited = _ancestors(recipe, index, with_references=False)
    total = sum((ledger for number, ledger in own.items() if number not in inherited), Ledger())
    other_runs = [load_model(ref.path, examined=False) for ref in refs if ref.stage is None]
    costs = {model.manifest.digest: model.cost for model in other_runs}
    costs.pop(getattr(recipe.stages[index].start, "digest", None) or "", None)
    return replace(sum(costs.values(), total), steps=0, tokens=0, active_parameter_tokens=0)


def _checkpoint_refs(stage: Stage) -> Iterator[CheckpointRef]:
    if (reference := reference_of(stage)) is not None:
        yield reference
    if stage.data.mixture is not None:
        yield from stage.data.mixture.learned_weights


def _ancestors(recipe: Recipe, index: int, *, with_references: bool = True) -> set[int]:
    """The stages whose cost is part of that of stage `index`."""
    parents = stages_needed(recipe, index, with_references=with_references)
    return parents.union(*(_ancestors(recipe, parent) for parent in parents))


def stages_needed(recipe: Recipe, index: int, *, with_references: bool = True) -> set[int]:
    """Return the earlier stages whose last checkpoint stage `index` reads when it starts."""
    stage = recipe.stages[index]
    parents = {index - 1} if isinstance(stage.start, Continue | Grow) else set()
    if with_references:
        parents |= {_stage_index(recipe, index, ref) for ref in _checkpoint_refs(stage) if ref.stage is not None}
    return parents


def _load(ref: CheckpointRef, recipe: Recipe, index: int, run: RunDirectory) -> TrainedModel:
    if ref.stage is None:
        return load_model(ref.path, report=None)
    stage = recipe.stages[_stage_index(recipe, index, ref)]
    return load_final(run.stage(stage.name).checkpoints, stage)


def _stage_index(recipe: Recipe, index: int, ref: CheckpointRef) -> int:
    """Find the stage that `ref` of stage `index` names: by identity where known, as a study may rename stages."""
    before = recipe.stages[:index]
    for number in range(len(before)):
        if ref.identity is not None and stage_identity(recipe, number) == ref.identity:
            return number
    names = [stage.name for stage in before]
    if ref.stage in names:
        return names.index(ref.stage)
    hint = did_you_mean(ref.stage or "", names) or " It is the first stage"
    raise UserError(f"stage {recipe.stages[index].name!r} uses stage {ref.stage!r}, which is not before it.{hint}")
