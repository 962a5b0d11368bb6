"""Optimizers and learning-rate schedules. `training.optimizers` turns them into optax transformations.

A new optimizer or schedule is a class here, a member of the union below it, a name in `__all__`, and a case there; or a
class of another package (`OptimizerPlugin`, `SchedulePlugin`).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from pathways_lite.plugins import Group
from pathways_lite.recipe.base import Amount, Fraction, Frozen, Patterns, Steps
from pathways_lite.recipe.plugin import OpenUnion, PluginClass

__all__ = [
    "SGD", "WSD", "Adafactor", "AdamW", "Constant", "Cosine", "Linear", "Lion", "Muon", "Optimizer",
    "OptimizerPlugin", "PaLM", "ParameterGroup", "Schedule", "SchedulePlugin",
    "ScheduleFree",
]  # fmt: skip

# ---- schedules ----


class _Schedule(Frozen):
    """A curve between 0 and 1 that multiplies the optimizer's peak learning rate, after a linear warm-up from 0."""

    warmup: Amount = Field(default=Fraction(n=0.0), description="linear rise from 0 to the peak")


class Constant(_Schedule):
    """The peak learning rate throughout."""

    kind: Literal["constant"] = "constant"


class Linear(_Schedule):
    """Linear decay from the peak to `end` times the peak."""

    kind: Literal["linear"] = "linear"
    end: float = Field(default=0.0, ge=0, le=1, description="fraction of the peak at the end")


class Cosine(_Schedule):
    """Cosine decay from the peak to `end` times the peak."""

    kind: Literal["cosine"] = "cosine"
    end: float = Field(default=0.1, ge=0, le=1, description="fraction of the peak at the end")


class WSD(_Schedule):
    """Warm-up, stable, decay (MiniCPM, arXiv 2404.06395): the peak until the last `decay` of the budget."""

    kind: Literal["wsd"] = "wsd"
    decay: Amount = Field(default=Fraction(n=0.2), description="length of the decay at the end")
    end: float = Field(default=0.0, ge=0, le=1, description="fraction of the peak at the end")
    shape: Literal["linear", "one_minus_sqrt"] = Field(default="linear", description="of the decay")


class PaLM(_Schedule):
    """The peak until `knee`, then peak * sqrt(knee / k) (PaLM section 5: 1e-2 for 10,000 steps, then 1/sqrt(k))."""

    kind: Literal["palm"] = "palm"
    knee: Amount = Field(default=Steps(n=10_000), description="where the decay with 1/sqrt(k) begins")


class SchedulePlugin(_Schedule, PluginClass):
    """A schedule of another package (group `pathways_lite.schedules`), after the warm-up that all have."""

    plugin_group: ClassVar[Group] = "schedules"

    @abstractmethod
    def shape(self, fraction: Any) -> Any:
        """Return the value between 0 and 1, a float32 scalar that JAX can trace.

        `fraction`: 0 at the end of the warm-up, and 1 at the end of the budget, whatever its unit.
        """


Schedule = Annotated[Constant | Linear | Cosine | WSD | PaLM | SchedulePlugin, OpenUnion()]

# ---- optimizers ----


class ParameterGroup(Frozen):
    """Parameters with a learning rate and a weight decay of their own.

    The rate is a multiple of the optimizer's, whose schedule they share. In a group with a `weight_decay` every
    parameter decays by it, norm scales too, whatever the optimizer decays; it is multiplied by the group's rate.
    """

    parameters: Patterns = Field(
        description="names of parameters, as `inspect` shows them: embedding, layers.0-3, *.scale; * matches anything"
    )
    rate: float = Field(
        default=1.0, gt=0, description="factor of the learning rate; to train them not at all, see freeze"
    )
    weight_decay: float | None = Field(
        default=None, ge=0, description="of all of them, per step and unit of the rate; None: as without the group"
    )


