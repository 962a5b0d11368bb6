"""Refuse a chain of stages before it starts: what is known of every stage once its recipe is resolved."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import jax

from pathways_lite import models
from pathways_lite.checkpoints import restore_differences
from pathways_lite.checkpoints.arrays import array_spec, differences, named_leaves
from pathways_lite.checkpoints.manifest import ArraySpec
from pathways_lite.data.order import DataCursor
from pathways_lite.data.pipeline import windows_per_domain
from pathways_lite.data.store import open_store
from pathways_lite.errors import UserError, did_you_mean
from pathways_lite.methods.growth.plan import SIZES, require_growth
from pathways_lite.parallel.sharding import Layout
from pathways_lite.recipe import Continue, Grow, Merge, Recipe, Restore, Stage
from pathways_lite.training import optimizers
from pathways_lite.training.build_sample_weights import build_sample_weights, require_domains_to_weight
from pathways_lite.training.init_merging import require_same_model
from pathways_lite.training.load import TrainedModel, load_model
from pathways_lite.training.stage import StageSpec, stage_timeline, stage_trainable


def require_trainable(recipe: Recipe, without_corpus: Collection[str] = ()) -> None:
    """Raise UserError where a stage of a resolved recipe could not start: its data, sample weights or parameters.

    What needs devices (a mesh, memory) is not checked here. `without_corpus`: stages that are trained already and whose
    corpora are not there any more, of which nothing is checked.
    """
    for index in range(len(recipe.stages)):
        if recipe.stages[index].name in without_corpus:
            continue
        spec = StageSpec(recipe, index)
        optimizers.build_stage_optimizer(spec.stage, spec.timeline, spec.trainable)  # names of its parameters
        _require_data(spec)
        _require_parameters(spec)
        _require_held_out(spec)


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


def _require_held_out(spec: StageSpec) -> None:
    """Check that early stopping has the held-out text that it decides by."""
    if (stopping := spec.stage.early_stopping) is None:
        return
    path = f"stages.{spec.stage.name}.early_stopping"
    domains = list(spec.store.domains)
    if stopping.domain is not None and stopping.domain not in domains:
        raise UserError(f"{path}.domain: there is no {stopping.domain!r}.{did_you_mean(stopping.domain, domains)}")
    named = domains if stopping.domain is None else [stopping.domain]
    if not any(spec.store.counts(name, "held_out").documents for name in named):
        raise UserError(f"{path}: the corpus {spec.store.address} has no held-out text of {', '.join(named)}")


def _require_parameters(spec: StageSpec) -> None:
    """Check that what the stage starts from has its model's parameters."""
    stage, start = spec.stage, spec.stage.start
    if isinstance(start, Continue):
        before = spec.recipe.stages[spec.index - 1]
        _require_average(stage, before)
        _require_same_parameters(stage, before)
    elif isinstance(start, Grow):
        _require_average(stage, spec.recipe.stages[spec.index - 1])
    elif isinstance(start, Restore):
        model = load_model(start.path, examined=False)
        if start.weights == "average":
            model.of_average()
        lines = restore_differences(model.manifest, models.abstract_params(stage.model), "params")
        _refuse(stage, str(model.path), model.stage, lines)
    elif isinstance(start, Merge):
        for ingredient in start.checkpoints:
            require_same_model(load_model(ingredient.path, examined=False), stage.model)


def _require_average(stage: Stage, before: Stage) -> None:
    """Raise UserError where a stage starts from the average of one that has none."""
    if getattr(stage.start, "weights", None) == "average" and before.ema is None:
        raise UserError(
            f"stages.{stage.name}.start.weights='average', but stage {before.name!r} has no average; give it "
            f"ema=EMA(), or leave out weights"
        )


def _array_specs(params: Any) -> dict[str, ArraySpec]:
    return {name: array_spec(leaf) for name, leaf in named_leaves(params, "params").items()}


def _can_grow(before: Stage, stage: Stage) -> bool:
    """Return whether growth makes a stage's model of the one before."""
    try:
        require_growth(before.model, stage.model)
    except UserError:
        return False
    return any(getattr(stage.model, name) != getattr(before.model, name) for name in SIZES)


