"""What a stage is: everything that follows from its recipe without a device, from identity to cost."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import jax

from pathways_lite.data.order import DataCursor
from pathways_lite.data.pipeline import DataStream
from pathways_lite.data.store import Store, open_store
from pathways_lite.errors import UserError
from pathways_lite.ledger import LengthPhase, Timeline
from pathways_lite.methods import growth, pruning, reweighting
from pathways_lite.models.accounting import flops_per_token, parameter_count
from pathways_lite.models.trainable import Trainable, make_trainable
from pathways_lite.models.trainable import training_flops_per_token as frozen_flops_per_token
from pathways_lite.parallel.sharding import FULL_BATCH, BatchShard
from pathways_lite.recipe import (
    Data,
    DoGE,
    Grow,
    MaskedGrowth,
    Model,
    Recipe,
    Reference,
    ResolvedBudget,
    Reweighting,
    Stage,
    Steps,
    Uniform,
    stage_identity,
)
from pathways_lite.training.companions import companion_files


@dataclass(frozen=True)
class StageSpec:
    """One stage of a resolved recipe. Members are computed when first used; none touches a device."""

    recipe: Recipe
    index: int

    @property
    def stage(self) -> Stage:
        return self.recipe.stages[self.index]

    def on_corpus(self, corpus: str) -> StageSpec:
        """Return the same stage with another corpus."""
        data = self.stage.data.model_copy(update={"corpus": corpus, "fingerprint": None})
        stage = self.stage.model_copy(update={"data": data})
        return StageSpec(self.recipe.copy_unchecked(stages=(stage,)), 0)

    @functools.cached_property
    def identity(self) -> str:
        """The hash of what determines the stage's result, its ancestors included."""
        return stage_identity(self.recipe, self.index)

    @functools.cached_property
    def timeline(self) -> Timeline:
        """Steps, tokens and FLOPs of the whole stage."""
        return stage_timeline(self.stage)

    def keys(self) -> jax.Array:
        """Random keys of the initialization and of the steps."""
        return jax.random.split(jax.random.fold_in(jax.random.key(self.recipe.seed), self.index))

    # ---- data ----

    @functools.cached_property
    def store(self) -> Store:
        """The corpus. Raises UserError where there is none."""
        return open_store(self.stage.data.corpus)

    @functools.cached_property
    def companions(self) -> dict[str, bytes]:
        """The files that the stage's checkpoints carry beside the arrays; none where there is no corpus."""
        try:
            return companion_files(self.store, self.stage.evaluation.tokens)
        except UserError:
            return {}

    @property
    def corpus_tokens(self) -> int:
        """Training tokens of the corpus."""
        return sum(self.store.tokens(domain) for domain in self.store.domains)

    def stream(
        self, cursor: DataCursor, *, shard: BatchShard = FULL_BATCH, timeline: Timeline | None = None
    ) -> DataStream:
        """The stage's batches from `cursor` on, by step of `timeline` (by default the stage's own)."""
        stage = self.stage
        return DataStream(self.store, stage.data, timeline or self.timeline, stage.objective, cursor, shard)

    @functools.cached_property
    def epochs(self) -> dict[str, float]:
        """Passes over each domain in the whole stage."""
        return self.stream(DataCursor()).epochs()

    # ---- parameters ----

    @property
    def trainable(self) -> Trainable:
        """What is trained. Raises UserError where `freeze` names a parameter that the model does not have."""
        return stage_trainable(self.stage)

    # ---- growth ----

    @functools.cached_property
    def growth_plan(self) -> growth.GrowthPlan | None:
        """How the model grows from the one before; None for other starts. Raises UserError where it cannot."""
        start = self.stage.start
        if not isinstance(start, Grow):
            return None
        return growth.plan_growth(start, self.recipe.stages[self.index - 1].model, self.stage.model)

    @functools.cached_property
    def growth_masks(self) -> growth.GrowthMasks | None:
        """The masks of masked growth. Raises UserError where the stage ends before they are all 1."""
        if (operator := self._masked_growth) is None or self.growth_plan is None:
            return None
        return growth.build_masks(self.growth_plan, operator.ramp, self.timeline)

    @functools.cached_property
    def growth_end(self) -> int:
        """The step from which on no mask of growth hides anything; 0 without masks."""
        if (operator := self._masked_growth) is None or self.growth_plan is None:
            return 0
        return growth.masks_end(self.growth_plan, operator.ramp, self.timeline)

    @property
    def _masked_growth(self) -> MaskedGrowth | None:
        operator = getattr(self.stage.start, "operator", None)
        return operator if isinstance(operator, MaskedGrowth) else None


# ---- data after another stage ----


def changes_of_order(before: Data, after: Data) -> list[str]:
    """Name what keeps a stage's data from continuing where another one's stopped: it begins again then."""
    names = {"fingerprint": "the corpus", "seq_len": "seq_len", "shuffle_seed": "shuffle_seed"}
    names |= {"rs2_fraction": "rs2_fraction"}
    changes = [text for name, text in names.items() if getattr(before, name) != getattr(after, name)]
    return changes + (["whether there is a mixture"] if (before.mixture is None) != (after.mixture is None) else [])


# ---- costs ----


def stage_trainable(stage: Stage) -> Trainable:
    """Return what a stage trains. Raises UserError for names of parameters that its model does not have."""
    return make_trainable(stage.model, stage.freeze, f"stages.{stage.name}.freeze")


