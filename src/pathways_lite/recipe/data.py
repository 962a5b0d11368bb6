"""Which tokens a stage reads, in which order, and how they are cut into sequences."""

from __future__ import annotations

import itertools
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from pathways_lite.recipe.base import Amount, Fraction, Frozen
from pathways_lite.recipe.checkpoint_ref import CheckpointRef

# How often each domain of a corpus is read, and when: mixtures as data. `data.mixture` carries them out.


def _pairs(value: Any) -> Any:
    """A dictionary as pairs, so that a recipe stays immutable and hashable."""
    return tuple(sorted(value.items())) if isinstance(value, dict) else value


ByDomain = Annotated[tuple[tuple[str, Annotated[float, Field(ge=0)]], ...], BeforeValidator(_pairs)]
"""Numbers by the domain's name: write {"math": 8}."""


class Temperature(Frozen):
    """In proportion to size^(1 / tau): 1 as the corpus is, 100 nearly uniform; some domains so many times that."""

    kind: Literal["temperature"] = "temperature"
    tau: float = Field(1.0, gt=0)
    times: ByDomain = ()


class GivenWeights(Frozen):
    """In proportion to what is given; a domain that is not named is not read."""

    kind: Literal["given"] = "given"
    weights: ByDomain


class UniMax(Frozen):
    """As uniform as can be without reading a domain more often than `epochs` (Chung et al. 2023, arXiv 2304.09151)."""

    kind: Literal["unimax"] = "unimax"
    epochs: float = Field(4.0, gt=0, description="most, over the phase")


class LearnedWeights(CheckpointRef):
    """What a stage with `domain_weights` has learned: their average over its steps."""

    not_identity: ClassVar[frozenset[str]] = CheckpointRef.not_identity | {"weights"}

    kind: Literal["learned"] = "learned"
    weights: ByDomain | None = Field(None, description="filled in as soon as they are known")


DomainWeights = Annotated[Temperature | GivenWeights | UniMax | LearnedWeights, Field(discriminator="kind")]


class MixturePhase(Frozen):
    """Weights of domains from a point of the stage's clock on."""

    start: Amount = Fraction(n=0.0)
    weights: DomainWeights = Temperature()


class DataMixture(Frozen):
    """Weights of domains, constant in each phase; in any stretch each domain has its share, to within a few sequences.

    by="loss" is scalarization: sequences are read in proportion to the domains' sizes, and what the weights would read
    more often counts more in the loss. The expected gradient is the same, its variance is not (Li et al. 2024,
    arXiv 2410.04579).
    """

    phases: tuple[MixturePhase, ...] = Field((MixturePhase(),), min_length=1)
    by: Literal["sampling", "loss"] = "sampling"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.phases[0].start.n != 0:
            raise ValueError("the first phase of a mixture starts at 0")
        kinds = {phase.start.kind for phase in self.phases[1:]}
        starts = [phase.start.n for phase in self.phases]
        if len(kinds) > 1 or any(b <= a for a, b in itertools.pairwise(starts)):
            raise ValueError(f"phases of a mixture start later and later, in one unit, not at {starts}")
        return self

    @property
    def learned(self) -> tuple[LearnedWeights, ...]:
        """What of it is learned."""
        return tuple(phase.weights for phase in self.phases if isinstance(phase.weights, LearnedWeights))

    @property
    def unknown(self) -> tuple[str, ...]:
        """The stages that have to be trained before all weights are known."""
        return tuple(one.stage for one in self.learned if one.stage is not None and one.weights is None)


def cooldown(high: float = 5.0, low: float = 1.0, at: str = "50 %") -> DataMixture:
    """Temperature sampling that goes from `high` to `low` at once (Li et al. 2024: 5 to 1, at half)."""
    late = MixturePhase.model_validate({"start": at, "weights": Temperature(tau=low)})
    return DataMixture(phases=(MixturePhase(weights=Temperature(tau=high)), late))


def upsampling(times: dict[str, float], last: float = 0.2, tau: float = 1.0) -> DataMixture:
    """Some domains so many times as often in the `last` share of the budget (Blakeney et al., arXiv 2406.03476)."""
    many = Temperature.model_validate({"tau": tau, "times": times})
    late = MixturePhase(start=Fraction(n=1.0 - last), weights=many)
    return DataMixture(phases=(MixturePhase(weights=Temperature(tau=tau)), late))


class Data(Frozen):
    """A token store made by `pathways-lite data build`, read in a keyed random order.

    `batch(step)` is a pure function of this, the batch size and the step: nothing but the step is needed
    to resume, on any number of hosts.
    """

    not_identity: ClassVar[frozenset[str]] = frozenset({"corpus", "workers", "threads", "prefetch"})

    corpus: str = Field(description="directory (or gs://, s3:// address) of the token store")
    fingerprint: str | None = Field(
        None, description="of the store; filled in when the recipe is resolved, then checked"
    )
    seq_len: int = Field(gt=0, description="tokens per sequence")
    shuffle_seed: int = Field(0, ge=0, description="key of the order; PaLM used the same order for all sizes")
    mixture: DataMixture | None = Field(
        None, description="how often each domain is read; None: every sequence once per epoch, of all domains together"
    )
    round: float | None = Field(
        None, gt=0, le=1, description="RS2: each round is a fresh random share of all sequences; None: all of them"
    )
    boundaries: Literal["document", "none"] = Field(
        "document", description="document: attention stays within a document; none: across documents, as PaLM did"
    )
    workers: int = Field(0, ge=0, description="Grain worker processes; 0 reads in threads of the training process")
    threads: int = Field(2, ge=1, description="reading threads")
    prefetch: int = Field(8, ge=1, description="batches held ready")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mixture is not None and self.round is not None:
            raise ValueError("a mixture reads every domain in rounds of its own; give a mixture or a round, not both")
        return self
