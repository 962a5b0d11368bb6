"""Sparse pre-training as data: how sparse a stage becomes and when, which weights go, and in which patterns.

`methods.pruning` carries it out. Defaults are what is known of "The Journey Matters" (Jin et al. 2025, arXiv
2501.12486): a quarter of the compute dense, half pruning by magnitude, a quarter recovering, linear layers only. What
is not known of it (thresholds per tensor or global, how often, the shape of the way down) is an option here.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pathways_lite.recipe.base import Frozen

# ---- which weights go: those with the lowest scores ----


class Magnitude(Frozen):
    """|w|."""

    kind: Literal["magnitude"] = "magnitude"


class FirstOrder(Frozen):
    """|w g|, what the loss changes to first order when w goes, averaged over steps."""

    kind: Literal["first_order"] = "first_order"
    decay: float = Field(0.9, ge=0, lt=1, description="of the running average, per step")


class Movement(Frozen):
    """The sum of -w g over steps, large where weights move away from zero (Sanh et al. 2020, arXiv 2005.07683)."""

    kind: Literal["movement"] = "movement"
    decay: float = Field(1.0, ge=0, le=1, description="of what was summed before, per step; 1: a sum, as in the paper")


class RandomScores(Frozen):
    """Drawn anew at every update; what is pruned stays pruned."""

    kind: Literal["random"] = "random"
    seed: int = Field(0, ge=0)


Criterion = Annotated[Magnitude | FirstOrder | Movement | RandomScores, Field(discriminator="kind")]

# ---- in which patterns ----


class Unstructured(Frozen):
    """Each weight by itself."""

    kind: Literal["unstructured"] = "unstructured"


class NM(Frozen):
    """At the end, n of each m weights in a row along a kernel's input stay: 2:4 is what sparse tensor cores compute.

    On the way there, those go first that are lowest of all that are to go.
    """

    kind: Literal["n_m"] = "n_m"
    n: int = Field(2, ge=1)
    m: Literal[2, 4, 8, 16] = 4

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.n >= self.m:
            raise ValueError(f"n={self.n} of m={self.m} weights would stay; n must be below m")
        return self


class Heads(Frozen):
    """Attention heads: a head of keys and values with its queries; with one such head, single heads of queries."""

    kind: Literal["heads"] = "heads"


class Channels(Frozen):
    """Channels of the MLP: columns of gate and up with their rows of down."""

    kind: Literal["channels"] = "channels"


class WholeBlocks(Frozen):
    """Blocks: all their kernels, so that what is left of them is the residual stream."""

    kind: Literal["blocks"] = "blocks"


Structure = Annotated[Unstructured | NM | Heads | Channels | WholeBlocks, Field(discriminator="kind")]

# ---- what comes back ----


class Regrowth(Frozen):
    """At every update until pruning ends, a part of the active weights goes and as many come back, as zeros.

    Those that went may be among them; they then never went.

    The part falls from `share` to 0 along half a cosine over the steps. `gradient`: those with the largest gradients
    come back (RigL, Evci et al. 2020, arXiv 1911.11134); `random`: any (SET, Mocanu et al. 2018, arXiv 1707.04780,
    where the part is constant).
    """

    by: Literal["gradient", "random"] = "gradient"
    share: float = Field(0.3, gt=0, lt=1, description="of the active weights, at first")
    falls: bool = Field(True, description="to 0 along half a cosine; else constant")
    seed: int = Field(0, ge=0, description="of random ones")


class Prune(Frozen):
    """Weights of a stage that are zero, more and more of them, or fewer.

    `sparsity` is the share of the prunable weights (of the units of a structure) that is zero from `end` on;
    `start_sparsity` that before `begin`. One shot: begin = end. Static from the start (SPDF, Thangarasa et al. 2023,
    arXiv 2303.10464): start_sparsity = sparsity. From sparse to dense: sparsity = 0, start_sparsity above.
    """

    sparsity: float = Field(ge=0, lt=1, description="of the prunable weights, from `end` on")
    start_sparsity: float = Field(0.0, ge=0, lt=1, description="before `begin`")
    begin: float = Field(0.25, ge=0, le=1, description="share of the stage's compute")
    end: float = Field(0.75, ge=0, le=1, description="share of the stage's compute")
    compute: Literal["sparse", "dense"] = Field(
        "sparse", description="what those are shares of: FLOPs where zeros are skipped, or where they are computed with"
    )
    shape: Literal["linear", "cubic"] = Field(
        "linear", description="of the density in compute; cubic: fast at first (Zhu & Gupta 2017, arXiv 1710.01878)"
    )
    every: int = Field(10, ge=1, description="steps between updates of the masks; another one falls on `end`")
    criterion: Criterion = Magnitude()
    allocation: Literal["tensor", "global"] = Field(
        "tensor", description="each layer's kernel equally sparse, or one threshold for all of them"
    )
    structure: Structure = Unstructured()
    scope: tuple[str, ...] = Field(
        ("linear",),
        description="linear: the kernels of the blocks; or names of parameters, where * stands for anything",
    )
    regrowth: Regrowth | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.begin > self.end:
            raise ValueError(f"begin={self.begin} is after end={self.end}")
        if not self.scope:
            raise ValueError("scope is empty; use ('linear',) for the kernels of the blocks")
        structure = self.structure
        if isinstance(structure, NM):
            dense = 1 - structure.n / structure.m
            for name in ("sparsity", "start_sparsity"):
                if (given := getattr(self, name)) and not math.isclose(given, dense):
                    raise ValueError(f"{name}={given:g}: {structure.n}:{structure.m} is a sparsity of {dense:g}")
        elif not isinstance(structure, Unstructured) and self.scope != ("linear",):
            raise ValueError(f"{structure.kind} are whole; a scope is for unstructured and n_m")
        if self.regrowth is not None and not isinstance(structure, Unstructured):
            raise ValueError(f"regrowth is of single weights, not of {structure.kind}")
        return self