def stage_timeline(stage: Stage) -> Timeline:
    """Return the stage's timeline, with what its method adds to the FLOPs of training or saves of them."""
    if not isinstance(stage.budget, ResolvedBudget):
        raise UserError(
            f"stages.{stage.name}.budget={stage.budget.n:g} {stage.budget.kind} has no steps before the recipe is "
            "resolved with its corpus and other stages; use steps, tokens or flops here"
        )
    warmup = stage.data.seq_len_warmup
    timeline = Timeline(
        ramp=stage.ramp,
        seq_len=stage.data.seq_len,
        flops_per_token=training_flops_per_token(stage),
        active_parameters=parameter_count(stage.model),
        budget=stage.budget,
        lengths=tuple(
            LengthPhase(step, length, training_flops_per_token(stage, length))
            for step, length in (warmup.steps if warmup is not None else ())
        ),
        shorter_batches=warmup is not None and warmup.batch == "rows",
    )
    if stage.pruning is None:
        return timeline
    groups = pruning.prune_groups(stage.pruning, stage.model, stage.data.seq_len)
    return replace(timeline, phases=pruning.density_phases(stage.pruning, groups, timeline))


def describe_lengths(timeline: Timeline) -> str:
    """List the phases of a sequence-length warm-up, each of which is a program of its own."""
    phases = [phase for phase in timeline.batch_phases if phase.step < timeline.total_steps]
    listed = [f"{phase.sequences:,} x {phase.seq_len:,} tokens from step {phase.step:,}" for phase in phases]
    programs = len({(phase.sequences, phase.seq_len) for phase in phases})
    unreached = "" if phases[-1].seq_len == timeline.seq_len else f"; seq_len={timeline.seq_len:,} is never reached"
    return f"sequences grow: {', '.join(listed)} ({programs} programs to compile){unreached}"


def steps_for_sparse_flops(stage: Stage, flops: float) -> int:
    """Return the number of steps after which the stage has cost `flops` where zeros are skipped.

    The stage's budget is replaced, as densities follow from it. It is the step nearest to `flops`, whatever the shape
    and the updates of pruning are. Raises UserError for a density that leaves nothing.
    """

    def cost(steps: int) -> int:
        return stage_timeline(stage.model_copy(update={"budget": Steps(n=steps)})).sparse_flops_before(steps)

    high = 1
    while cost(high) < flops:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) < flops else (low, middle)
    return min((max(1, low), high), key=lambda steps: abs(cost(steps) - flops))


def training_flops_per_token(stage: Stage, seq_len: int | None = None) -> int:
    """Return the FLOPs of training on a token, without the gradients of frozen parameters.

    What computing weights of samples adds is included, and what leaving rows out saves. `seq_len`: tokens per sequence;
    None: those after a warm-up.
    """
    seq_len = stage.data.seq_len if seq_len is None else seq_len
    pieces, microbatch = rows_per_sequence(stage, seq_len), microbatch_at(stage, seq_len)
    training = flops_per_token(stage.model, seq_len)
    forward = training // 3
    if not (trainable := stage_trainable(stage)).is_all:
        training = frozen_flops_per_token(stage.model, seq_len, trainable)
    if isinstance(stage.domain_weights, DoGE):  # the gradient of the target, and two forward passes
        return training + training + 2 * forward
    if (rule := effective_reweighting(stage)) is None:
        return training
    reference = reference_model(stage)
    return training + reweighting.extra_flops(
        rule,
        training=training,
        forward=forward,
        reference=flops_per_token(reference, seq_len) if reference is not None else 0,
        ahead=any(
            reweighting.needs_full_batch_losses(rule.num_kept_rows(n * pieces), n * pieces, microbatch)
            for _, n in stage.ramp.steps
        ),
    )


def rows_per_sequence(stage: Stage, seq_len: int) -> int:
    """Return how many rows of `seq_len` tokens take the place of one full sequence in a batch."""
    warmup = stage.data.seq_len_warmup
    return stage.data.seq_len // seq_len if warmup is not None and warmup.batch == "tokens" else 1


def microbatch_at(stage: Stage, seq_len: int) -> int | None:
    """Return the sequences of `seq_len` tokens per gradient-accumulation slice; None: the whole batch at once."""
    return None if stage.microbatch is None else stage.microbatch * rows_per_sequence(stage, seq_len)


# ---- sample weights ----


def is_scalarized(stage: Stage) -> bool:
    """Whether the mixture's weights multiply the losses of domains, instead of deciding how often each is read."""
    return stage.data.mixture is not None and stage.data.mixture.by == "loss"


def effective_reweighting(stage: Stage) -> Reweighting | None:
    """Return the rule that weights samples: uniform where only domains are weighted; None where all weigh the same."""
    weights_domains = is_scalarized(stage) or stage.domain_weights is not None
    return stage.reweighting or (Reweighting(rule=Uniform()) if weights_domains else None)


def reference_of(stage: Stage) -> Reference | None:
    """Return the reference whose losses are subtracted before samples are weighted, if the stage names one."""
    return getattr(stage.domain_weights or stage.reweighting, "reference", None)


def reference_model(stage: Stage) -> Model | None:
    """Return the model of the reference; None where there is none."""
    reference = reference_of(stage)
    return None if reference is None else reference.model
