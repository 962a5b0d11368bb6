"""Sentences about a stage that works, but not as its recipe may suggest; shown before it trains and by a dry run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pathways_lite.data.notes import name_some
from pathways_lite.errors import UserError, counted
from pathways_lite.methods import growth
from pathways_lite.models.accounting import parameter_count
from pathways_lite.models.trainable import trained_parameters
from pathways_lite.objectives.denoisers import DenoiserSpec, ExampleFormat, denoiser_specs
from pathways_lite.recipe import (
    Corruption,
    Flops,
    Grow,
    Merge,
    MixtureOfDenoisers,
    Restore,
    Stage,
    Steps,
    Tokens,
    Uniform,
)
from pathways_lite.tracking.formatting import si
from pathways_lite.training.load import load_model
from pathways_lite.training.stage import StageSpec, reference_of

MIN_SPANS = 1.5
"""Below this number of noise spans in an example, span corruption nearly always makes one, at the end."""

_EXCEEDED = 1.1
"""Ratio of what a stage spends to its budget above which a note says so: its last batch is a whole one."""

INHERITS_UNKNOWN = "starts from a model that was trained elsewhere at a cost that is unknown; its FLOPs are those here"


def stage_notes(spec: StageSpec) -> list[str]:
    """List what a user should know of a resolved stage before it trains; [] where there is nothing."""
    return [
        *_unread_domains(spec),
        *_reserved_tokens(spec),
        *_single_spans(spec),
        *_compared_denoisers(spec.stage),
        *_frozen_parameters(spec),
        *_moved_windows(spec),
        *_moments_under_layer_norm(spec),
        *schedule_notes(spec),
    ]


def schedule_notes(spec: StageSpec) -> list[str]:
    """List what a user should know of a stage's budget and schedule; no corpus is read."""
    return [*_long_warmup(spec), *_exceeded_budget(spec)]


def _long_warmup(spec: StageSpec) -> Iterator[str]:
    """Say where the learning rate is still rising at the end."""
    timeline = spec.timeline
    warmup = getattr(spec.stage.optimizer.schedule, "warmup", None)
    if isinstance(warmup, Steps):
        size, total, unit = float(warmup.n), float(timeline.total_steps), "step"
    elif isinstance(warmup, Tokens):
        size, total, unit = float(warmup.n), float(timeline.tokens_before(timeline.total_steps)), "token"
    elif isinstance(warmup, Flops):
        size, total, unit = float(warmup.n), float(timeline.flops_before(timeline.total_steps)), "FLOP"
    else:
        return
    if size > total:
        yield (
            f"the warmup of {size:,.0f} {unit}s is longer than the stage, of {counted(round(total), unit)}, so the "
            f"learning rate ends at {total / size:.0%} of its peak; use a shorter schedule.warmup, or a larger budget"
        )


def _exceeded_budget(spec: StageSpec) -> Iterator[str]:
    """Say where the last whole batch goes far beyond the budget."""
    timeline, budget = spec.timeline, spec.stage.budget
    total = timeline.total_steps
    if isinstance(budget, Tokens):
        spent, unit = timeline.tokens_before(total), "tokens"
    elif isinstance(budget, Flops):
        spent, unit = timeline.flops_before(total), "FLOPs"
    else:
        return
    if spent > _EXCEEDED * budget.n:
        yield (
            f"{counted(total, 'step')} of whole batches {'is' if total == 1 else 'are'} {si(spent, unit)}, "
            f"{spent / budget.n:.3g} times the budget of {si(budget.n, unit)}; use a smaller batch_size, or a larger "
            "budget"
        )


def unknown_costs(stage: Stage) -> list[str]:
    """List the checkpoints that a resolved stage starts from, or refers to, and whose total cost is unknown.

    A stage of the same recipe is none of them: what is unknown of it comes from where it starts. A checkpoint that is
    not there any more is left out. All processes must call this.
    """
    start, reference = stage.start, reference_of(stage)
    paths = [start.path] if isinstance(start, Restore) else []
    paths += [ingredient.path for ingredient in start.checkpoints] if isinstance(start, Merge) else []
    paths += [reference.path] if reference is not None and reference.path else []
    unknown = []
    for path in paths:
        with contextlib.suppress(UserError):
            if load_model(path, examined=False).cost.cost_elsewhere == "unknown":
                unknown.append(path)
    return unknown


def _unread_domains(spec: StageSpec) -> Iterator[str]:
    """Name the domains that have text, but not one sequence."""
    needed = spec.stage.data.seq_len + 1
    sizes = {name: spec.store.tokens(name) for name in spec.store.domains}
    if short := {name: size for name, size in sizes.items() if 0 < size < needed}:
        listed = name_some([f"{name} ({size:,})" for name, size in short.items()])
        yield (
            f"never read, for want of the {needed:,} tokens that a sequence of seq_len={needed - 1} takes: "
            f"{listed}; use a shorter seq_len, or join the domain with others"
        )


