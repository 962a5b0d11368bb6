"""Denoisers: an objective as a flat list of ways to make an example, with the special tokens that these need.

UL2 (Tay et al. 2022, arXiv 2205.05131) and UL2R (arXiv 2210.11399) mix three kinds of denoisers: R, regular span
corruption as in T5 (arXiv 1910.10683); X, extreme span corruption, with long noise spans or a high rate; and S,
sequential denoising, a prefix LM. Fill-in-the-middle (arXiv 2207.14255) and CodeGen2 (arXiv 2305.02309) fit the same
description. `denoiser_specs` flattens any of them, and any mixture, to numbers.
`recipe/objective.py` defines them; `batches.py` makes examples by them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np

from pathways_lite.document_frame import DocumentFrame
from pathways_lite.errors import UserError
from pathways_lite.objectives.span_corruption import count_noise
from pathways_lite.recipe.base import Frozen
from pathways_lite.recipe.objective import (
    Causal,
    CodeGen2,
    Corruption,
    Denoisers,
    FillInTheMiddle,
    MixtureOfDenoisers,
    Mode,
    Objective,
    PrefixLM,
    SpanCorruption,
    SpecialTokens,
    WeightedDenoiser,
)

# ---- denoisers ----


class ExampleFormat(IntEnum):
    """The layout of an example; `segments` draws them."""

    CAUSAL = 0
    PREFIX = 1
    SPANS = 2
    PSM = 3
    SPM = 4
    CODEGEN2 = 5
    SPM_JOINT = 6  # variant 2 of SPM


class DenoiserSpec(NamedTuple):
    """A denoiser flattened to numbers.

    An example of `n` tokens takes `extra + n + per_span * noise_spans` positions.
    """

    weight: float
    format: ExampleFormat
    extra: int
    per_span: int = 0
    min_tokens: int = 0  # shorter examples are causal
    min_rate: float = 0.0  # bounds of the fraction of tokens that is noise
    max_rate: float = 0.0
    mean_span: float = 1.0
    mode: Mode | None = None


def denoiser_specs(objective: Objective) -> list[DenoiserSpec]:
    """Flatten `objective` to its denoisers, one for every format and setting; the weights add up to 1."""
    specs = _flatten(objective, 1.0)
    total = sum(spec.weight for spec in specs)
    return [spec._replace(weight=spec.weight / total) for spec in specs if spec.weight]


def _flatten(objective: Objective, weight: float) -> list[DenoiserSpec]:
    match objective:
        case MixtureOfDenoisers():
            return [spec for m in objective.members for spec in _flatten(m.denoiser, weight * m.weight)]
        case PrefixLM(mode=mode):
            return [DenoiserSpec(weight, ExampleFormat.PREFIX, extra=1, min_tokens=2, mode=mode)]
        case SpanCorruption(rate=r, mean_span=span, mode=mode):
            spec = DenoiserSpec(weight, ExampleFormat.SPANS, 1, 2, 2, min_rate=r, max_rate=r, mean_span=span, mode=mode)
            return [spec]
        case FillInTheMiddle(rate=rate, spm=spm, spm_variant=variant):
            suffix_first = ExampleFormat.SPM_JOINT if variant == 2 else ExampleFormat.SPM
            rates = {ExampleFormat.PSM: rate * (1 - spm), suffix_first: rate * spm}
            infilling = [DenoiserSpec(weight * r, format, extra=3, min_tokens=1) for format, r in rates.items()]
            return [*infilling, *_flatten(Causal(), weight * (1 - rate))]
        case CodeGen2(rate=rate, least=least, most=most, mean_span=span):
            # Opening token, the text with its masks, end, separator; then for every noise span its mask and its end.
            masked = DenoiserSpec(weight * rate, ExampleFormat.CODEGEN2, 3, 3, 3, least, most, span)
            return [masked, *_flatten(Causal(), weight * (1 - rate))]
        case Causal():
            return [DenoiserSpec(weight, ExampleFormat.CAUSAL, extra=1)]
    raise AssertionError(objective)


def split_mixture(objective: Corruption) -> dict[str, Objective]:
    """Return an objective for each denoiser that `objective` mixes, by the denoiser's label.

    Different denoisers with the same label are numbered, from the second on.
    """
    if not isinstance(objective, MixtureOfDenoisers):
        return {denoiser_label(objective): _without_causal_share(objective)}
    denoisers: dict[str, Any] = {}
    for denoiser in dict.fromkeys(_without_causal_share(member.denoiser) for member in objective.members):
        label = denoiser_label(denoiser)
        same_label = sum(denoiser_label(other) == label for other in denoisers.values())
        denoisers[f"{label}_{same_label + 1}" if same_label else label] = denoiser
    common = {name: getattr(objective, name) for name in Corruption.model_fields}
    return {
        label: Denoisers(**{**common, "members": (WeightedDenoiser(weight=1, denoiser=denoiser),)})
        for label, denoiser in denoisers.items()
    }


def infilling_denoiser(objective: Objective) -> SpanCorruption | CodeGen2 | FillInTheMiddle | None:
    """Return the denoiser of `objective` whose examples are like the prompts that ask for gaps; None if there is none.

    Span corruption comes before CodeGen2 and fill-in-the-middle, and regular span corruption (mode nlu) before other
    modes. All of its examples have gaps; those of fill-in-the-middle are prefix, suffix, middle, so that only the
    middle is read after what follows it.
    """
    if isinstance(objective, Causal):
        return None
    mixture = objective.members if isinstance(objective, MixtureOfDenoisers) else ()
    members: list[Objective] = [member.denoiser for member in mixture] or [objective]
    candidates: list[SpanCorruption | CodeGen2 | FillInTheMiddle] = [
        *sorted((d for d in members if isinstance(d, SpanCorruption)), key=lambda d: d.mode != "nlu"),
        *(d.model_copy(update={"rate": 1.0}) for d in members if isinstance(d, CodeGen2) and d.rate),
        *(
            d.model_copy(update={"rate": 1.0, "spm": 0.0})
            for d in members
            if isinstance(d, FillInTheMiddle) and d.rate and d.spm < 1
        ),
    ]
    common = {"layout": objective.layout, "tokens": objective.tokens}
    return candidates[0].model_copy(update=common) if candidates else None


def denoiser_label(denoiser: Frozen) -> str:
    """Return a short name, as in logs."""
    if isinstance(denoiser, SpanCorruption):
        return f"spans_{denoiser.mean_span:g}_{denoiser.rate:g}"
    return str(denoiser.kind)  # type: ignore[attr-defined]


def _without_causal_share(denoiser: Any) -> Any:
    """Drop the documents that an infilling denoiser leaves causal, unless it leaves all of them."""
    mixed = isinstance(denoiser, FillInTheMiddle | CodeGen2) and denoiser.rate > 0
    return denoiser.model_copy(update={"rate": 1.0}) if mixed else denoiser


# ---- sizes of examples ----


class SizeParams(NamedTuple):
    """What decides the number of positions of an example: an entry per denoiser, or per example."""

    extra: np.ndarray
    per_span: np.ndarray
    min_tokens: np.ndarray
    mean_span: np.ndarray
    min_clean_after: np.ndarray  # tokens after the last noise span: text follows CodeGen2's, but not T5's

    def select(self, index: np.ndarray) -> SizeParams:
        """Return the entries at `index`, integers or a mask."""
        return SizeParams(*(values[index] for values in self))


def size_params(specs: Sequence[DenoiserSpec]) -> SizeParams:
    """Return an entry per denoiser."""
    rows = [(s.extra, s.per_span, s.min_tokens, s.mean_span, int(s.format is ExampleFormat.CODEGEN2)) for s in specs]
    return SizeParams(*map(np.array, zip(*rows, strict=True)))


def measure_examples(
    params: SizeParams, n_tokens: np.ndarray, rate: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count noise tokens, noise spans and positions of examples of `n_tokens`, of which the fraction `rate` is noise.

    Examples that are too short for their denoiser are causal: a start token and the text.
    """
    noise_tokens, noise_spans = count_noise(n_tokens, rate, params.mean_span, params.min_clean_after)
    has_noise = params.per_span > 0
    noise_tokens, noise_spans = np.where(has_noise, noise_tokens, 0), np.where(has_noise, noise_spans, 0)
    n_positions = params.extra + n_tokens + params.per_span * noise_spans
    return noise_tokens, noise_spans, np.where(n_tokens < params.min_tokens, 1 + n_tokens, n_positions)


