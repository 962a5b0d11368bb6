"""References to trained models beside a stage's start (e.g. a reference model for RHO, learned domain weights)."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from pathways_lite.recipe.base import Frozen
from pathways_lite.recipe.model import Model

__all__ = ["CheckpointRef", "Reference"]


class CheckpointRef(Frozen):
    """The result of an earlier stage of the same recipe, which may not be trained yet, or a checkpoint of any run."""

    not_identity: ClassVar[frozenset[str]] = frozenset({"path", "stage"})

    path: str = Field(
        default="", description="a checkpoint directory, or a stage or run directory (its newest checkpoint)"
    )
    stage: str | None = Field(
        default=None, description="instead: the name of an earlier stage; its final checkpoint is used"
    )
    digest: str | None = Field(
        default=None, description="of the checkpoint at `path`; filled in when the recipe is resolved"
    )
    identity: str | None = Field(default=None, description="of that stage; filled in when the recipe is resolved")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.path) == (self.stage is not None):
            raise ValueError("name either an earlier stage of the recipe, stage='...', or a checkpoint, path='...'")
        return self


class Reference(CheckpointRef):
    """A trained model whose loss is subtracted: what remains can still be learned."""

    model: Model | None = Field(default=None, description="of that checkpoint; filled in when the recipe is resolved")
