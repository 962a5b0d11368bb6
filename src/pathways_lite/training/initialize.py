"""Resume a stage from its latest checkpoint (`restore_latest`), or start it as its recipe says (`initialize_stage`);
`is_trained` decides whether anything is left to do.

The starts are Scratch, Continue, Restore, Grow and Merge, one function each; a stage that has no checkpoint of its own
starts in no other way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pathways_lite.checkpoints import CheckpointManager, restore, verify_checkpoint
from pathways_lite.data.order import DataCursor
from pathways_lite.distributed import coordination
from pathways_lite.errors import UserError
from pathways_lite.ledger import Ledger, Seconds
from pathways_lite.recipe import Continue, Grow, Merge, Recipe, Restore, Scratch
from pathways_lite.run_directory import RunDirectory
from pathways_lite.training.components import Components
from pathways_lite.training.early_stopping import StoppingState
from pathways_lite.training.init_growth import grow_checkpoint
from pathways_lite.training.init_merging import furthest_cursor, merge_cost, merge_lineage, merge_params
from pathways_lite.training.larger_budget import has_larger_budget
from pathways_lite.training.load import TrainedModel, final_step, load_final, load_model
from pathways_lite.training.loss_sum import NO_LOSSES, LossSum
from pathways_lite.training.resolve import load_reference, reference_cost, stages_needed
from pathways_lite.training.sample_weights import MethodState
from pathways_lite.training.spike_guard import GuardState
from pathways_lite.training.stage import StageSpec
from pathways_lite.training.step import TrainState


@dataclass(frozen=True)
class CheckpointState:
    """Everything that a checkpoint saves and restores as one."""

    state: TrainState
    cursor: DataCursor
    guard: GuardState
    seconds: Seconds  # of this stage
    inherited: Ledger  # the cost of everything that the initial parameters come from
    parent: str | None  # digest of the checkpoint that the initial parameters come from
    log: dict[str, int] | None = None  # `RunLog.mark` when this was saved
    unlogged: LossSum = NO_LOSSES  # losses of the steps since the last log row
    stopping: StoppingState = field(default_factory=StoppingState)

    @classmethod
    def initial(cls, state: TrainState, cursor: DataCursor, inherited: Ledger, parent: str | None) -> CheckpointState:
        """The state before a stage's first step."""
        return cls(state, cursor, GuardState(), Seconds(), inherited, parent)

    @property
    def step(self) -> int:
        return int(self.state.step)

    def ledger(self, spec: StageSpec) -> Ledger:
        """Return what the stage itself has cost up to this state."""
        return Ledger(seconds=self.seconds).after(spec.timeline, self.step)

    def to_meta(self, spec: StageSpec, provenance: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the JSON that a checkpoint holds beside the arrays; `provenance` is that of the writing process."""
        ledger = self.ledger(spec)
        return {
            "cursor": self.cursor.to_json(),
            "guard": self.guard.to_json(),
            "ledger": {"stage": ledger.to_json(), "total": (self.inherited + ledger).to_json()},
            "inherited": self.inherited.to_json(),
            "lineage": {"stage": spec.stage.name, "identity": spec.identity, "parent": self.parent},
            "recipe": spec.recipe.model_dump(mode="json"),
            **({} if self.log is None else {"log": self.log}),
            **({} if not self.unlogged.steps else {"unlogged_loss": self.unlogged.to_json()}),
            **({} if provenance is None else {"provenance": dict(provenance)}),
            **({} if spec.stage.early_stopping is None else {"early_stopping": self.stopping.to_json()}),
            **_tokenizer(spec),
        }


def _tokenizer(spec: StageSpec) -> dict[str, str]:
    """The fingerprint of the corpus's tokenizer; growth and merging between files need no corpus."""
    try:
        return {"tokenizer": spec.store.manifest.tokenizer}
    except UserError:
        return {}


def restore_latest(
    components: Components,
    checkpoints: CheckpointManager,
    *,
    at_most: int | None = None,
    report: Callable[[str], None],
) -> CheckpointState | None:
    """Restore the stage's newest valid checkpoint, None where it has none. Raises UserError for one of another recipe.

    `at_most`: the last step that counts. `report` is told which checkpoints are passed over, and why.
    """
    restored = checkpoints.restore_latest(components.abstract_state, at_most=at_most, report=report)
    if restored is None:
        return None
    identity = restored.meta["lineage"]["identity"]
    spec = components.spec
    if identity != spec.identity and not has_larger_budget(
        Recipe.model_validate(restored.meta["recipe"]), spec.recipe, spec.index
    ):
        raise UserError(
            f"{checkpoints.directory} holds checkpoints of another recipe (identity {identity}, this one is "
            f"{components.spec.identity}); choose another run directory with --out"
        )
    return CheckpointState(
        state=restored.arrays,
        cursor=DataCursor.from_json(restored.meta["cursor"]),
        guard=GuardState.from_json(restored.meta["guard"]),
        seconds=Ledger.from_json(restored.meta["ledger"]["stage"]).seconds,
        inherited=Ledger.from_json(restored.meta["inherited"]),
        parent=restored.meta["lineage"]["parent"],
        log=restored.meta.get("log"),
        unlogged=LossSum.from_json(restored.meta.get("unlogged_loss")),
        stopping=StoppingState.from_json(restored.meta.get("early_stopping", {})),
    )


def initialize_stage(components: Components, run: RunDirectory, stopped: Callable[[], int]) -> CheckpointState:
    """Make the state before step 0 as `stage.start` says, with the method's state (e.g. a reference's parameters).

    Raises UserError where that is impossible, and Interrupted where it takes training and `stopped()` is true.
    """
    spec = components.spec
    initial = _start(components, run, stopped)
    initial = replace(initial, inherited=initial.inherited + reference_cost(spec.recipe, spec.index, run))
    if not (abstract := components.abstract_state.method_state):
        return initial
    memory = components.initial_memory()
    reference = load_reference(spec.recipe, spec.index, run)
    params = () if reference is None else reference.params_like(abstract.reference)
    return replace(initial, state=initial.state._replace(method_state=MethodState(memory, params)))


def _start(components: Components, run: RunDirectory, stopped: Callable[[], int]) -> CheckpointState:
    spec = components.spec
    match spec.stage.start:
        case Scratch():
            return CheckpointState.initial(components.fresh_state(), DataCursor(), Ledger(), None)
        case Continue(optimizer=optimizer):
            return _continue(components, _stage_before(spec, run), keep_optimizer=optimizer == "keep")
        case Restore(path=path, optimizer=optimizer, weights=weights):
            model = load_model(path, report=None, average=weights == "average")
            return _continue(components, model, keep_optimizer=optimizer == "keep")
        case Grow():
            return _grow(components, _stage_before(spec, run), stopped)
        case Merge() as start:
            return _merge(components, start)


def _stage_before(spec: StageSpec, run: RunDirectory) -> TrainedModel:
    stage = spec.recipe.stages[spec.index - 1]
    model = load_final(run.stage(stage.name).checkpoints, stage)
    return model.of_average() if getattr(spec.stage.start, "weights", None) == "average" else model


def _continue(components: Components, model: TrainedModel, *, keep_optimizer: bool) -> CheckpointState:
    """Take another stage's parameters (and its optimizer's state, if kept); data continues where that one stopped.

    With the optimizer's state a moving average continues too, where both stages have one; otherwise it starts again
    from the parameters.
    """
    if keep_optimizer:
        # The parameters that were being trained, which may differ from those to evaluate (`model.params`).
        abstract = components.abstract_state
        state = components.state_with(model.trained_params_like(abstract.params))
        state = state._replace(opt_state=restore(model.path, abstract.opt_state, "opt_state").arrays)
        if components.stage.ema is not None and model.stage.ema is not None:
            state = state._replace(average=restore(model.path, abstract.average, "average").arrays)
    else:
        state = components.state_with(model.params(components))
    return CheckpointState.initial(state, model.cursor_for(components.stage), model.cost, model.manifest.digest)


def _grow(components: Components, model: TrainedModel, stopped: Callable[[], int]) -> CheckpointState:
    """Grow another stage's model; data continues where that one stopped, and where training of LiGO's maps did."""
    grown = grow_checkpoint(components, model, model.cursor_for(components.stage), stopped)
    return CheckpointState.initial(grown.state, grown.cursor, model.cost + grown.spent, model.manifest.digest)


def _merge(components: Components, start: Merge) -> CheckpointState:
    """Average several checkpoints; data continues after the one that has read most."""
    models = [load_model(ingredient.path, report=None) for ingredient in start.checkpoints]
    state = components.state_with(
        merge_params(components, models, [ingredient.weight for ingredient in start.checkpoints])
    )
    return CheckpointState.initial(
        state, furthest_cursor(models, components.stage), merge_cost(models), merge_lineage(models)
    )


# ---- trained already? ----


def is_trained(spec: StageSpec, run: RunDirectory, note: Callable[[str], None]) -> bool:
    """Return whether nothing of a stage is left to do; all processes call it.

    A stage is trained when its summary says so and, where a later stage is about to start from its last checkpoint,
    that checkpoint is whole. Otherwise the missing steps are trained again, which is exact. `note` receives what the
    user should know. Raises UserError for a stage that cannot be trained here: another run has to, or no checkpoint of
    it is left.
    """
    if not coordination.run_on_primary(lambda: _has_summary(spec, run, note)):
        return False
    if not coordination.run_on_primary(lambda: _is_about_to_be_read(spec.recipe, spec.index, run)):
        return True
    directory = run.stage(spec.stage.name)
    checkpoints = CheckpointManager(directory.checkpoints)
    last_step = coordination.run_on_primary(lambda: final_step(directory, spec.stage))
    finding = verify_checkpoint(checkpoints.path(last_step), companions=False)
    if finding.ok:
        return True
    problem = f"stage {spec.stage.name!r} is finished, but its last checkpoint is not whole:\n{finding}\n"
    if directory.link_target is not None:
        raise UserError(
            f"{problem}It belongs to the run {directory.link_target}: remove "
            f"{directory.path.resolve() / directory.summary_path.name} and train that run again"
        )
    if not coordination.run_on_primary(lambda: bool(set(checkpoints.steps()) - {last_step})):
        raise UserError(f"{problem}No other is left; remove {directory.path} to train the stage from its start")

    def reopen() -> None:
        note(f"{problem}The steps since the newest whole one are trained again.")
        directory.summary_path.unlink()

    coordination.run_on_primary(reopen)
    return False


def _has_summary(spec: StageSpec, run: RunDirectory, note: Callable[[str], None]) -> bool:
    """Return whether the stage has the summary of a finished stage, which names its identity."""
    directory = run.stage(spec.stage.name)
    summary = directory.summary
    identity = None if summary is None else summary.get("identity")
    if identity == spec.identity:
        return True
    if directory.link_target is not None:
        problem = "is not finished" if identity is None else f"has the identity {identity}, not {spec.identity}"
        raise UserError(
            f"stage {spec.stage.name!r} is a link to the run {directory.link_target}, which {problem}; train that run "
            "first, or remove the link to train the stage here"
        )
    if directory.summary_path.exists():
        problem = "is damaged" if identity is None else f"is that of another stage, {identity}"
        note(f"{directory.summary_path} {problem}; stage {spec.stage.name!r} is concluded again")
    return False


def _is_about_to_be_read(recipe: Recipe, index: int, run: RunDirectory) -> bool:
    """Return whether a later stage that has no checkpoint of its own yet starts from the last one of stage `index`."""
    for later in range(index + 1, len(recipe.stages)):
        directory = run.stage(recipe.stages[later].name)
        begun = directory.is_finished or bool(CheckpointManager(directory.checkpoints).steps())
        if not begun and index in stages_needed(recipe, later):
            return True
    return False
