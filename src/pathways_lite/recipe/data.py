"""Which tokens a stage reads, in which order, and how they are cut into sequences."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from pathways_lite.recipe.base import Frozen
from pathways_lite.recipe.mixture import DataMixture


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