class _Optimizer(Frozen):
    """Fields of all optimizers. Gradients are clipped by their global norm before anything else."""

    averages_params: ClassVar[bool] = False
    """Whether the parameters to evaluate are an average in the optimizer's state, and not those that are trained."""
    largest_rate: ClassVar[float] = 10.0
    """A weight moves by about the rate in each step; those of SGD depend on the gradient's size."""

    not_identity: ClassVar[frozenset[str]] = frozenset({"relative_learning_rate"})  # learning_rate says it all

    clip_norm: float | None = Field(default=1.0, gt=0, description="global gradient norm; None: no clipping")
    groups: tuple[ParameterGroup, ...] | None = Field(
        default=None,
        min_length=1,
        description="parameters with another rate or decay, the first that matches; None: all are alike",
    )
    relative_learning_rate: float | None = Field(
        default=None,
        gt=0,
        description="multiple of the rate at which the model that the stage starts from was left: 1 holds it; "
        "learning_rate is then filled in when the recipe is resolved",
    )

    @model_validator(mode="after")
    def _check_rates(self) -> Self:
        """Refuse rates at which a step cannot be meant: above `largest_rate`, or a decay that turns weights around."""
        for name in ("learning_rate", "adam_learning_rate"):
            if (rate := getattr(self, name, 0.0)) > self.largest_rate:
                raise ValueError(f"{name}={rate:g} is absurd; learning rates of {type(self).__name__} are far below 1")
        rate, own_decay = getattr(self, "learning_rate", 0.0), getattr(self, "weight_decay", 0.0)
        for group in self.groups or ():
            if group.rate * rate > self.largest_rate:
                raise ValueError(f"the group {', '.join(group.parameters)} has the absurd rate {group.rate * rate:g}")
        decays = [(1.0, own_decay), *((group.rate, group.weight_decay or 0.0) for group in self.groups or ())]
        decay = max(factor * rate * value for factor, value in decays)
        if decay >= 1:
            raise ValueError(
                f"weight_decay is multiplied by learning_rate: together {decay:g} of each weight would be taken away "
                "in every step; use e.g. weight_decay=0.1"
            )
        return self


class AdamW(_Optimizer):
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101); weight decay is multiplied by the learning rate."""

    kind: Literal["adamw"] = "adamw"
    learning_rate: float = Field(default=3e-4, gt=0, description="peak")
    schedule: Schedule = Field(default=Cosine(warmup=Fraction(n=0.02)), description="of the learning rate")
    b1: float = Field(default=0.9, ge=0, lt=1, description="decay of the first moment")
    b2: float = Field(default=0.95, ge=0, lt=1, description="decay of the second moment")
    epsilon: float = Field(default=1e-8, ge=0, description="added to the root of the second moment")
    weight_decay: float = Field(default=0.1, ge=0, description="on matrices; norm scales are not decayed")


class Adafactor(_Optimizer):
    """Adafactor as PaLM used it: unfactored, parameter-scaled (PaLM section 5; update order of T5X)."""

    kind: Literal["adafactor"] = "adafactor"
    learning_rate: float = Field(default=1e-2, gt=0, description="peak, relative to the RMS of each parameter")
    schedule: Schedule = Field(default=PaLM(), description="of the learning rate")
    b1: float = Field(default=0.9, ge=0, lt=1, description="decay of the momentum over scaled updates")
    decay_exponent: float = Field(default=0.8, gt=0, description="b2 = 1 - k**-decay_exponent")
    update_clip: float = Field(default=1.0, gt=0, description="largest RMS of an update, per layer and parameter")
    weight_decay_exponent: float | None = Field(
        default=2.0, gt=0, description="decay = learning_rate**this per step; None: no decay"
    )


class Lion(_Optimizer):
    """Lion (Chen et al., arXiv 2302.06675)."""

    kind: Literal["lion"] = "lion"
    learning_rate: float = Field(default=1e-4, gt=0, description="peak")
    schedule: Schedule = Field(default=Cosine(warmup=Fraction(n=0.02)), description="of the learning rate")
    b1: float = Field(default=0.9, ge=0, lt=1, description="weight of the momentum in the update")
    b2: float = Field(default=0.99, ge=0, lt=1, description="decay of the momentum")
    weight_decay: float = Field(default=1.0, ge=0, description="on matrices; multiplied by the learning rate")


class Muon(_Optimizer):
    """Muon for the blocks' matrices, AdamW for embeddings, head and norms (Jordan et al. 2024)."""

    kind: Literal["muon"] = "muon"
    learning_rate: float = Field(default=0.02, gt=0, description="peak, of the orthogonalized matrices")
    adam_learning_rate: float = Field(default=3e-3, gt=0, description="peak, of everything else")
    schedule: Schedule = Field(
        default=WSD(warmup=Fraction(n=0.02), decay=Fraction(n=0.4)), description="of both learning rates"
    )
    momentum: float = Field(default=0.95, ge=0, lt=1, description="decay of the momentum of matrices")
    ns_steps: int = Field(default=5, ge=1, description="Newton-Schulz iterations")
    b1: float = Field(default=0.9, ge=0, lt=1, description="AdamW's, of the other parameters")
    b2: float = Field(default=0.95, ge=0, lt=1, description="AdamW's, of the other parameters")
    weight_decay: float = Field(default=0.0, ge=0, description="on matrices; multiplied by the learning rate")


