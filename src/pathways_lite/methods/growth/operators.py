"""Growth operators: each plans how a larger model's blocks and units copy those of a smaller one.

Depth: Stack (G_stack), Interpolate, BlockOrder, DropAndStack (SOLAR). Width: Net2Net. Both: ZeroInit, MaskedGrowth,
LiGO (`ligo.py`), Compose. Vocabulary: VocabularyGrowth. A new operator is a class in `recipe/initialization.py` and a
function here, registered by the `kind` that recipes name.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from pathways_lite.errors import UserError, counted
from pathways_lite.methods.growth.plan import (
    WIDTHS,
    Depth,
    Fill,
    GrowthPlan,
    Planner,
    Treatment,
    Units,
    append_units,
    padded_blocks,
    padded_width,
    require_depth_alone,
    require_growth,
    require_same_vocabulary,
    require_vocabulary_alone,
    require_width_alone,
    times_deeper,
)
from pathways_lite.recipe import (
    BlockOrder,
    Compose,
    DropAndStack,
    Interpolate,
    MaskedGrowth,
    Model,
    Net2Net,
    Operator,
    OperatorPlugin,
    Stack,
    VocabularyGrowth,
    ZeroInit,
    parse_blocks,
)

PLANNERS: dict[str, Planner] = {}
"""The planner of every operator, by the `kind` that recipes name."""


def register_planner(kind: str) -> Callable[[Planner], Planner]:
    """Register the planner of the operators of a kind."""

    def register(planner: Planner) -> Planner:
        PLANNERS[kind] = planner
        return planner

    return register


def plan_operator(operator: Operator, source: Model, target: Model) -> GrowthPlan:
    """Plan growth from `source` to `target`. Raises UserError where the operator cannot do it."""
    require_growth(source, target)
    if not isinstance(operator, VocabularyGrowth):
        require_same_vocabulary(operator.kind, source, target)
    if isinstance(operator, OperatorPlugin):
        return require_plan(operator, source, target)
    return PLANNERS[operator.kind](operator, source, target)


def require_plan(operator: OperatorPlugin, source: Model, target: Model) -> GrowthPlan:
    """Return a plugin's plan. Raises UserError where it is none between these models."""
    plan = operator.plan(source, target)
    if not isinstance(plan, GrowthPlan) or (plan.source, plan.target) != (source, target):
        raise UserError(f"{type(operator).__name__}.plan returned no GrowthPlan from the source to the target")
    return plan


# ---- depth ----


@register_planner("stack")
def plan_stack(config: Stack, source: Model, target: Model) -> GrowthPlan:
    """G_stack: the blocks 1 .. l, g times on top of each other (Du et al. 2024, arXiv 2405.15319, algorithm 1).

    Embedding, final norm and head are copied, nothing is rescaled. The function changes: the loss jumps at first (their
    appendix K). Raises UserError where l does not divide the target's layers.
    """
    require_depth_alone(config.kind, source, target)
    return GrowthPlan(source, target, Depth(tuple(range(source.n_layers)) * times_deeper(config.kind, source, target)))


@register_planner("interpolate")
def plan_interpolate(config: Interpolate, source: Model, target: Model) -> GrowthPlan:
    """Interpolation: each block g times in its place, 1 1 2 2 3 3 (Du et al. 2024, arXiv 2405.15319, appendix H).

    Raises UserError where l does not divide the target's layers.
    """
    require_depth_alone(config.kind, source, target)
    times = times_deeper(config.kind, source, target)
    return GrowthPlan(source, target, Depth(tuple(block for block in range(source.n_layers) for _ in range(times))))


@register_planner("blocks")
def plan_blocks(config: BlockOrder, source: Model, target: Model) -> GrowthPlan:
    """Partial stacking: the target's blocks as a list of the source's (Du et al. 2024, arXiv 2405.15319, appendix H).

    Raises UserError where the list does not have the target's length or names a block that the source does not have.
    """
    require_depth_alone(config.kind, source, target)
    blocks = parse_blocks(config.order)
    if len(blocks) != target.n_layers:
        raise UserError(
            f"order={config.order!r} lists {counted(len(blocks), 'block')}, but the model has "
            f"{counted(target.n_layers, 'layer')}"
        )
    if max(blocks) >= source.n_layers:
        raise UserError(
            f"order={config.order!r} names block {max(blocks) + 1} of a model of {counted(source.n_layers, 'layer')}"
        )
    return GrowthPlan(source, target, Depth(blocks))


