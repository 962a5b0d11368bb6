"""What a stage learns to predict: the objectives as data. `objectives` makes batches of them.

All but `Causal` make examples of a document's tokens: a mode token (or EOD), inputs, targets, EOD. Denoising follows
UL2 (Tay et al. 2022, arXiv 2205.05131) and UL2R (Tay et al. 2022, arXiv 2210.11399), infilling Bavarian et al. 2022
(arXiv 2207.14255) and CodeGen2 (Nijkamp et al. 2023, arXiv 2305.02309).
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pathways_lite.recipe.base import Frozen

Mode = Literal["s2s", "nlu", "nlg"]
"""Names of the tokens that say which denoiser is asked for: sequential, regular, extreme (UL2R section 2)."""


class Causal(Frozen):
    """Next-token prediction; mean token loss plus z_loss * (log Z)^2 (PaLM section 5)."""

    kind: Literal["causal"] = "causal"
    z_loss: float = Field(1e-4, ge=0)


class SpecialTokens(Frozen):
    """Ids that no text is encoded to: beyond the tokenizer's, or of tokens that it keeps unused.

    A recipe need not name them: resolving it takes the first eight ids beyond the tokenizer's for the named ones, and
    the model's last ids for sentinels, as T5 does.
    """

    s2s: int = Field(ge=0)
    nlu: int = Field(ge=0)
    nlg: int = Field(ge=0)
    prefix: int = Field(ge=0, description="of fill-in-the-middle, as the next two")
    suffix: int = Field(ge=0)
    middle: int = Field(ge=0)
    separator: int = Field(ge=0, description="of CodeGen2: between a text with masks and what they stand for")
    end_of_span: int = Field(ge=0, description="of CodeGen2: after each of these")
    first_sentinel: int = Field(ge=0, description="sentinel i has the id first_sentinel - i")
    sentinels: int = Field(ge=0, description="how many there are")

    @property
    def named(self) -> dict[str, int]:
        """The tokens that are no sentinels."""
        return {name: getattr(self, name) for name in type(self).model_fields if "sentinel" not in name}

    @property
    def sentinel_ids(self) -> range:
        """The ids of the sentinels, from the first on: they count downwards, as T5's do."""
        return range(self.first_sentinel, self.first_sentinel - self.sentinels, -1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        named = list(self.named.values())
        if self.sentinels > self.first_sentinel + 1:
            raise ValueError(f"{self.sentinels} sentinels do not fit below first_sentinel={self.first_sentinel}")
        if len(set(named)) < len(named) or any(i in self.sentinel_ids for i in named):
            raise ValueError("every special token needs an id of its own")
        return self


class Corruption(Frozen):
    """What all objectives but `Causal` have in common."""

    z_loss: float = Field(1e-4, ge=0)
    layout: Literal["fill", "fixed"] = Field(
        "fill",
        description="fill: examples are as long as fills the sequence; fixed: UL2R's, half of it for inputs and half "
        "for targets, whatever they leave empty",
    )
    tokens: SpecialTokens | None = Field(None, description="ids of special tokens; None: chosen when resolved")


class PrefixLM(Corruption):
    """The S-denoiser: inputs end, and targets begin, at a uniformly chosen token."""

    kind: Literal["prefix_lm"] = "prefix_lm"
    mode: Mode | None = None


class SpanCorruption(Corruption):
    """Random spans give way to sentinels, and are the targets (T5, arXiv 1910.10683): R- and X-denoisers."""

    kind: Literal["span_corruption"] = "span_corruption"
    rate: float = Field(0.15, gt=0, lt=1, description="share of the tokens that is masked")
    mean_span: float = Field(3.0, ge=1, description="tokens")
    mode: Mode | None = None


class FillInTheMiddle(Corruption):
    """Part of the documents as prefix, suffix, middle (PSM) or suffix, prefix, middle (SPM); the others causal."""

    kind: Literal["fill_in_the_middle"] = "fill_in_the_middle"
    rate: float = Field(0.5, ge=0, le=1, description="share of the documents; the paper's range is 0.5 to 0.9")
    spm: float = Field(0.5, ge=0, le=1, description="of these, the share in the order SPM")


class CodeGen2(Corruption):
    """Part of the documents with spans behind mask tokens, causal attention and loss everywhere; the others causal.

    A document's share of masked tokens is uniform between `least` and `most`. The paper gives neither these nor the
    spans' lengths, which here are those of T5's algorithm.
    """

    kind: Literal["codegen2"] = "codegen2"
    rate: float = Field(0.5, ge=0, le=1, description="share of the documents")
    least: float = Field(0.0, ge=0, lt=1)
    most: float = Field(0.5, gt=0, lt=1)
    mean_span: float = Field(32.0, ge=1, description="tokens")

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
    """A denoiser and its share of the examples, relative to the others' of a mixture."""

    weight: float = Field(gt=0)
    denoiser: Denoiser


class MixtureOfDenoisers(Corruption):
    """Every example is made by one of several denoisers, chosen at random."""

    members: tuple[WeightedDenoiser, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        defaults = Corruption()
        for denoiser in (member.denoiser for member in self.members):
            for name in Corruption.model_fields:
                if getattr(denoiser, name, default := getattr(defaults, name)) != default:
                    raise ValueError(f"set {name} on the mixture, not on its {denoiser.kind}")
        return self


class Denoisers(MixtureOfDenoisers):
    """Any mixture."""

    kind: Literal["denoisers"] = "denoisers"


def _spans(weight: float, rate: float, mean_span: float, mode: Mode) -> WeightedDenoiser:
    return WeightedDenoiser(weight=weight, denoiser=SpanCorruption(rate=rate, mean_span=mean_span, mode=mode))


def _prefix(weight: float) -> WeightedDenoiser:
    return WeightedDenoiser(weight=weight, denoiser=PrefixLM(mode="s2s"))


class UL2R(MixtureOfDenoisers):
    """Half S, a quarter X, a quarter R (UL2R section 2); X's quarter is shared by its two configurations."""

    kind: Literal["ul2r"] = "ul2r"
    members: tuple[WeightedDenoiser, ...] = Field(
        (_prefix(0.5), _spans(0.125, 0.15, 32, "nlg"), _spans(0.125, 0.5, 3, "nlg"), _spans(0.25, 0.15, 3, "nlu")),
        min_length=1,
    )


class UL2(MixtureOfDenoisers):
    """UL2's seven denoisers (arXiv 2205.05131, table 1) in equal shares; S as in UL2R."""

    kind: Literal["ul2"] = "ul2"
    members: tuple[WeightedDenoiser, ...] = Field(
        (
            _spans(1, 0.15, 3, "nlu"), _spans(1, 0.15, 8, "nlu"),
            _spans(1, 0.5, 3, "nlg"), _spans(1, 0.5, 8, "nlg"), _spans(1, 0.15, 64, "nlg"), _spans(1, 0.5, 64, "nlg"),
            _prefix(1),
        ),
        min_length=1,
    )  # fmt: skip


Objective = Annotated[
    Causal | PrefixLM | SpanCorruption | FillInTheMiddle | CodeGen2 | Denoisers | UL2R | UL2,
    Field(discriminator="kind"),
]
