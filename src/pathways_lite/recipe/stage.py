"""Recipes and stages. A recipe is a chain of stages; a stage has one model, data set, objective and optimizer."""

from __future__ import annotations

import itertools
import re
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from pathways_lite.recipe.base import BudgetField, Frozen, Patterns, Steps
from pathways_lite.recipe.data import Data
from pathways_lite.recipe.initialization import Grow, Merge, StartWeights, require_reset
from pathways_lite.recipe.model import Model
from pathways_lite.recipe.objective import Causal, Corruption, Objective
from pathways_lite.recipe.optimizer import Adafactor, Optimizer
from pathways_lite.recipe.pruning import Prune
from pathways_lite.recipe.weighting import DoGE, LearnDomainWeights, Reweighting

__all__ = [
    "EMA", "Continue", "EarlyStopping", "Evaluation", "Mesh", "Ramp", "Recipe", "Restore", "Saving", "Scratch",
    "SpikeGuard", "Stage", "Start", "Statistics",
]  # fmt: skip

# ---- mesh ----


class Mesh(Frozen):
    """Devices along each axis; one axis may be -1 and takes the devices that the others leave.

    A mesh changes where arrays are stored, not their values (except for rounding). The default spreads parameters,
    optimizer and batch over all devices (fully sharded data parallel); devices that do not divide `d_model` hold copies
    (`data`).
    PaLM 540B: pod=2, fsdp=256, tensor=12 (Chowdhery et al. 2022, section 4).
    """

    pod: int = Field(default=1, description="slices joined by the data-center network; model copied, batch sharded")
    data: int = Field(default=1, description="copies of the model within a slice, shards of the batch")
    fsdp: int = Field(
        default=-1, description="shards of the batch, and of parameters and optimizer, gathered per layer"
    )
    context: int = Field(default=1, description="shards of each sequence (and of the parameters, like fsdp)")
    tensor: int = Field(default=1, description="shards of heads, MLP and vocabulary, of the residual stream's width")

    @model_validator(mode="after")
    def _check(self) -> Self:
        sizes = self.model_dump()
        if wrong := [name for name, size in sizes.items() if size < 1 and size != -1]:
            raise ValueError(f"mesh.{wrong[0]}={sizes[wrong[0]]} must be at least 1, or -1 for all remaining devices")
        if list(sizes.values()).count(-1) > 1:
            raise ValueError("at most one axis of a mesh may be -1 (fsdp is -1 unless it is set)")
        return self


# ---- starts: the five ways in which a stage gets its first parameters (Grow, Merge: initialization.py) ----


class Scratch(Frozen):
    """Random initialization."""

    kind: Literal["scratch"] = "scratch"