@register_planner("drop_and_stack")
def plan_drop_and_stack(config: DropAndStack, source: Model, target: Model) -> GrowthPlan:
    """Depth up-scaling: two overlapping copies (SOLAR 10.7B, Kim et al. 2023, arXiv 2312.15166).

    Of l layers one copy loses its last m and the other its first m, and the second goes on top of the first: 2 (l - m)
    layers, where the seam skips as little as possible (32 layers, m = 8: 48). m follows from the target's layers.
    Raises UserError where they are odd, or more than 2 l.
    """
    require_depth_alone(config.kind, source, target)
    layers_per_copy, odd = divmod(target.n_layers, 2)
    if odd or layers_per_copy > source.n_layers:
        raise UserError(
            f"operator {config.kind!r} makes two copies of at most {counted(source.n_layers, 'layer')} each, but the "
            f"model has {target.n_layers}; use an even n_layers up to {2 * source.n_layers}"
        )
    dropped = source.n_layers - layers_per_copy
    return GrowthPlan(source, target, Depth((*range(layers_per_copy), *range(dropped, source.n_layers))))


def connection_rate(blocks: Sequence[int]) -> float:
    """Return the fraction of neighbors in a list of blocks that are neighbors in the source too.

    1 for a single block (Du et al. 2024, arXiv 2405.15319, appendix H). Stacking 6 layers 4 times keeps 20 of 23.
    """
    pairs = list(itertools.pairwise(blocks))
    return sum(b == a + 1 for a, b in pairs) / len(pairs) if pairs else 1.0


# ---- width ----


@register_planner("direct")
def plan_split(config: Net2Net, source: Model, target: Model) -> GrowthPlan:
    """Splitting: units are copied, and what reads them divides its weight among the copies.

    Net2Net (Chen et al. 2015, arXiv 1511.05641), bert2BERT (Chen et al. 2021, arXiv 2110.07143) and, for uneven
    fractions, LEMON (Wang et al. 2023, arXiv 2310.07999). Here it is exact for any sizes:

    - A unit of the residual stream with c copies is written to each with the factor sqrt(D / d) / sqrt(c), which keeps
      the mean square over the wider stream, and so the RMS norm, epsilon included; the norm's scale takes the factor
      back. For D = k d it is 1: plain copies. (Du et al. 2024, arXiv 2405.15319, appendix A.1, copy without it and put
      sqrt(d / D) on the norms, which changes the function.)
    - LayerNorm subtracts the mean as well: there are whole copies only, and remaining units are written the mean of the
      old ones, so that they are zero once it is subtracted.
    - Query heads are copied together with the key/value head that they use. Heads keep their size, so rotations (RoPE)
      and the scale of the attention logits do not change.
    - A tied embedding is both written and read: the final norm's scale divides instead, and also compensates the change
      that d_model makes to the scale of the logits (PaLM: 1 / sqrt(d_model)).

    Raises UserError for another depth, and where query heads cannot be distributed over the key/value heads.
    """
    require_width_alone(config.kind, source, target)
    width = {}
    if source.d_model != target.d_model:
        width["embed"] = _split_stream(config, source, target)
    if source.d_ff != target.d_ff:
        width["mlp"] = Units(np.arange(target.d_ff) % source.d_ff, source.d_ff, config.split)
    if (source.n_heads, source.n_kv_heads) != (target.n_heads, target.n_kv_heads):
        width["kv"] = Units(np.arange(target.n_kv_heads) % source.n_kv_heads, source.n_kv_heads, config.split)
        width["heads"] = Units(_split_heads(source, target, width["kv"].index), source.n_heads, config.split)
    return GrowthPlan(source, target, Depth(tuple(range(source.n_layers))), width)