# ---- special tokens: ids that a recipe declares, or else ids that the tokenizer leaves unused ----


_NAMED = [name for name in SpecialTokens.model_fields if "sentinel" not in name]


def needs_special_tokens(objective: Objective) -> bool:
    """Return whether examples have other tokens than the text's and those around documents."""
    plain = (ExampleFormat.CAUSAL, ExampleFormat.PREFIX)
    return any(spec.format not in plain or spec.mode is not None for spec in denoiser_specs(objective))


def count_needed_sentinels(objective: Objective, seq_len: int) -> int:
    """Return the largest number of noise spans that an example of at most `seq_len` positions can have."""
    n_tokens = np.arange(seq_len + 1)
    needed = 0
    for spec in denoiser_specs(objective):
        params = size_params([spec])
        # More noise would make more noise spans, but leaves fewer clean tokens to separate them.
        peak = (n_tokens - params.min_clean_after) * spec.mean_span / (1.0 + spec.mean_span)
        noise_tokens = np.floor(peak)[:, None] + np.arange(-1, 3)
        rate = np.clip(noise_tokens / np.maximum(n_tokens, 1)[:, None], spec.min_rate, spec.max_rate)
        _, noise_spans, n_positions = measure_examples(params, n_tokens[:, None], rate)
        needed = max(needed, int(np.where(n_positions <= seq_len, noise_spans, 0).max()))
    return needed


