"""Sparse pretraining: how sparse a stage becomes and when, which weights are pruned, and in which patterns.

`methods.pruning` implements it. The defaults have the phases of "The Journey Matters" (Jin et al. 2025, arXiv
2501.12486): a quarter of the compute dense, half pruning by magnitude, a quarter recovering. `Prune.as_published` also
has what the paper's code (github.com/tjingrant/sparse-llm-code) and model cards (huggingface.co/tjingrant/sparsellm-*)
show: one threshold for all kernels, the output matrix among them, densities that are geometric in steps, and updates at
both ends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from pathways_lite.recipe.base import Frozen

__all__ = [
    "NM", "Channels", "FirstOrder", "Heads", "Magnitude", "Movement", "Prune", "RandomScores", "Regrowth",
    "Unstructured", "WholeBlocks",
]  # fmt: skip

# ---- criteria: weights with the lowest scores are pruned ----


class Magnitude(Frozen):
    """Score |w|."""

    kind: Literal["magnitude"] = "magnitude"


class FirstOrder(Frozen):
    """Score |w g|, the first-order change of the loss when w is removed, averaged over steps."""

    kind: Literal["first_order"] = "first_order"
    decay: float = Field(default=0.9, ge=0, lt=1, description="of the running average, per step")


class Movement(Frozen):
    """Score -w g summed over steps, large where weights move away from zero (Sanh et al. 2020, arXiv 2005.07683)."""

    kind: Literal["movement"] = "movement"
    decay: float = Field(
        default=1.0, ge=0, le=1, description="of the running sum, per step; 1: a plain sum, as in the paper"
    )


class RandomScores(Frozen):
    """Random scores, drawn again at every update; pruned weights stay pruned."""

    kind: Literal["random"] = "random"
    seed: int = Field(default=0, ge=0, description="of the scores")


Criterion = Annotated[Magnitude | FirstOrder | Movement | RandomScores, Field(discriminator="kind")]

# ---- structures: the patterns of zeros ----


class Unstructured(Frozen):
    """Single weights."""

    kind: Literal["unstructured"] = "unstructured"


class NM(Frozen):
    """n:m sparsity: of every m consecutive weights along a kernel's input n stay. Sparse tensor cores compute 2:4.

    The pattern is complete at the end; until then, the lowest scores among the weights it excludes are pruned first.
    """

    kind: Literal["n_m"] = "n_m"
    n: int = Field(default=2, ge=1, description="weights kept of each m")
    m: Literal[2, 4, 8, 16] = Field(default=4, description="size of a group along the input")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.n >= self.m:
            raise ValueError(f"n={self.n} of every m={self.m} weights would stay; n must be below m")
        return self


class Heads(Frozen):
    """Attention heads: a key-value head with its query heads, or single query heads if there is one key-value head."""

    kind: Literal["heads"] = "heads"


class Channels(Frozen):
    """MLP channels: columns of gate and up with the matching rows of down."""

    kind: Literal["channels"] = "channels"


class WholeBlocks(Frozen):
    """Whole blocks: all kernels of a block, so that only the residual stream remains."""

    kind: Literal["blocks"] = "blocks"


Structure = Annotated[Unstructured | NM | Heads | Channels | WholeBlocks, Field(discriminator="kind")]

# ---- regrowth and schedule ----


class Regrowth(Frozen):
    """Drop and regrow: each update drops a fraction of the active weights and regrows as many as zeros.

    It stops when pruning ends. A weight that was just dropped may regrow; it then counts as never dropped.

    The fraction decays from `fraction` to 0 along half a cosine over the steps. `gradient` regrows the weights with the
    largest gradients (RigL, Evci et al. 2020, arXiv 1911.11134); `random` any (SET, Mocanu et al. 2018, arXiv
    1707.04780, where the fraction is constant).
    """

    former_names: ClassVar[Mapping[str, str]] = {"fraction": "share"}

    by: Literal["gradient", "random"] = Field(default="gradient", description="which weights grow back")
    fraction: float = Field(default=0.3, gt=0, lt=1, description="of the active weights, initially")
    falls: bool = Field(default=True, description="decay to 0 along half a cosine; else constant")
    seed: int = Field(default=0, ge=0, description="of random regrowth")


class Prune(Frozen):
    """A schedule of sparsity over a stage, rising or falling.

    `sparsity` is the fraction of the prunable weights (of the units of a structure) that is zero from `end` on,
    `start_sparsity` the one before `begin`. One-shot: begin = end. Static from the start (SPDF, Thangarasa et al. 2023,
    arXiv 2303.10464): start_sparsity = sparsity. Sparse to dense: sparsity = 0, start_sparsity above.
    """

    former_names: ClassVar[Mapping[str, str]] = {"update_every": "every"}

    sparsity: float = Field(ge=0, lt=1, description="of the prunable weights, from `end` on")
    start_sparsity: float = Field(default=0.0, ge=0, lt=1, description="before `begin`")
    begin: float = Field(default=0.25, ge=0, le=1, description="fraction of the stage's compute")
    end: float = Field(default=0.75, ge=0, le=1, description="fraction of the stage's compute")
    compute: Literal["sparse", "dense"] = Field(
        default="sparse", description="unit of `begin` and `end`: FLOPs with zeros skipped (sparse) or computed (dense)"
    )
    shape: Literal["linear", "cubic", "geometric"] = Field(
        default="linear",
        description="of the density: linear in compute; cubic in compute, fast at first (Zhu & Gupta 2017, arXiv "
        "1710.01878); geometric in tokens, as published, which is linear in compute where zeros save everything",
    )
    update_every: int = Field(default=10, ge=1, description="steps between updates of the masks; the last is at `end`")
    edge: Literal["left", "right"] | None = Field(
        default=None,
        description="density from one update of the masks to the next: the schedule's at the first of the two (left, "
        "the default) or at the second (right, as published: the first update, at `begin`, prunes)",
    )
    criterion: Criterion = Field(default=Magnitude(), description="which weights go first")
    allocation: Literal["tensor", "global"] = Field(
        default="tensor", description="tensor: each layer's kernel equally sparse; global: one threshold for all"
    )
    structure: Structure = Field(default=Unstructured(), description="what is removed at once")
    scope: tuple[str, ...] = Field(
        default=("linear",),
        description="linear: the kernels of the blocks; kernels: the output matrix too, where it is not the embedding; "
        "or names of parameters, where * matches anything",
    )
    regrowth: Regrowth | None = Field(
        default=None, description="of removed weights, at each update; None: what is removed stays so"
    )

    @classmethod
    def as_published(cls, sparsity: float, **changes: Any) -> Self:
        """Build the schedule of "The Journey Matters" by its code and model cards; `changes` are other fields.

        Update i of n leaves the density (1 - sparsity)^((i + 1) / n); the first is at `begin` and the last at `end`.
        The code updates every 100 steps, the cards' runs at multiples of 25. Its learning rate falls to a tenth along a
        cosine, after a warm-up of 1 %: `Cosine(warmup="1 %", end=0.1)`.
        """
        published = {
            "shape": "geometric", "edge": "right", "update_every": 100, "allocation": "global", "scope": ("kernels",),
        }  # fmt: skip
        return cls.model_validate({"sparsity": sparsity, **published, **changes})

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.begin > self.end:
            raise ValueError(f"begin={self.begin} is after end={self.end}")
        if not self.scope:
            raise ValueError("scope is empty; use ('linear',) for the kernels of the blocks")
        structure = self.structure
        if isinstance(structure, NM):
            zeros = 1 - structure.n / structure.m
            for name in ("sparsity", "start_sparsity"):
                if (sparsity := getattr(self, name)) and not math.isclose(sparsity, zeros):
                    raise ValueError(f"{name}={sparsity:g}: {structure.n}:{structure.m} is a sparsity of {zeros:g}")
        elif not isinstance(structure, Unstructured) and self.scope != ("linear",):
            raise ValueError(f"{structure.kind} are pruned whole; set a scope for unstructured and n_m only")
        if self.regrowth is not None and not isinstance(structure, Unstructured):
            raise ValueError(f"regrowth is for single weights, not for {structure.kind}")
        return self