class ScheduleFree(_Optimizer):
    """Schedule-free AdamW (Defazio et al., arXiv 2405.15682); evaluation uses averaged parameters."""

    averages_params: ClassVar[bool] = True

    kind: Literal["schedule_free"] = "schedule_free"
    learning_rate: float = Field(default=2.5e-3, gt=0, description="peak")
    schedule: Schedule = Field(default=Constant(warmup=Fraction(n=0.05)), description="of the learning rate")
    b1: float = Field(default=0.9, gt=0, lt=1, description="interpolation between the average and the fastest iterate")
    b2: float = Field(default=0.95, ge=0, lt=1, description="decay of the second moment")
    weight_decay: float = Field(default=0.0, ge=0, description="on matrices; multiplied by the learning rate")


class SGD(_Optimizer):
    """Stochastic gradient descent with optional momentum."""

    largest_rate: ClassVar[float] = 1e6

    kind: Literal["sgd"] = "sgd"
    learning_rate: float = Field(default=0.1, gt=0, description="peak")
    schedule: Schedule = Field(default=Constant(warmup=Fraction(n=0.02)), description="of the learning rate")
    momentum: float = Field(default=0.0, ge=0, lt=1, description="decay of the momentum; 0: none")
    nesterov: bool = Field(default=False, description="momentum by Nesterov")


class OptimizerPlugin(_Optimizer, PluginClass):
    """An optimizer of another package (group `pathways_lite.optimizers`).

    Its `direction` is its own. Clipping before it, and weight decay, groups and the learning rate's clock after it, are
    those of the other optimizers.
    """

    plugin_group: ClassVar[Group] = "optimizers"

    learning_rate: float = Field(default=1e-3, gt=0, description="peak")
    schedule: Schedule = Field(default=Constant(warmup=Fraction(n=0.02)), description="of the learning rate")
    weight_decay: float = Field(default=0.0, ge=0, description="on matrices; multiplied by the learning rate")

    @abstractmethod
    def direction(self, axes: Any) -> Any:
        """Return the optax transformation from gradients to what the learning rate multiplies, as `scale_by_adam` is.

        `axes`: the tree of trained parameters, with a tuple of logical axis names in place of each array. The state has
        arrays of the parameters' shapes, and scalars.
        """


Optimizer = Annotated[AdamW | Adafactor | Lion | Muon | ScheduleFree | SGD | OptimizerPlugin, OpenUnion()]