def _reserved_tokens(spec: StageSpec) -> Iterator[str]:
    """Name the special tokens that are ids of the tokenizer, whatever text it encodes to them."""
    tokens = getattr(spec.stage.objective, "tokens", None)
    if tokens is None or tokens.s2s >= spec.store.vocab_size:
        return
    tokenizer = spec.store.tokenizer()
    first, last = tokens.first_sentinel - tokens.sentinels + 1, tokens.first_sentinel
    names = [tokenizer.token_name(token) or str(token) for token in (tokens.s2s, tokens.nlu, tokens.nlg, first, last)]
    yield (
        f"special tokens are ids of the tokenizer: {names[0]} (s2s), {names[1]} (nlu), {names[2]} (nlg), sentinels "
        f"{names[3]} to {names[4]}"
    )


def _single_spans(spec: StageSpec) -> Iterator[str]:
    """Name the span corruption that masks one span in a typical example: that is always its end."""
    for denoiser in denoiser_specs(spec.stage.objective):
        n_tokens = _typical_tokens(spec, denoiser)
        noise = denoiser.min_rate * n_tokens
        if denoiser.format is not ExampleFormat.SPANS or noise / denoiser.mean_span >= MIN_SPANS:
            continue
        shorter = int(noise / (2 * MIN_SPANS))
        advice = f"use mean_span={shorter} or less" if shorter else "use longer examples"
        if spec.stage.data.boundaries == "document":
            advice += ", or data.boundaries='none'"
        yield (
            f"spans of {denoiser.mean_span:g} at a rate of {denoiser.min_rate:g} are a single span in examples of "
            f"{n_tokens:,.0f} tokens, which is always their end, as in a prefix LM ({denoiser.weight:.1%} of the "
            f"examples); {advice}"
        )


def _typical_tokens(spec: StageSpec, denoiser: DenoiserSpec) -> float:
    """Return the tokens of a typical example: of a sequence, or of the mean document where documents are examples."""
    objective, data = spec.stage.objective, spec.stage.data
    room = float(data.seq_len - denoiser.extra)
    if data.boundaries == "none" or (isinstance(objective, Corruption) and objective.layout == "fixed"):
        return room
    counts = [spec.store.counts(name) for name in spec.store.domains]
    documents, tokens = sum(c.documents for c in counts), sum(c.tokens for c in counts)
    return min(room, tokens / documents - spec.store.frame.size) if documents else room  # the frame is not masked


def _frozen_parameters(spec: StageSpec) -> Iterator[str]:
    """Say how much is trained where something is frozen."""
    if not spec.trainable.is_all:
        trained = trained_parameters(spec.stage.model, spec.trainable)
        yield f"{trained:,} of {parameter_count(spec.stage.model):,} parameters are trained; the others are frozen"


def _moved_windows(spec: StageSpec) -> Iterator[str]:
    """Say where blocks that growth copies get another window than they were trained with."""
    if (plan := spec.growth_plan) is None:
        return
    kept, given = growth.windows_of_copies(plan), growth.windows_of_layers(plan.target)
    if moved := [number for number, (a, b) in enumerate(zip(kept, given, strict=True), start=1) if a != b]:
        first = moved[0] - 1
        yield (
            f"{len(moved)} of {len(kept)} blocks get another window than the blocks that they copy were trained with, "
            f"the first of them block {moved[0]}: {given[first]} instead of {kept[first]}; to keep them, use "
            f"model.window={growth.shortest_pattern(kept)}"
        )


def _moments_under_layer_norm(spec: StageSpec) -> Iterator[str]:
    """Say what moments cannot know where LayerNorms average over new units of the residual stream."""
    start, plan = spec.stage.start, spec.growth_plan
    if plan is None or not isinstance(start, Grow) or start.optimizer != "grow" or plan.source.norm != "layer":
        return
    if "embed" in plan.width and plan.width["embed"].new.any():
        d = plan.source.d_model
        yield (
            "the moments of what writes to the residual stream are grown without the part that is the same for all "
            f"units: LayerNorm takes its mean over the new ones too, so that part is not known of d_model={d}; a "
            f"multiple of {d} with operator=Net2Net(), or optimizer='reset', has no such difference"
        )


def _compared_denoisers(stage: Stage) -> Iterator[str]:
    """Say where losses of different denoisers are compared with each other, although they predict different tokens."""
    rule = None if stage.reweighting is None else stage.reweighting.rule
    if rule is None or isinstance(rule, Uniform) or not isinstance(stage.objective, MixtureOfDenoisers):
        return
    if len({member.denoiser for member in stage.objective.members}) > 1:
        yield (
            f"reweighting by {rule.kind} compares the losses of different denoisers, which predict different tokens, "
            "so it weighs denoisers rather than texts; use one denoiser, or no reweighting"
        )
