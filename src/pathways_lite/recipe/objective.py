"""Training objectives. The package `objectives` makes batches for them.

All but `Causal` turn a document's tokens into examples: a mode token (or EOD), inputs, targets, EOD (of a corpus with
BOS and EOS these two). Denoising follows
UL2 (Tay et al. 2022, arXiv 2205.05131) and UL2R (Tay et al. 2022, arXiv 2210.11399), infilling Bavarian et al. 2022
(arXiv 2207.14255) and CodeGen2 (Nijkamp et al. 2023, arXiv 2305.02309).
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pathways_lite.recipe.base import Frozen

__all__ = [
    "UL2", "UL2R", "Causal", "CodeGen2", "Corruption", "Denoiser", "Denoisers", "FillInTheMiddle", "MixtureOfDenoisers",
    "Mode", "Objective", "PrefixLM", "SpanCorruption", "SpecialTokens", "WeightedDenoiser",
]  # fmt: skip

Mode = Literal["s2s", "nlu", "nlg"]
"""Names of the mode tokens, which select a denoiser: sequential, regular, extreme (UL2R section 2)."""

_LABEL_SMOOTHING = (
    "fraction of the target distribution that is spread evenly over the vocabulary (arXiv 1512.00567, section 7); "
    "logged and held-out losses stay those of the tokens; None: 0"
)


class Causal(Frozen):
    """Next-token prediction, with mean token loss plus z_loss * (log Z)^2 (PaLM section 5)."""

    kind: Literal["causal"] = "causal"
    z_loss: float = Field(default=1e-4, ge=0, description="weight of (log Z)^2 in the loss")
    label_smoothing: float | None = Field(default=None, ge=0, lt=1, description=_LABEL_SMOOTHING)


class SpecialTokens(Frozen):
    """Ids that no text is encoded to: beyond the tokenizer's vocabulary, or reserved in it.

    A recipe need not set them. Resolving it assigns the first eight ids beyond the vocabulary to the named tokens and
    the model's last ids to sentinels, as T5 does; where those are too few, tokens that the tokenizer holds in reserve,
    such as `<|reserved_special_token_0|>`. A stage that starts from a model with other ones keeps those.
    """

    s2s: int = Field(ge=0, description="mode token of S denoisers")
    nlu: int = Field(ge=0, description="mode token of R denoisers")
    nlg: int = Field(ge=0, description="mode token of X denoisers")
    prefix: int = Field(ge=0, description="of fill-in-the-middle, like the next two")
    suffix: int = Field(ge=0, description="opens the suffix in fill-in-the-middle")
    middle: int = Field(ge=0, description="opens the middle")
    separator: int = Field(ge=0, description="of CodeGen2: between a text with masks and the masked spans")
    end_of_span: int = Field(ge=0, description="of CodeGen2: after each masked span")
    first_sentinel: int = Field(ge=0, description="sentinel i has the id first_sentinel - i")
    sentinels: int = Field(ge=0, description="number of sentinels")

    @property
    def named_ids(self) -> dict[str, int]:
        """The tokens other than sentinels, by name."""
        return {name: getattr(self, name) for name in type(self).model_fields if "sentinel" not in name}

    @property
    def sentinel_ids(self) -> range:
        """The ids of the sentinels in order; they count down, as T5's do."""
        return range(self.first_sentinel, self.first_sentinel - self.sentinels, -1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        named = list(self.named_ids.values())
        if self.sentinels > self.first_sentinel + 1:
            raise ValueError(f"{self.sentinels} sentinels do not fit below first_sentinel={self.first_sentinel}")
        if len(set(named)) < len(named) or any(i in self.sentinel_ids for i in named):
            raise ValueError("every special token needs its own id")
        return self


class Corruption(Frozen):
    """Fields of all objectives but `Causal`."""

    z_loss: float = Field(default=1e-4, ge=0, description="weight of (log Z)^2 in the loss")
    label_smoothing: float | None = Field(default=None, ge=0, lt=1, description=_LABEL_SMOOTHING)
    layout: Literal["fill", "fixed"] = Field(
        default="fill",
        description="fill: examples are sized to fill the sequence; fixed: UL2R's, half of the sequence for inputs and "
        "half for targets, padded where they are shorter",
    )
    tokens: SpecialTokens | None = Field(default=None, description="ids of special tokens; None: chosen when resolved")


class PrefixLM(Corruption):
    """The S-denoiser: inputs end and targets begin at a uniformly chosen token."""

    kind: Literal["prefix_lm"] = "prefix_lm"
    mode: Mode | None = Field(default=None, description="mode token in front of the prefix; None: none")


class SpanCorruption(Corruption):
    """R- and X-denoisers: random spans are replaced by sentinels and are the targets (T5, arXiv 1910.10683)."""

    kind: Literal["span_corruption"] = "span_corruption"
    rate: float = Field(default=0.15, gt=0, lt=1, description="fraction of the tokens that is masked")
    mean_span: float = Field(default=3.0, ge=1, description="tokens")
    mode: Mode | None = Field(default=None, description="mode token in front of the input; None: none")


class FillInTheMiddle(Corruption):
    """Some documents as prefix, suffix, middle (PSM) or suffix, prefix, middle (SPM), the others causal.

    A document is cut between tokens; the paper cuts between characters, so that a model also completes parts of tokens.
    """

    kind: Literal["fill_in_the_middle"] = "fill_in_the_middle"
    rate: float = Field(
        default=0.5, ge=0, le=1, description="fraction of the documents; the paper's range is 0.5 to 0.9"
    )
    spm: float = Field(default=0.5, ge=0, le=1, description="fraction of these in SPM order")
    spm_variant: Literal[1, 2] | None = Field(
        default=None,
        description="1 (default): SUFFIX suffix PREFIX prefix MIDDLE middle; 2: PREFIX SUFFIX suffix MIDDLE prefix "
        "middle, the paper's choice for joint training (appendix D), where the middle follows its prefix directly",
    )


class CodeGen2(Corruption):
    """Some documents with masked spans moved to the end, causal attention and loss everywhere; the others causal.

    A document's fraction of masked tokens is uniform between `least` and `most`. The paper gives neither these nor the
    lengths of the spans, which are those of T5's algorithm here.
    """

    kind: Literal["codegen2"] = "codegen2"
    rate: float = Field(default=0.5, ge=0, le=1, description="fraction of the documents")
    least: float = Field(default=0.0, ge=0, lt=1, description="shortest corrupted span")
    most: float = Field(default=0.5, gt=0, lt=1, description="longest corrupted span")
    mean_span: float = Field(default=32.0, ge=1, description="tokens")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.least > self.most:
            raise ValueError(f"least={self.least} is above most={self.most}")
        return self


Denoiser = Annotated[
    Causal | PrefixLM | SpanCorruption | FillInTheMiddle | CodeGen2,
    Field(discriminator="kind"),
]


class WeightedDenoiser(Frozen):
    """A denoiser and its weight in a mixture: its number of examples relative to the others'."""

    weight: float = Field(gt=0, description="relative frequency")
    denoiser: Denoiser = Field(description="objective of these examples")


class MixtureOfDenoisers(Corruption):
    """Base of mixtures: each example is made by one of several denoisers, chosen at random."""

    members: tuple[WeightedDenoiser, ...] = Field(min_length=1, description="denoisers with their frequencies")

    @model_validator(mode="after")
    def _check(self) -> Self:
        defaults = Corruption()
        for denoiser in (member.denoiser for member in self.members):
            for name in Corruption.model_fields:
                if getattr(denoiser, name, default := getattr(defaults, name)) != default:
                    raise ValueError(f"set {name} on the mixture, not on its {denoiser.kind}")
        return self


class Denoisers(MixtureOfDenoisers):
    """A custom mixture of denoisers."""

    kind: Literal["denoisers"] = "denoisers"


def _span_corruption(weight: float, rate: float, mean_span: float, mode: Mode) -> WeightedDenoiser:
    return WeightedDenoiser(weight=weight, denoiser=SpanCorruption(rate=rate, mean_span=mean_span, mode=mode))


def _prefix_lm(weight: float) -> WeightedDenoiser:
    return WeightedDenoiser(weight=weight, denoiser=PrefixLM(mode="s2s"))


class UL2R(MixtureOfDenoisers):
    """UL2R's mixture: half S, a quarter X, a quarter R (section 2); the two X-denoisers share their quarter."""

    kind: Literal["ul2r"] = "ul2r"
    members: tuple[WeightedDenoiser, ...] = Field(
        default=(
            _prefix_lm(0.5),
            _span_corruption(0.125, 0.15, 32, "nlg"),
            _span_corruption(0.125, 0.5, 3, "nlg"),
            _span_corruption(0.25, 0.15, 3, "nlu"),
        ),
        min_length=1,
        description="denoisers with their frequencies",
    )


class UL2(MixtureOfDenoisers):
    """UL2's seven denoisers (arXiv 2205.05131, table 1) with equal weights; S as in UL2R."""

    kind: Literal["ul2"] = "ul2"
    members: tuple[WeightedDenoiser, ...] = Field(
        default=(
            _span_corruption(1, 0.15, 3, "nlu"),
            _span_corruption(1, 0.15, 8, "nlu"),
            _span_corruption(1, 0.5, 3, "nlg"),
            _span_corruption(1, 0.5, 8, "nlg"),
            _span_corruption(1, 0.15, 64, "nlg"),
            _span_corruption(1, 0.5, 64, "nlg"),
            _prefix_lm(1),
        ),
        min_length=1,
        description="denoisers with their frequencies",
    )


Objective = Annotated[
    Causal | PrefixLM | SpanCorruption | FillInTheMiddle | CodeGen2 | Denoisers | UL2R | UL2,
    Field(discriminator="kind"),
]
