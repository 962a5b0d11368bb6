"""The data of a stage: which tokens it reads, in which order, and how they are cut into sequences."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from pathways_lite.recipe.base import Amount, Fraction, Frozen
from pathways_lite.recipe.checkpoint_ref import CheckpointRef

__all__ = [
    "Data", "DataMixture", "DomainWeights", "GivenWeights", "LearnedWeights", "MixturePhase", "SeqLenWarmup",
    "Temperature", "UniMax", "cooldown", "upsampling",
]  # fmt: skip

# ---- mixtures: how often each domain is read, and when; `data.mixture` implements them ----


def _sorted_pairs(value: Any) -> Any:
    """Convert a dictionary to sorted pairs, so that a recipe stays immutable and hashable."""
    if not isinstance(value, dict):
        return value
    if wrong := [name for name, number in value.items() if isinstance(number, bool)]:
        raise ValueError(f"{wrong[0]!r} has {value[wrong[0]]!r}; a number is expected here, not true or false")
    return tuple(sorted(value.items()))


ByDomain = Annotated[
    tuple[tuple[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]], ...], BeforeValidator(_sorted_pairs)
]
"""Numbers by domain name; write {"math": 8}."""


class Temperature(Frozen):
    """Weights proportional to size^(1 / tau), some domains upsampled: tau=1 is the corpus, tau=100 nearly uniform."""

    former_names: ClassVar[Mapping[str, str]] = {"upsample": "times"}

    kind: Literal["temperature"] = "temperature"
    tau: float = Field(
        default=1.0, gt=0, description="exponent 1 / tau of domain sizes: 1 is proportional, infinity uniform"
    )
    upsample: ByDomain = Field(default=(), description="factors on the weights of some domains, by name")


class GivenWeights(Frozen):
    """Weights proportional to the numbers given; a domain without a number is not read."""

    kind: Literal["given"] = "given"
    weights: ByDomain = Field(description="(domain, weight) pairs")


class UniMax(Frozen):
    """Uniform weights, capped at `epochs` passes over each domain (Chung et al. 2023, arXiv 2304.09151).

    The cap holds for the domains' shares; what is read of a domain is its share to within a few sequences.
    """

    kind: Literal["unimax"] = "unimax"
    epochs: float = Field(default=4.0, gt=0, description="largest number of passes over a domain in the phase")


class LearnedWeights(CheckpointRef):
    """Weights that a stage with `domain_weights` has learned, averaged over its steps."""

    not_identity: ClassVar[frozenset[str]] = CheckpointRef.not_identity | {"weights"}

    kind: Literal["learned"] = "learned"
    weights: ByDomain | None = Field(default=None, description="filled in as soon as they are known")


DomainWeights = Annotated[Temperature | GivenWeights | UniMax | LearnedWeights, Field(discriminator="kind")]


class MixturePhase(Frozen):
    """Domain weights from one point of the stage's clock until the next phase."""

    start: Amount = Field(default=Fraction(n=0.0), description="of the budget; the first phase starts at 0")
    weights: DomainWeights = Field(default=Temperature(), description="of the domains")