def _require_same_parameters(stage: Stage, before: Stage) -> None:
    stored, expected = (_array_specs(models.abstract_params(model)) for model in (before.model, stage.model))
    _refuse(stage, f"stage {before.name!r}", before, differences(stored, expected, "that stage"))


def _refuse(stage: Stage, source: str, before: Stage, lines: Sequence[str]) -> None:
    if not lines:
        return
    old, new = before.model.model_dump(), stage.model.model_dump()
    changed = {name: (old[name], new[name]) for name in new if old[name] != new[name]}
    advice = "give it the same model"
    if _can_grow(before, stage):
        advice = "use start=Grow() to make them larger"
        if old["vocab_size"] != new["vocab_size"]:
            advice = "use start=Grow(operator=VocabularyGrowth()) to add rows to the embedding"
    named = ", ".join(f"{name}={b} instead of {a}" for name, (a, b) in changed.items())
    head = f"stages.{stage.name} cannot start from {source}, which has other parameters ({named}); {advice}:"
    raise UserError("\n  ".join([head, *lines]))


# ---- kept optimizers ----


def require_kept_optimizer(recipe: Recipe, index: int) -> None:
    """Raise UserError where stage `index` continues or grows the stage before it with another optimizer's state."""
    stage = recipe.stages[index]
    if not isinstance(stage.start, Continue | Grow) or stage.start.optimizer == "reset":
        return
    before, grows = recipe.stages[index - 1], isinstance(stage.start, Grow)
    if not grows:  # moments of other parameters cannot fit, and without them the stage could not start either
        _require_same_parameters(stage, before)
    if before.freeze != stage.freeze or (grows and stage.freeze is not None):
        raise UserError(
            f"stages.{stage.name}.start.optimizer={stage.start.optimizer!r}, but stage {before.name!r} "
            f"{_frozen(before)} and this stage {_frozen(stage)}: the moments do not fit; use 'reset'"
        )
    if _specs(before, with_shapes=not grows) != _specs(stage, with_shapes=not grows):
        raise UserError(
            f"stages.{stage.name}.start.optimizer={stage.start.optimizer!r}, but the state of {_described(before)} is "
            f"not that of {_described(stage)}; use 'reset', or what stage {before.name!r} has"
        )


def require_stored_optimizer(stage: Stage, model: TrainedModel) -> None:
    """Raise UserError where `stage` keeps the state of an optimizer that the checkpoint does not hold."""
    if not (isinstance(stage.start, Restore) and stage.start.optimizer == "keep"):
        return
    prefix = f"stages.{stage.name}.start.optimizer='keep', but {model.path}"
    if model.stage.freeze != stage.freeze:
        raise UserError(f"{prefix} {_frozen(model.stage)}, and this stage {_frozen(stage)}; use 'reset'")
    if differences := restore_differences(model.manifest, _abstract_state(stage), "opt_state"):
        if not any(name.startswith("opt_state.") for name in model.manifest.arrays):
            raise UserError(
                f"{prefix} holds no optimizer state, like every checkpoint that grow, merge or convert makes; use "
                "'reset', or the checkpoint of a trained stage"
            )
        raise UserError(
            f"{prefix} holds the state of {_described(model.stage)}, and this stage has {_described(stage)} "
            f"({differences[0]}); use 'reset', or what that stage has"
        )
    model.require_full_growth("use start.optimizer='reset'")


def _abstract_state(stage: Stage) -> Any:
    optimizer = optimizers.build_stage_optimizer(stage, stage_timeline(stage), stage_trainable(stage))
    return jax.eval_shape(optimizer.init, models.abstract_params(stage.model))


def _specs(stage: Stage, *, with_shapes: bool) -> Any:
    leaves, _ = jax.tree_util.tree_flatten_with_path(_abstract_state(stage))
    return [(path, leaf.dtype, leaf.shape if with_shapes else ()) for path, leaf in leaves]


def _frozen(stage: Stage) -> str:
    return "freezes nothing" if stage.freeze is None else f"freezes {', '.join(stage.freeze)}"


def _described(stage: Stage) -> str:
    pruning = "" if stage.pruning is None else " with pruning"
    return f"{stage.optimizer.kind}{pruning} for {stage.model.n_layers} layers of d_model={stage.model.d_model}"
