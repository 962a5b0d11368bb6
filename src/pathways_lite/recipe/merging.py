"""A stage's start from several checkpoints at once, as data. `methods.merging` says what is made of them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from pathways_lite.recipe.base import Frozen


class Ingredient(Frozen):
    """One checkpoint and its weight."""

    not_identity: ClassVar[frozenset[str]] = frozenset({"path"})

    path: str = Field(description="a checkpoint directory, or a stage or run directory (its newest checkpoints)")
    weight: float = Field(1.0, description="relative to the others'")
    digest: str | None = Field(None, description="of that checkpoint; filled in when the recipe is resolved")


def _paths(value: Any) -> Any:
    """Accept a path wherever an ingredient is expected."""
    if isinstance(value, str):
        value = (value,)
    return tuple({"path": item} if isinstance(item, str) else item for item in value)


class Merge(Frozen):
    """The weighted average of several checkpoints' parameters: equal weights make a uniform soup.

    Model soups: Wortsman et al. 2022 (arXiv 2203.05482); without a common beginning, models are too far apart for them.
    With `last` the newest checkpoints of a run are averaged (LAWA, Kaddour 2022, arXiv 2209.14981), with `decay`
    exponentially. The optimizer begins anew.
    """

    kind: Literal["merge"] = "merge"
    of: Annotated[tuple[Ingredient, ...], BeforeValidator(_paths)] = ()
    last: int = Field(1, ge=1, description="newest checkpoints of each path; its stage has to keep so many")
    decay: float = Field(1.0, gt=0, le=1, description="weight of a checkpoint relative to the next newer one's")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.of and sum(ingredient.weight for ingredient in self.of) <= 0:
            raise ValueError(f"the weights {[i.weight for i in self.of]} must have a sum above 0")
        return self
