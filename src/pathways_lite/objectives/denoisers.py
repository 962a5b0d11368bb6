"""An objective as a flat list of ways to make an example, and the special tokens that these need."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.objectives.span_corruption import noise_counts
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


class ExampleFormat(IntEnum):
    """What an example looks like."""

    CAUSAL = 0
    PREFIX = 1
    SPANS = 2
    PSM = 3
    SPM = 4
    CODEGEN2 = 5


class DenoiserSpec(NamedTuple):
    """One way to make an example of n tokens, in `extra + n + per_span * spans` positions.

    `least` and `most` bound the share of masked tokens, `shortest` is the fewest tokens that it can be made of.
    """

    weight: float
    form: ExampleFormat
    extra: int
    per_span: int = 0
    shortest: int = 0
    least: float = 0.0
    most: float = 0.0
    mean_span: float = 1.0
    mode: Mode | None = None


def denoiser_specs(objective: Objective) -> list[DenoiserSpec]:
    """The members of `objective`, one for every form and setting; weights add up to 1."""
    found = _members(objective, 1.0)
    total = sum(member.weight for member in found)
    return [member._replace(weight=member.weight / total) for member in found if member.weight]


def one_by_one(objective: Corruption) -> dict[str, Objective]:
    """For each of the denoisers that `objective` mixes, an objective that is nothing but it; by their labels.

    Different denoisers of one label are numbered, from the second on.
    """
    if isinstance(objective, MixtureOfDenoisers):
        parts: dict[str, Any] = {}
        for denoiser in dict.fromkeys(_pure(part.denoiser) for part in objective.members):
            alike = sum(label(other) == label(denoiser) for other in parts.values())
            parts[f"{label(denoiser)}_{alike + 1}" if alike else label(denoiser)] = denoiser
        return {
            name: Denoisers(**{**_common(objective), "members": (WeightedDenoiser(weight=1, denoiser=denoiser),)})
            for name, denoiser in parts.items()
        }
    return {label(objective): _pure(objective)}


def _common(objective: Corruption) -> dict[str, Any]:
    return {name: getattr(objective, name) for name in Corruption.model_fields}


def label(objective: Frozen) -> str:
    """A short name of a denoiser."""
    if isinstance(objective, SpanCorruption):
        return f"spans_{objective.mean_span:g}_{objective.rate:g}"
    return str(objective.kind)  # type: ignore[attr-defined]


def _pure(denoiser: Any) -> Any:
    """Without the documents that an infilling leaves causal, unless it leaves all of them."""
    mixed = isinstance(denoiser, FillInTheMiddle | CodeGen2) and denoiser.rate > 0
    return denoiser.model_copy(update={"rate": 1.0}) if mixed else denoiser


def _members(objective: Objective, weight: float) -> list[DenoiserSpec]:
    match objective:
        case MixtureOfDenoisers():
            return [m for part in objective.members for m in _members(part.denoiser, weight * part.weight)]
        case PrefixLM(mode=mode):
            return [DenoiserSpec(weight, ExampleFormat.PREFIX, extra=1, shortest=2, mode=mode)]
        case SpanCorruption(rate=r, mean_span=span, mode=mode):
            return [DenoiserSpec(weight, ExampleFormat.SPANS, 1, 2, 2, least=r, most=r, mean_span=span, mode=mode)]
        case FillInTheMiddle(rate=rate, spm=spm):
            shares = {ExampleFormat.PSM: rate * (1 - spm), ExampleFormat.SPM: rate * spm}
            filled = [DenoiserSpec(weight * share, form, extra=3, shortest=1) for form, share in shares.items()]
            return [*filled, *_members(Causal(), weight * (1 - rate))]
        case CodeGen2(rate=rate, least=least, most=most, mean_span=span):
            # EOD, the text with its masks, EOD, separator, then for every span its mask and its end.
            masked = DenoiserSpec(weight * rate, ExampleFormat.CODEGEN2, 3, 3, 3, least, most, span)
            return [masked, *_members(Causal(), weight * (1 - rate))]
        case Causal():
            return [DenoiserSpec(weight, ExampleFormat.CAUSAL, extra=1)]
    raise AssertionError(objective)


def sentinels_needed(objective: Objective, seq_len: int) -> int:
    """The most spans that an example of at most `seq_len` positions can have."""
    n = np.arange(seq_len + 1)
    most = 0
    for member in denoiser_specs(objective):
        sizes = sizes_of([member])
        # The more noise, the more spans there could be, but the fewer clean tokens to stand between them.
        peak = (n - sizes.clean_after) * member.mean_span / (1.0 + member.mean_span)
        noise = np.floor(peak)[:, None] + np.arange(-1, 3)
        rate = np.clip(noise / np.maximum(n, 1)[:, None], member.least, member.most)
        _, spans, size = measure_examples(sizes, n[:, None], rate)
        most = max(most, int(np.where(size <= seq_len, spans, 0).max()))
    return most


def needs_special_tokens(objective: Objective) -> bool:
    """Whether any example has other tokens than the text's and EOD."""
    plain = (ExampleFormat.CAUSAL, ExampleFormat.PREFIX)
    return any(member.form not in plain or member.mode is not None for member in denoiser_specs(objective))