class Continue(Frozen):
    """The final parameters of the previous stage; the data continues where that stage stopped."""

    kind: Literal["continue"] = "continue"
    optimizer: Literal["reset", "keep"] = Field(
        default="reset", description="keep: keep the moments too; needs the same optimizer"
    )
    weights: StartWeights | None = Field(
        default=None, description="average: that of the parameters (see ema); none: those that were trained"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        return require_reset(self)


class Restore(Frozen):
    """The parameters of a checkpoint of any run."""

    kind: Literal["restore"] = "restore"
    not_identity: ClassVar[frozenset[str]] = frozenset({"path"})
    path: str = Field(default="", description="a checkpoint directory, or that of a stage or run (its newest)")
    digest: str | None = Field(default=None, description="of that checkpoint; filled in when the recipe is resolved")
    optimizer: Literal["reset", "keep"] = Field(default="reset", description="keep: moments too, of the same optimizer")
    weights: StartWeights | None = Field(
        default=None, description="average: that of the parameters (see ema); none: those that were trained"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        return require_reset(self)


Start = Annotated[Scratch | Continue | Grow | Merge | Restore, Field(discriminator="kind")]

# ---- batch size, guard, evaluation, saving ----


class Ramp(Frozen):
    """Batch size by step, as (first step, sequences): PaLM 540B is ((0, 512), (50_000, 1024), (115_000, 2048))."""

    json_example: ClassVar[str] = '{"steps": [[0, 512], [50000, 1024]]}'

    steps: tuple[tuple[int, int], ...] = Field(description="(first step, sequences) pairs; the first step is 0")

    @model_validator(mode="after")
    def _check(self) -> Self:
        starts = [step for step, _ in self.steps]
        if not starts or starts[0] != 0 or any(b <= a for a, b in itertools.pairwise(starts)):
            raise ValueError(f"the steps of a ramp must start at 0 and increase, not {starts}")
        if any(n < 1 for _, n in self.steps):
            raise ValueError("every ramp entry needs at least 1 sequence")
        return self

    def sequences_at(self, step: int) -> int:
        """Return the batch size of `step`."""
        return [n for start, n in self.steps if start <= step][-1]


class SpikeGuard(Frozen):
    """The response to a loss that is not finite, or rises far above its recent level.

    A gradient that is not finite never reaches the parameters, and a state that is not finite is never saved, whatever
    the policy.
    """

    policy: Literal["halt", "skip", "rewind"] = Field(
        default="halt",
        description="halt ends the run, skip drops the update, rewind restores a checkpoint and skips batches",
    )
    threshold: float | None = Field(
        default=None,
        gt=0,
        description="spike: nats by which the loss exceeds the running median; None: only NaN and Inf",
    )
    window: int = Field(default=50, ge=2, description="steps in the running median")
    rewind_steps: int = Field(default=100, ge=1, description="restart at least this far back (PaLM section 5.1)")
    skip_batches: int = Field(default=300, ge=1, description="batches to skip after that (PaLM: 200 to 500)")
    max_rewinds: int = Field(default=10, ge=1, description="then the run ends")


class EMA(Frozen):
    """An exponential moving average of the parameters, beside those that are trained (Polyak & Juditsky 1992).

    It starts from the stage's first parameters. Update n, from 0, is a <- a + (1 - d) (p - a), with d = `decay`, or
    min(decay, (1 + n) / (10 + n)) with `warmup` (TensorFlow's `ExponentialMovingAverage`). A step whose update is
    dropped does not count.
    """

    decay: float = Field(default=0.999, ge=0, lt=1, description="weight of the average in its next value")
    warmup: bool = Field(default=False, description="smaller decays at first: the first parameters are soon forgotten")
    every: int = Field(default=1, ge=1, description="steps between updates")


class Statistics(Frozen):
    """Norms of gradients, updates and parameters per layer and array, and sizes of activations.

    They come from a second pass over the batch in every n-th step, so that the train step is the same with and without.
    """

    every: int = Field(default=100, ge=1, description="steps; each costs about as much as one more step")


class Evaluation(Frozen):
    """Evaluation of held-out loss and bits per byte, per domain, and of tasks."""

    every: int = Field(default=500, ge=1, description="steps; also at the end")
    at_start: bool | None = Field(
        default=None, description="also before the first step: what a model from elsewhere scores; None: no"
    )
    tokens: int = Field(default=100_000, ge=1, description="held-out tokens per domain, in whole documents")
    overlap: int | None = Field(
        default=None,
        ge=0,
        description="tokens of its own document that a long document's later windows read again as context, unscored; "
        "less than data.seq_len; None: 0",
    )
    tasks: Patterns | None = Field(
        default=None,
        description="tasks that are evaluated too, as `evaluate --tasks` names them: sum, facts:choices, FILE.jsonl; "
        "None: none",
    )
    shots: int | None = Field(default=None, ge=0, description="solved problems before each item of the tasks; None: 0")
    task_items: int | None = Field(default=None, ge=1, description="items of each task, the first ones; None: 64")

    @model_validator(mode="after")
    def _check_tasks(self) -> Self:
        if self.tasks is None and (self.shots is not None or self.task_items is not None):
            raise ValueError("evaluation.shots and evaluation.task_items are of tasks; name some: evaluation.tasks=sum")
        return self


class EarlyStopping(Frozen):
    """The end of a stage before its budget is spent: once held-out loss does not improve anymore.

    The last model is kept, not the best one: its checkpoint is the stage's last, and a later stage starts from it.
    """

    patience: int = Field(default=3, ge=1, description="evaluations in a row without improvement that end the stage")
    min_delta: float = Field(default=0.0, ge=0, description="nats per token by which the best loss must fall")
    domain: str | None = Field(default=None, description="whose held-out loss; None: all held-out tokens together")


class Saving(Frozen):
    """Interval of checkpoints and the number that is kept."""

    every: int = Field(default=500, ge=1, description="steps; also at the end and on SIGTERM or SIGINT")
    keep: int = Field(default=3, ge=1, description="newest checkpoints kept; the final one always is")


NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def _check_name(name: str) -> str:
    if not NAME_PATTERN.fullmatch(name):
        raise ValueError(f"{name!r} must be letters, digits, '_', '-' or '.', because it names a directory")
    return name


Name = Annotated[str, AfterValidator(_check_name)]


class Stage(Frozen):
    """One phase of training with one model, one data set, one objective and one optimizer."""

    not_identity: ClassVar[frozenset[str]] = frozenset(
        {"name", "mesh", "evaluation", "saving", "log_every", "statistics"}
    )

    name: Name = Field(default="base", description="of its directory in the run")
    start: Start = Field(default=Scratch(), description="first parameters")
    model: Model = Field(description="architecture and size")
    data: Data = Field(description="corpus, sequence length, order, mixture")
    objective: Objective = Field(default=Causal(), description="what is predicted from what")
    optimizer: Optimizer = Field(description="with its learning-rate schedule")
    freeze: Patterns | None = Field(
        default=None,
        description="names of parameters that are not trained, as `inspect` shows them: embedding, layers.0-3, "
        "*.scale; * matches anything; none: all are trained",
    )
    ema: EMA | None = Field(default=None, description="moving average of the parameters; none: no average")
    batch_size: int | Ramp = Field(description="sequences per step, over all hosts")
    microbatch: int | None = Field(default=None, ge=1, description="sequences per gradient-accumulation slice")
    budget: BudgetField = Field(description="amount of training")
    pruning: Prune | None = Field(default=None, description="of the weights during training; None: dense")
    reweighting: Reweighting | None = Field(default=None, description="of samples by their losses; None: equal weights")
    domain_weights: LearnDomainWeights | None = Field(
        default=None, description="learned by this stage as a proxy for another; None: the mixture's weights"
    )
    mesh: Mesh = Field(default=Mesh(), description="devices along each axis")
    guard: SpikeGuard = Field(default=SpikeGuard(), description="response to loss spikes")
    evaluation: Evaluation = Field(default=Evaluation(), description="of held-out text")
    early_stopping: EarlyStopping | None = Field(
        default=None, description="at the held-out loss of `evaluation`; None: the whole budget is spent"
    )
    saving: Saving = Field(default=Saving(), description="of checkpoints")
    log_every: int = Field(default=10, ge=1, description="steps")
    statistics: Statistics | None = Field(
        default=None, description="norms per layer and sizes of activations in the log; none: no statistics"
    )

    @property
    def ramp(self) -> Ramp:
        """The batch size as a ramp, also if it is one number."""
        return self.batch_size if isinstance(self.batch_size, Ramp) else Ramp(steps=((0, self.batch_size),))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if isinstance(self.batch_size, int) and self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be at least 1")
        if isinstance(self.budget, Steps) and self.budget.n < 1:
            raise ValueError(f"budget={self.budget.n} steps must be at least 1 step")
        for _, sequences in self.ramp.steps:
            if self.microbatch is not None and sequences % self.microbatch:
                raise ValueError(f"microbatch={self.microbatch} does not divide batch_size={sequences}")
            rows = sequences if self.reweighting is None else self.reweighting.num_kept_rows(sequences)
            if self.microbatch is not None and rows % self.microbatch:
                raise ValueError(f"microbatch={self.microbatch} does not divide the {rows} rows that are trained on")
        if self.pruning is not None and self.reweighting is not None and self.reweighting.kept_fraction < 1:
            raise ValueError(
                "pruning counts the FLOPs of all rows, but this reweighting trains on some of them only: use a rule "
                "that weights all rows, or remove pruning"
            )
        return self

    @model_validator(mode="after")
    def _check_overlap(self) -> Self:
        if (overlap := self.evaluation.overlap or 0) >= self.data.seq_len:
            raise ValueError(
                f"evaluation.overlap={overlap} leaves no token of a window of data.seq_len={self.data.seq_len} to "
                f"score; use at most {self.data.seq_len - 1}"
            )
        return self

    @model_validator(mode="after")
    def _check_seq_len_warmup(self) -> Self:
        warmup, ramp = self.data.seq_len_warmup, self.ramp
        if warmup is None:
            return self
        if self.pruning is not None:
            raise ValueError(
                "pruning counts the FLOPs of one sequence length; remove data.seq_len_warmup, or prune in a later stage"
            )
        if warmup.batch == "tokens" and (microbatch := self.microbatch) and self.reweighting is not None:
            for (_, length), (_, sequences) in itertools.product(warmup.steps, ramp.steps):
                pieces = self.data.seq_len // length
                if (rows := self.reweighting.num_kept_rows(sequences * pieces)) % (microbatch * pieces):
                    raise ValueError(
                        f"microbatch={microbatch} is {microbatch * pieces} sequences of {length} tokens, which do not "
                        f"divide the {rows} that are trained on; change the microbatch or the fraction that is kept"
                    )
        if warmup.batch == "tokens":  # a step reads whole sequences, so every length begins with one
            return self
        changes, tokens = sorted({step for step, _ in (*ramp.steps, *warmup.steps)}), 0
        for begin, end in itertools.pairwise(changes):
            rows, length, following = ramp.sequences_at(begin), warmup.length_at(begin), warmup.length_at(end)
            tokens += (end - begin) * rows * length
            if tokens % following:
                later = next(n for n in range(following) if (tokens + n * rows * length) % following == 0)
                raise ValueError(
                    f"at step {end} of data.seq_len_warmup {tokens} tokens have been read, which is no multiple of the "
                    f"{following} tokens of its sequences, so that one would begin inside another; begin it at step "
                    f"{end + later}, or set seq_len_warmup.batch='tokens'"
                )
        return self

    @model_validator(mode="after")
    def _check_trained_parameters(self) -> Self:
        if self.freeze is not None and self.pruning is not None:
            raise ValueError("pruning changes parameters that freeze keeps: remove one of the two")
        if self.ema is not None and self.optimizer.averages_params:
            raise ValueError(f"{self.optimizer.kind} has an average of its own, which is evaluated; remove ema")
        return self

    @model_validator(mode="after")
    def _check_layout(self) -> Self:
        objective = self.objective
        if isinstance(objective, Corruption) and objective.layout == "fixed" and self.data.boundaries != "none":
            raise ValueError(
                "the fixed layout makes one example from a sequence, whatever documents it contains; set "
                "data.boundaries='none', as UL2R did, or objective.layout='fill'"
            )
        return self

    @model_validator(mode="after")
    def _check_domain_weights(self) -> Self:
        if self.domain_weights is None:
            return self
        if self.reweighting is not None:
            raise ValueError("a stage learns domain weights or weights samples, not both: remove one of the two")
        if self.data.mixture is not None and self.data.mixture.by == "loss":
            raise ValueError("learned weights count in the loss, so a mixture cannot: use data.mixture.by='sampling'")
        if isinstance(self.domain_weights, DoGE) and self.pruning is not None:
            raise ValueError("DoGE's scores need the gradients of a dense model; remove pruning")
        return self

    @model_validator(mode="after")
    def _check_growth(self) -> Self:
        """Require a warm-up: Adafactor's first update has b2 = 0, so each element moves by the full rate."""
        restarted = isinstance(self.start, Grow) and self.start.optimizer == "reset"
        if restarted and isinstance(self.optimizer, Adafactor) and not self.optimizer.schedule.warmup.n:
            raise ValueError(
                "Adafactor starts with its largest steps, which would undo a grown model; give its schedule a warm-up, "
                'e.g. PaLM(warmup="100 steps"), or keep its count by start.optimizer="keep"'
            )
        return self


class Recipe(Frozen):
    """A named chain of stages: a complete experiment."""

    name: Name = Field(description="of the run directory, by default")
    seed: int = Field(default=0, ge=0, description="of initialization and dropout; the data order has its own")
    stages: tuple[Stage, ...] = Field(min_length=1, description="trained in order")

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"stage names must differ, not {names}")
        for before, stage in itertools.pairwise(self.stages):
            # Random parameters in the middle of a chain are rarely meant, and nothing in the results would tell.
            if "start" not in stage.model_fields_set:
                raise ValueError(
                    f"stage {stage.name!r} has no start, so it would begin with random parameters: write "
                    f"start=Continue() to train the model of stage {before.name!r} further, start=Grow(...) to make it "
                    "larger, or start=Scratch() if random parameters are meant"
                )
        first = self.stages[0].start
        if isinstance(first, Continue | Grow):
            raise ValueError(
                f"stages.{self.stages[0].name}.start={type(first).__name__}() needs a stage before it; "
                "use Scratch() or Restore(path=...)"
            )
        return self