def _split_stream(config: Net2Net, source: Model, target: Model) -> Units:
    index = np.arange(target.d_model) % source.d_model
    if source.norm == "layer":
        index[target.d_model // source.d_model * source.d_model :] = -1
    return Units(index, source.d_model, config.split, written=Fill.MEAN)


def _split_heads(source: Model, target: Model, kv: np.ndarray) -> np.ndarray:
    """The query head that each of the target's copies: a group's heads in turn, over the copies of the group."""
    group, new_group = source.n_heads // source.n_kv_heads, target.n_heads // target.n_kv_heads
    index = np.empty((target.n_kv_heads, new_group), np.int64)
    for old in range(source.n_kv_heads):
        slots = index[kv == old]
        if slots.size < group:
            raise UserError(
                f"the {group} query heads of each key/value head do not fit: n_heads goes from {source.n_heads} to "
                f"{target.n_heads}, n_kv_heads from {source.n_kv_heads} to {target.n_kv_heads}, so that some have only "
                f"{slots.size} places; use a multiple of {source.n_kv_heads} for n_kv_heads, or more heads"
            )
        index[kv == old] = old * group + np.arange(slots.size).reshape(slots.shape) % group
    return index.reshape(-1)


# ---- depth and width ----


@register_planner("zero")
def plan_zero_init(config: ZeroInit, source: Model, target: Model) -> GrowthPlan:
    """Zero initialization: what is new adds nothing at first, and can learn (Du et al. 2024, arXiv 2405.15319, A.4).

    A new block is a copy of an old one whose attention and MLP write nothing. Nothing is written to new units of the
    residual stream (the mean, where LayerNorm subtracts it again), and random weights read them. New heads and units of
    the MLP are written at random, and not read. So every new unit has a gradient; were both sides zero, as in the
    paper's form where d_model stays, the new units of a gated MLP would never have one.

    Norms' scales take the paper's factor sqrt(d / D). That alone changes what the norms' epsilon is compared with, so
    the old part of the residual stream is scaled by sqrt(D / d). Raises UserError where query heads do not fit their
    groups.
    """
    written = Fill.MEAN if source.norm == "layer" else Fill.ZERO
    width = padded_width(source, target, written=written, unread=Fill.ZERO)
    return GrowthPlan(source, target, Depth(padded_blocks(config, source, target), Treatment.ZERO_OUTPUT), width)


@register_planner("random")
def plan_masked(config: MaskedGrowth, source: Model, target: Model) -> GrowthPlan:
    """Random growth under masks (Masked Structural Growth, Yao et al. 2023, arXiv 2305.02869).

    What is new is drawn as the initialization draws it. Masks keep it from adding anything at first;
    `masked_growth.py` ramps them in. Raises UserError where query heads do not fit their groups.
    """
    width = padded_width(source, target, written=Fill.RANDOM, unread=Fill.RANDOM)
    depth = Depth(padded_blocks(config, source, target), Treatment.REDRAW)
    return GrowthPlan(source, target, depth, width, masked=True)


# ---- vocabulary ----


@register_planner("vocabulary")
def plan_vocabulary(config: VocabularyGrowth, source: Model, target: Model) -> GrowthPlan:
    """Append rows to the embedding, and to the head where there is one; every other array is copied.

    Hidden states and the logits of old ids do not change. Where the embedding is also the head (tied), its new rows are
    read and predicted alike. Raises UserError where something else grows.
    """
    require_vocabulary_alone(config.kind, source, target)
    width = {}
    if source.vocab_size != target.vocab_size:
        fill = {"mean": Fill.MEAN, "zero": Fill.ZERO, "random": Fill.RANDOM}[config.init]
        rows = append_units(source.vocab_size, target.vocab_size)
        width["vocab"] = Units(rows, source.vocab_size, written=fill)
    return GrowthPlan(source, target, Depth(tuple(range(source.n_layers))), width)


# ---- two at once ----


@register_planner("compose")
def plan_compose(config: Compose, source: Model, target: Model) -> GrowthPlan:
    """Width by one operator at the source's depth, then depth by another at the target's width, in one step.

    Raises what the two operators raise.
    """
    follows = (*WIDTHS, "embedding_scale")  # which may be the square root of d_model
    wider = source.model_copy(update={name: getattr(target, name) for name in follows})
    width = plan_operator(config.width, source, wider).width
    return GrowthPlan(source, target, plan_operator(config.depth, wider, target).depth, width)
