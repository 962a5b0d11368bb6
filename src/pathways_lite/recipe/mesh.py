"""The mesh that a stage is trained on. It changes where numbers lie, not what they are (but for rounding)."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from pathways_lite.recipe.base import Frozen


class Mesh(Frozen):
    """Devices along each axis; one of them may be -1: as many as the others leave.

    The default spreads parameters, optimizer and batch over all devices (fully sharded data parallel).
    PaLM 540B: pod=2, fsdp=256, tensor=12 (Chowdhery et al. 2022, section 4).
    """

    pod: int = Field(1, description="slices joined by the data-center network: copies of the model, parts of the batch")
    data: int = Field(1, description="copies of the model within a slice, parts of the batch")
    fsdp: int = Field(-1, description="parts of the batch, and of parameters and optimizer, gathered layer by layer")
    context: int = Field(1, description="parts of each sequence (and of the parameters, as fsdp)")
    tensor: int = Field(1, description="parts of heads, MLP and vocabulary, and of the residual stream's width")

    @model_validator(mode="after")
    def _check(self) -> Self:
        sizes = self.model_dump()
        if wrong := [name for name, size in sizes.items() if size < 1 and size != -1]:
            raise ValueError(f"mesh.{wrong[0]}={sizes[wrong[0]]} must be at least 1, or -1 for all that is left")
        if list(sizes.values()).count(-1) > 1:
            raise ValueError("at most one axis of a mesh may be -1 (fsdp is, unless it is set)")
        return self