class ExampleSizes(NamedTuple):
    """What decides how many positions an example takes: a value for each of some examples, or of the members."""

    extra: np.ndarray
    per_span: np.ndarray
    shortest: np.ndarray
    mean_span: np.ndarray
    clean_after: np.ndarray  # tokens that the last span leaves behind it: CodeGen2's is followed by text, T5's is not

    def of(self, chosen: np.ndarray) -> ExampleSizes:
        return ExampleSizes(*(values[chosen] for values in self))


def sizes_of(members: Sequence[DenoiserSpec]) -> ExampleSizes:
    """One value for each member."""
    rows = [(m.extra, m.per_span, m.shortest, m.mean_span, int(m.form is ExampleFormat.CODEGEN2)) for m in members]
    return ExampleSizes(*map(np.array, zip(*rows, strict=True)))


def measure_examples(sizes: ExampleSizes, n: np.ndarray, rate: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masked tokens, spans and positions of examples of `n` tokens, of which the share `rate` is masked.

    Those that are too short for their member are continued as they are.
    """
    noise, spans = noise_counts(n, rate, sizes.mean_span, sizes.clean_after)
    masked = sizes.per_span > 0
    noise, spans = np.where(masked, noise, 0), np.where(masked, spans, 0)
    return noise, spans, np.where(n < sizes.shortest, 1 + n, sizes.extra + n + sizes.per_span * spans)


# Where the ids of special tokens come from: a recipe that declares them, or those that no text is encoded to.


_NAMED = [name for name in SpecialTokens.model_fields if "sentinel" not in name]


def unused_ids(text_ids: int, vocab_size: int) -> SpecialTokens | None:
    """The special tokens of a model of `vocab_size` whose tokenizer has `text_ids`; None where too few ids are left.

    They depend on nothing else, so that all stages of a model agree about them.
    """
    sentinels = vocab_size - text_ids - len(_NAMED)
    if sentinels < 1:
        return None
    named = {name: text_ids + i for i, name in enumerate(_NAMED)}
    return SpecialTokens(**named, first_sentinel=vocab_size - 1, sentinels=sentinels)


def with_special_tokens(objective: Objective, *, seq_len: int, text_ids: int, vocab_size: int, eod: int) -> Objective:
    """`objective` with the ids of the special tokens that its examples need.

    Raises UserError, with the number that is needed, where the model has too few, or where those declared do not do.
    """
    if isinstance(objective, Causal) or not needs_special_tokens(objective):
        return objective
    sentinels = sentinels_needed(objective, seq_len)
    tokens = objective.tokens or unused_ids(text_ids, vocab_size)
    if tokens is None or (objective.tokens is None and tokens.sentinels < sentinels):
        needed = len(_NAMED) + sentinels
        raise UserError(
            f"objective {objective.kind} needs {needed} special tokens for seq_len={seq_len} ({sentinels} sentinels "
            f"and {len(_NAMED)} named ones), but of the model's {vocab_size} ids the tokenizer leaves "
            f"{max(0, vocab_size - text_ids)}; set model.vocab_size to at least {text_ids + needed} in all stages, "
            f"or declare ids that the corpus does not use: objective.tokens=SpecialTokens(...)"
        )
    if tokens.sentinels < sentinels:
        raise UserError(
            f"objective {objective.kind} needs {sentinels} sentinels for seq_len={seq_len}, but objective.tokens "
            f"declares {tokens.sentinels}"
        )
    ids = [*tokens.named.values(), tokens.first_sentinel]
    if max(ids) >= vocab_size:
        raise UserError(f"objective.tokens declares id {max(ids)}, but the model has vocab_size={vocab_size}")
    if eod in tokens.named.values() or tokens.first_sentinel - tokens.sentinels < eod <= tokens.first_sentinel:
        raise UserError(f"objective.tokens declares id {eod}, which opens every document; choose others")
    return objective.model_copy(update={"tokens": tokens})