class DataMixture(Frozen):
    """Domain weights, constant in each phase. Every interval holds each domain's share, to within a few sequences.

    by="loss" is scalarization: sequences are read in proportion to the domains' sizes, and a domain that the weights
    would read more often counts more in the loss. The expected gradient is the same, its variance is not (Li et al.
    2024, arXiv 2410.04579).
    """

    phases: tuple[MixturePhase, ...] = Field(
        default=(MixturePhase(),), min_length=1, description="weights by time, in order"
    )
    by: Literal["sampling", "loss"] = Field(
        default="sampling",
        description="sampling reads domains by their weights; loss reads all by size and scales losses",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.phases[0].start.n != 0:
            raise ValueError("the first phase of a mixture must start at 0")
        units = {phase.start.kind for phase in self.phases[1:]}
        starts = [phase.start.n for phase in self.phases]
        if len(units) > 1 or any(b <= a for a, b in itertools.pairwise(starts)):
            raise ValueError(f"the phases of a mixture must start in increasing order, in one unit, not at {starts}")
        return self

    @property
    def learned_weights(self) -> tuple[LearnedWeights, ...]:
        """The weights that another stage learns."""
        return tuple(phase.weights for phase in self.phases if isinstance(phase.weights, LearnedWeights))

    @property
    def untrained_stages(self) -> tuple[str, ...]:
        """The names of the stages that must be trained before all weights are known."""
        return tuple(
            weights.stage for weights in self.learned_weights if weights.stage is not None and weights.weights is None
        )


def cooldown(high: float = 5.0, low: float = 1.0, at: str = "50 %") -> DataMixture:
    """Build a mixture whose temperature drops from `high` to `low` in one step (Li et al. 2024: 5 to 1, at half)."""
    late = MixturePhase.model_validate({"start": at, "weights": Temperature(tau=low)})
    return DataMixture(phases=(MixturePhase(weights=Temperature(tau=high)), late))


def upsampling(times: dict[str, float], last: float = 0.2, tau: float = 1.0) -> DataMixture:
    """Build a mixture that upsamples domains in the `last` fraction of the budget (Blakeney et al., arXiv 2406.03476).

    `times` gives the factor on the weight of each of these domains.
    """
    upsampled = Temperature.model_validate({"tau": tau, "upsample": times})
    late = MixturePhase(start=Fraction(n=1.0 - last), weights=upsampled)
    return DataMixture(phases=(MixturePhase(weights=Temperature(tau=tau)), late))


# ---- the length of sequences over time ----


class SeqLenWarmup(Frozen):
    """Shorter sequences in the first steps (Li et al. 2022, arXiv 2108.06084); the order of the data stays.

    Sequences of `seq_len` tokens are read in their usual order and cut into pieces of the step's length, each a row of
    the batch: no token is left out or read twice.
    """

    steps: tuple[tuple[int, int], ...] = Field(
        description="(first step, tokens per sequence) pairs; the first step is 0, each length divides the next, the "
        "last one is seq_len"
    )
    batch: Literal["tokens", "rows"] = Field(
        default="tokens",
        description="tokens: a batch has the tokens of batch_size full sequences, as more and shorter rows; rows: it "
        "has batch_size rows, and so fewer tokens while they are short",
    )

    def length_at(self, step: int) -> int:
        """Return the tokens per sequence at `step`."""
        return [length for start, length in self.steps if start <= step][-1]

    @model_validator(mode="after")
    def _check(self) -> Self:
        starts, lengths = zip(*self.steps, strict=True) if self.steps else ((), ())
        if not starts or starts[0] != 0 or any(b <= a for a, b in itertools.pairwise(starts)):
            raise ValueError(f"the steps of a warm-up must start at 0 and increase, not {list(starts)}")
        if lengths[0] < 1 or any(b <= a or b % a for a, b in itertools.pairwise(lengths)):
            raise ValueError(
                f"the lengths of a warm-up must grow, each a multiple of the one before, not {list(lengths)}"
            )
        return self


# ---- the token store ----


class Data(Frozen):
    """A token store made by `pathways-lite data build`, read in a keyed random order.

    `batch(step)` is a pure function of this, the batch size and the step: nothing but the step is needed to resume, on
    any number of hosts.
    """

    not_identity: ClassVar[frozenset[str]] = frozenset({"corpus", "workers", "threads", "prefetch"})
    former_names: ClassVar[Mapping[str, str]] = {"rs2_fraction": "round"}

    corpus: str = Field(description="directory (or gs://, s3:// address) of the token store")
    fingerprint: str | None = Field(
        default=None, description="of the store; filled in when the recipe is resolved, then checked"
    )
    seq_len: int = Field(gt=0, description="tokens per sequence")
    seq_len_warmup: SeqLenWarmup | None = Field(
        default=None, description="shorter sequences in the first steps; None: seq_len from the first step on"
    )
    shuffle_seed: int = Field(default=0, ge=0, description="key of the order; PaLM used the same order for all sizes")
    mixture: DataMixture | None = Field(
        default=None,
        description="how often each domain is read; None: every sequence once per epoch, of all domains together",
    )
    rs2_fraction: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="RS2 (arXiv 2305.18424): each round reads a fresh random fraction of the sequences; None: all",
    )
    boundaries: Literal["document", "none"] = Field(
        default="document",
        description="document: attention stays within a document; none: across documents, as PaLM did",
    )
    workers: int = Field(
        default=0, ge=0, description="Grain worker processes; 0 reads in threads of the training process"
    )
    threads: int = Field(default=2, ge=1, description="reading threads")
    prefetch: int = Field(default=8, ge=1, description="batches held ready")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (warmup := self.seq_len_warmup) is not None and (last := warmup.steps[-1][1]) != self.seq_len:
            raise ValueError(
                f"seq_len_warmup ends with sequences of {last} tokens, but seq_len={self.seq_len}; set both"
            )
        if self.mixture is not None and self.rs2_fraction is not None:
            raise ValueError(
                "a mixture reads each domain in its own epochs; set either data.mixture or data.rs2_fraction, not both"
            )
        return self
