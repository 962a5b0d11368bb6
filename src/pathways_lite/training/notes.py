"""Sentences about a stage that works, but not as its recipe may suggest; shown before it trains and by a dry run."""

from __future__ import annotations

from collections.abc import Iterator

from pathways_lite.data.notes import name_some
from pathways_lite.models.accounting import parameter_count
from pathways_lite.models.trainable import trained_parameters
from pathways_lite.objectives.denoisers import DenoiserSpec, ExampleFormat, denoiser_specs
from pathways_lite.recipe import Corruption, MixtureOfDenoisers, Stage, Uniform
from pathways_lite.training.stage import StageSpec

MIN_SPANS = 1.5
"""Below this number of noise spans in an example, span corruption nearly always makes one, at the end."""


def stage_notes(spec: StageSpec) -> list[str]:
    """List what a user should know of a resolved stage before it trains; [] where there is nothing."""
    return [
        *_unread_domains(spec),
        *_reserved_tokens(spec),
        *_single_spans(spec),
        *_compared_denoisers(spec.stage),
        *_frozen_parameters(spec),
    ]


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
