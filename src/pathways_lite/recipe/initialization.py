"""How a small model becomes a larger one: the growth operators as data. `methods.growth` carries them out.

Names follow "Stacking Your Transformers" (Du et al. 2024, arXiv 2405.15319): growth has two directions, depth (more
layers) and width (`d_model`, `n_heads`, `n_kv_heads`, `d_ff`, together or not). What grows is what the models of the
two stages differ in.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pathways_lite.recipe.base import Amount, Fraction, Frozen


def parse_blocks(order: str) -> tuple[int, ...]:
    """Blocks, numbered from 0, that an order in the paper's notation lists from the bottom to the top.

    Parts are joined by '-', blocks numbered from 1: `12-3456*5-56` is blocks 1 and 2, five times 3 to 6, then 5 and 6.
    Of more than nine blocks write ranges: `1..12*2-12`. Raises ValueError for anything else.
    """
    blocks: list[int] = []
    for part in order.split("-"):
        match = re.fullmatch(r"(?:([1-9]+)|([1-9][0-9]*)\.\.([1-9][0-9]*))(?:\*([1-9][0-9]*))?", part)
        if match is None or (match[2] and int(match[2]) > int(match[3])):
            raise ValueError(f"{part!r} in {order!r} is no list of blocks; write e.g. '123-456*7' or '1..12*2'")
        numbers = [int(digit) for digit in match[1]] if match[1] else range(int(match[2]), int(match[3]) + 1)
        blocks += [number - 1 for number in numbers] * int(match[4] or 1)
    return tuple(blocks)


def _notation(order: str) -> str:
    parse_blocks(order)
    return order


# ---- depth ----


class Stack(Frozen):
    """G_stack: the whole stack of blocks, several times on top of itself."""

    kind: Literal["stack"] = "stack"


class Interpolate(Frozen):
    """Each block several times in its place."""

    kind: Literal["interpolate"] = "interpolate"


class BlockOrder(Frozen):
    """Partial stacking: the blocks that a list names."""

    kind: Literal["blocks"] = "blocks"
    order: Annotated[str, AfterValidator(_notation)] = Field(description="from the bottom, e.g. '123-456*7'")


class DropAndStack(Frozen):
    """Depth up-scaling (SOLAR, Kim et al. 2023, arXiv 2312.15166): two copies without the last and the first blocks."""

    kind: Literal["drop_and_stack"] = "drop_and_stack"


# ---- width ----


class Net2Net(Frozen):
    """Splitting (Net2Net, bert2BERT, LEMON): units are copied, and what reads them divides its weight among the copies.

    Copies that share evenly get equal gradients and stay equal; uneven shares part them, at no cost in exactness.
    """

    kind: Literal["direct"] = "direct"
    split: Literal["even", "uneven"] = "uneven"


# ---- both ----

Order = Annotated[
    Literal["stack", "interpolate"], Field(description="where new blocks go: on top of the old ones, or behind each")
]


class ZeroInit(Frozen):
    """New units and blocks add nothing at first: width is padded, a new block is a copy with its outputs zero."""

    kind: Literal["zero"] = "zero"
    order: Order = "stack"


class MaskedGrowth(Frozen):
    """New units and blocks are drawn at random, under masks that ramp from 0 to 1 (MSG, arXiv 2305.02869)."""

    kind: Literal["random"] = "random"
    order: Order = "stack"
    ramp: Amount = Field(
        Fraction(n=0.1), description="of each mask: new blocks from the start; d_ff, d_model, heads one after the other"
    )


class LiGO(Frozen):
    """LiGO (Wang et al. 2023, arXiv 2303.00980): linear maps of the small model, trained on the stage's own loss.

    Their training reads the stage's first batches and is booked on its ledger; the stage goes on behind them.
    """

    kind: Literal["learned"] = "learned"
    steps: int = Field(100, ge=0, description="of training the maps; 0: as they begin")
    learning_rate: float = Field(1e-3, gt=0, description="peak, of AdamW")


class Compose(Frozen):
    """Wider by one operator and deeper by another."""

    kind: Literal["compose"] = "compose"
    depth: Annotated[Stack | Interpolate | BlockOrder | DropAndStack | ZeroInit, Field(discriminator="kind")] = Stack()
    width: Annotated[Net2Net | ZeroInit, Field(discriminator="kind")] = Net2Net()


Operator = Annotated[
    Stack | Interpolate | BlockOrder | DropAndStack | Net2Net | ZeroInit | MaskedGrowth | LiGO | Compose,
    Field(discriminator="kind"),
]


class Grow(Frozen):
    """A larger model made of the stage before by a growth operator; its data goes on where that one stopped.

    The learning-rate schedule begins anew, with its warm-up, as every stage's does. What becomes of the optimizer:
    `reset` starts it anew (as G_stack does); `grow` carries the moments through the operator (squares of gradients
    through its square) with their count; `keep` keeps the count, and the moments of arrays that keep their shape.
    """

    kind: Literal["grow"] = "grow"
    operator: Operator = Stack()
    noise: float = Field(
        0.0, ge=0, le=1, description="share of noise in copied blocks' kernels: W <- (1 - noise) W + noise N"
    )
    optimizer: Literal["reset", "grow", "keep"] = Field("reset", description="grow, keep: need the same optimizer")


# A stage's start from several checkpoints at once, as data. `methods.merging` says what is made of them.


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
