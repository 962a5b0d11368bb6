"""Starts of a stage from other models: growth operators and merges of checkpoints.

`methods.growth` and `methods.merging` implement them. The names of growth follow "Stacking Your Transformers" (Du et
al. 2024, arXiv 2405.15319): a model grows in two directions, depth (more layers) and width (`d_model`, `n_heads`,
`n_kv_heads`, `d_ff`, together or not). The differences between the models of the two stages say what grows. A third
direction is the vocabulary, which grows alone.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pathways_lite.plugins import Group
from pathways_lite.recipe.base import Amount, Fraction, Frozen
from pathways_lite.recipe.model import Model
from pathways_lite.recipe.plugin import OpenUnion, PluginClass

__all__ = [
    "BlockOrder", "Compose", "DropAndStack", "Grow", "Ingredient", "Interpolate", "LiGO", "MaskedGrowth", "Merge",
    "Net2Net", "Operator", "OperatorPlugin", "Stack", "StartWeights", "VocabularyGrowth", "ZeroInit", "parse_blocks",
]  # fmt: skip


def parse_blocks(order: str) -> tuple[int, ...]:
    """Parse the paper's notation for an order of blocks into block indices from 0, bottom to top.

    Terms are joined by '-' and number blocks from 1: `12-3456*5-56` is blocks 1 and 2, five times 3 to 6, then 5 and 6.
    For more than nine blocks write ranges: `1..12*2-12`. Raises ValueError for anything else.
    """
    blocks: list[int] = []
    for term in order.split("-"):
        match = re.fullmatch(r"(?:([1-9]+)|([1-9][0-9]*)\.\.([1-9][0-9]*))(?:\*([1-9][0-9]*))?", term)
        if match is None or (match[2] and int(match[2]) > int(match[3])):
            raise ValueError(f"{term!r} in {order!r} is not a list of blocks; write e.g. '123-456*7' or '1..12*2'")
        numbers = [int(digit) for digit in match[1]] if match[1] else range(int(match[2]), int(match[3]) + 1)
        blocks += [number - 1 for number in numbers] * int(match[4] or 1)
    return tuple(blocks)


def _check_block_order(order: str) -> str:
    parse_blocks(order)
    return order


# ---- growth in depth ----


class Stack(Frozen):
    """G_stack: copies of the whole stack of blocks on top of each other."""

    kind: Literal["stack"] = "stack"


class Interpolate(Frozen):
    """Copies of each block right after it."""

    kind: Literal["interpolate"] = "interpolate"


class BlockOrder(Frozen):
    """Partial stacking: an explicit list of blocks."""

    kind: Literal["blocks"] = "blocks"
    order: Annotated[str, AfterValidator(_check_block_order)] = Field(description="from the bottom, e.g. '123-456*7'")


class DropAndStack(Frozen):
    """Depth up-scaling (SOLAR, Kim et al. 2023, arXiv 2312.15166): two copies without the last and the first blocks."""

    kind: Literal["drop_and_stack"] = "drop_and_stack"


# ---- growth in width ----


class Net2Net(Frozen):
    """Unit splitting (Net2Net, bert2BERT, LEMON): units are copied, and their consumers divide the weight among copies.

    Copies with equal shares get equal gradients and stay equal. Uneven shares break the symmetry, and the function is
    still preserved exactly.
    """

    kind: Literal["direct"] = "direct"
    split: Literal["even", "uneven"] = Field(default="uneven", description="how copies share what they write")


# ---- growth in depth and width ----

Order = Annotated[
    Literal["stack", "interpolate"], Field(description="position of new blocks: on top of the old ones, or after each")
]


class ZeroInit(Frozen):
    """New units and blocks that add nothing at first: width is padded, a new block is a copy with zero outputs."""

    kind: Literal["zero"] = "zero"
    order: Order = "stack"


class MaskedGrowth(Frozen):
    """Randomly initialized units and blocks under masks that ramp from 0 to 1 (MSG, arXiv 2305.02869)."""

    kind: Literal["random"] = "random"
    order: Order = "stack"
    ramp: Amount = Field(
        default=Fraction(n=0.1),
        description="of each mask: new blocks from the start; d_ff, d_model, heads one after the other",
    )


class LiGO(Frozen):
    """LiGO (Wang et al. 2023, arXiv 2303.00980): linear maps of the small model, trained on the stage's own loss.

    Their training reads the stage's first batches, and its cost is in the stage's ledger; the stage then continues
    with the batches after them.
    """

    kind: Literal["learned"] = "learned"
    steps: int = Field(default=100, ge=0, description="of training the maps; 0: as initialized")
    learning_rate: float = Field(default=1e-3, gt=0, le=10, description="peak, of AdamW")


# ---- growth in the vocabulary ----


class VocabularyGrowth(Frozen):
    """More rows of the embedding and the head (`vocab_size`), after the old ones: for sentinels, or new tokens.

    Old rows do not change, so neither do the logits of old ids. With `mean` a new id gets at most the mean of what the
    old ones get (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models"): k new ids after V old
    ones together get at most k / (V + k) of the probability, and the loss rises by at most ln(1 + k / V).
    """

    kind: Literal["vocabulary"] = "vocabulary"
    init: Literal["mean", "zero", "random"] = Field(
        default="mean",
        description="new rows. mean: the mean of the old ones; zero: so logits of 0; random: as a new model has them",
    )


class Compose(Frozen):
    """One operator for width and another for depth."""

    kind: Literal["compose"] = "compose"
    depth: Annotated[Stack | Interpolate | BlockOrder | DropAndStack | ZeroInit, Field(discriminator="kind")] = Field(
        default=Stack(), description="operator that adds blocks"
    )
    width: Annotated[Net2Net | ZeroInit, Field(discriminator="kind")] = Field(
        default=Net2Net(), description="operator that widens them, applied first"
    )


class OperatorPlugin(PluginClass):
    """A growth operator of another package (group `pathways_lite.growth`)."""

    plugin_group: ClassVar[Group] = "growth"

    @abstractmethod
    def plan(self, source: Model, target: Model) -> Any:
        """Return the `methods.growth.GrowthPlan` from the smaller model to the larger one of the same vocabulary.

        Raises UserError where the operator cannot do it.
        """


Operator = Annotated[
    Stack
    | Interpolate
    | BlockOrder
    | DropAndStack
    | Net2Net
    | ZeroInit
    | MaskedGrowth
    | LiGO
    | VocabularyGrowth
    | Compose
    | OperatorPlugin,
    OpenUnion(),
]


StartWeights = Literal["trained", "average"]
"""Which parameters of a checkpoint a stage starts from: those that were trained, or their moving average."""


def require_reset[T: Any](start: T) -> T:
    """Return a start that takes an average without moments; raises ValueError for others, for pydantic."""
    if start.weights == "average" and start.optimizer != "reset":
        raise ValueError(
            f"optimizer={start.optimizer!r}: the moments are those of the trained parameters, not of their average; "
            "use optimizer='reset', or weights='trained'"
        )
    return start


class Grow(Frozen):
    """A larger model grown from the previous stage's; the data continues where that stage stopped.

    The learning-rate schedule restarts with its warm-up, as in every stage. `optimizer` says what happens to the
    optimizer state: `reset` starts from zero (as G_stack does); `grow` transforms the moments as gradients transform,
    inversely to weights, and keeps the count; `keep` keeps the count, and the moments of arrays whose shape is
    unchanged.
    """

    kind: Literal["grow"] = "grow"
    operator: Operator = Field(default=Stack(), description="how the larger model is made of the smaller")
    noise: float = Field(
        default=0.0, ge=0, le=1, description="fraction of noise in copied blocks' kernels: W <- (1 - noise) W + noise N"
    )
    optimizer: Literal["reset", "grow", "keep"] = Field(
        default="reset", description="grow, keep: need the same optimizer"
    )
    weights: StartWeights | None = Field(
        default=None, description="average: that of the parameters (see ema); none: those that were trained"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        return require_reset(self)


# ---- merges of checkpoints ----


class Ingredient(Frozen):
    """One checkpoint and its weight."""

    not_identity: ClassVar[frozenset[str]] = frozenset({"path"})

    path: str = Field(description="a checkpoint directory, or a stage or run directory (its newest checkpoints)")
    weight: float = Field(default=1.0, description="relative to the others'")
    digest: str | None = Field(default=None, description="of that checkpoint; filled in when the recipe is resolved")


def _parse_paths(value: Any) -> Any:
    """Accept a path wherever an ingredient is expected."""
    if isinstance(value, str):
        value = (value,)
    return tuple({"path": item} if isinstance(item, str) else item for item in value)


class Merge(Frozen):
    """A weighted average of several checkpoints' parameters; equal weights make a uniform soup.

    Model soups: Wortsman et al. 2022 (arXiv 2203.05482); models without a common ancestor are too far apart for them.
    `last` averages the newest checkpoints of a run (LAWA, Kaddour 2022, arXiv 2209.14981), exponentially weighted if
    `decay` is below 1. The optimizer state is reset.
    """

    former_names: ClassVar[Mapping[str, str]] = {"checkpoints": "of"}

    kind: Literal["merge"] = "merge"
    checkpoints: Annotated[tuple[Ingredient, ...], BeforeValidator(_parse_paths)] = Field(
        default=(), description="what is averaged, with weights"
    )
    last: int = Field(
        default=1, ge=1, description="newest checkpoints of each path; its stage must keep at least as many"
    )
    decay: float = Field(default=1.0, gt=0, le=1, description="weight of a checkpoint relative to the next newer one's")

    @model_validator(mode="after")
    def _check(self) -> Self:
        weights = [ingredient.weight for ingredient in self.checkpoints]
        if weights and sum(weights) <= 0:
            raise ValueError(f"the weights {weights} must have a sum above 0")
        return self
