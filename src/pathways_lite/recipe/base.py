"""What every part of a recipe is made of: frozen typed models, and amounts of training."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Frozen(BaseModel):
    """An immutable part of a recipe. Unknown fields are refused, so a misspelt one is never ignored.

    `not_identity` names the fields that cannot change what a stage computes (how often it saves, where
    its corpus lies); they are left out of the stage's identity.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
    not_identity: ClassVar[frozenset[str]] = frozenset()


class Steps(Frozen):
    """A number of optimizer steps."""

    kind: Literal["steps"] = "steps"
    n: int = Field(ge=0)


class Tokens(Frozen):
    """A number of training tokens (positions of the batch, whether or not they carry loss)."""

    kind: Literal["tokens"] = "tokens"
    n: int = Field(ge=0)


class Flops(Frozen):
    """A number of model FLOPs, counted as in PaLM appendix B (forward and backward, no recomputation)."""

    kind: Literal["flops"] = "flops"
    n: float = Field(ge=0)


class Fraction(Frozen):
    """A fraction of the stage's budget, measured in the budget's own unit."""

    kind: Literal["fraction"] = "fraction"
    n: float = Field(ge=0, le=1)


_UNITS = {"step": "steps", "token": "tokens", "flop": "flops"}


def _parse_amount(value: Any) -> Any:
    """Accept `"300 steps"`, `"2e6 tokens"`, `"1e15 flops"` and `"5 %"` wherever an amount is expected."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*(%|[A-Za-z]+)\s*", value)
    if match is None:
        raise ValueError(f"{value!r} is no amount; write e.g. '300 steps', '2e6 tokens', '1e15 flops' or '5 %'")
    number, unit = float(match[1]), match[2].lower()
    if unit == "%":
        return {"kind": "fraction", "n": number / 100}
    kind = _UNITS.get(unit.removesuffix("s"))
    if kind is None:
        raise ValueError(f"unknown unit {match[2]!r} in {value!r}; use steps, tokens, flops or %")
    return {"kind": kind, "n": number}


Budget = Annotated[Steps | Tokens | Flops, Field(discriminator="kind"), BeforeValidator(_parse_amount)]
"""How much a stage trains."""

Amount = Annotated[Steps | Tokens | Flops | Fraction, Field(discriminator="kind"), BeforeValidator(_parse_amount)]
"""A point or a length on the stage's clock."""