def default_special_tokens(
    text_ids: int, vocab_size: int, *, needed: int = 1, reserved: Callable[[], Sequence[int]] = tuple
) -> SpecialTokens | None:
    """Choose the special tokens of a model whose tokenizer leaves ids unused; None if it leaves too few.

    The named tokens take the first ids after the tokenizer's, the sentinels the last ones, as in T5. The choice depends
    on nothing else, so that all stages of a model agree. Where that leaves fewer than `needed` sentinels, the tokens
    that the tokenizer has in `reserved`, ascending ids, are taken instead, if they leave enough.
    """
    sentinels = vocab_size - text_ids - len(_NAMED)
    if sentinels < needed:
        tokens = reserved_special_tokens(reserved())
        if tokens is not None and tokens.sentinels >= needed:
            return tokens
    if sentinels < 1:
        return None
    named = {name: text_ids + i for i, name in enumerate(_NAMED)}
    return SpecialTokens(**named, first_sentinel=vocab_size - 1, sentinels=sentinels)


def reserved_special_tokens(reserved: Sequence[int]) -> SpecialTokens | None:
    """Choose special tokens among ascending reserved ids; None if there are too few.

    The named tokens take the first ones, the sentinels the longest run of consecutive ids among the others.
    """
    named, others = reserved[: len(_NAMED)], np.asarray(reserved[len(_NAMED) :], np.int64)
    if not len(others):
        return None
    runs = np.split(others, np.flatnonzero(np.diff(others) != 1) + 1)
    longest = max(runs, key=len)
    ids = dict(zip(_NAMED, map(int, named), strict=True))
    return SpecialTokens(**ids, first_sentinel=int(longest[-1]), sentinels=len(longest))


def resolve_special_tokens(
    objective: Objective,
    *,
    seq_len: int,
    text_ids: int,
    vocab_size: int,
    frame: DocumentFrame,
    reserved: Callable[[], Sequence[int]] = tuple,
    kept: Callable[[], SpecialTokens | None] = lambda: None,
) -> Objective:
    """Return `objective` with the ids of the special tokens that its examples need.

    Args:
      reserved: returns the ids, ascending, that the tokenizer holds in reserve; called where no others are left.
      kept: returns those of the model that the stage starts from, where they are to keep their meaning; called where
        the objective declares none.

    Raises:
      UserError: the model has too few ids (the message says how many are needed), or the declared ids do not fit.
    """
    if isinstance(objective, Causal) or not needs_special_tokens(objective):
        return objective
    sentinels = count_needed_sentinels(objective, seq_len)
    declared = objective.tokens or kept()
    tokens = declared or default_special_tokens(text_ids, vocab_size, needed=sentinels, reserved=reserved)
    if tokens is None or (declared is None and tokens.sentinels < sentinels):
        needed = len(_NAMED) + sentinels
        raise UserError(
            f"objective {objective.kind} needs {needed} special tokens for seq_len={seq_len} ({sentinels} sentinels "
            f"and {len(_NAMED)} named ones), but of the model's {vocab_size} ids the tokenizer leaves "
            f"{max(0, vocab_size - text_ids)}; set model.vocab_size to at least {text_ids + needed} in all stages, "
            f"or in this one alone with start=Grow(operator=VocabularyGrowth()); a checkpoint of another model gets "
            f"them by: pathways-lite grow CHECKPOINT OUT --operator vocabulary model.vocab_size={text_ids + needed}. "
            f"Or declare ids that the corpus does not use: objective.tokens=SpecialTokens(...)"
        )
    if tokens.sentinels < sentinels:
        whose = "objective.tokens declares" if objective.tokens else "the model that the stage starts from has"
        raise UserError(
            f"objective {objective.kind} needs {sentinels} sentinels for seq_len={seq_len}, but {whose} "
            f"{tokens.sentinels}; declare others by objective.tokens=SpecialTokens(...)"
        )
    largest = max(*tokens.named_ids.values(), tokens.first_sentinel)
    if largest >= vocab_size:
        raise UserError(f"objective.tokens declares id {largest}, but the model has vocab_size={vocab_size}")
    for token, verb in zip(frame.ids, ("opens", "closes"), strict=False):
        if token in tokens.named_ids.values() or token in tokens.sentinel_ids:
            raise UserError(f"objective.tokens declares id {token}, which {verb} every document; choose others")
    return objective.model_copy(update={"tokens": tokens})


class SpecialIds(NamedTuple):
    """The ids of all tokens that are no text: those around documents, and an objective's special tokens, if any."""

    frame: DocumentFrame
    tokens: SpecialTokens | None

    def id(self, name: str) -> int:
        """Return the id of a field of `SpecialTokens`."""
        assert self.tokens is not None
        return int(getattr(self.tokens, name))

    def start_token(self, mode: Mode | None) -> int:
        """Return the token that opens an example: its denoiser's mode token, or the documents' own."""
        return self.frame.opens if mode is None else self.id(mode)

    def sentinel(self, number: np.ndarray) -> np.ndarray:
        """Return the ids of sentinels by their number, from 0 on."""
        return self.id("first_sentinel") - number

    def is_text(self, token: int) -> bool:
        """Return whether `token` stands for text."""
        if token in self.frame.ids:
            return False
        tokens = self.tokens
        return tokens is None or (token not in tokens.named_ids.values() and token not in tokens.sentinel_ids)
