"""Weights of domains that are learned while a small model, the proxy, trains. `methods.domain_weights` learns them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pathways_lite.recipe.base import Frozen
from pathways_lite.recipe.earlier import Reference


class DoReMi(Frozen):
    """More weight for domains where the proxy is worse than a reference model (Xie et al. 2023, arXiv 2305.10429)."""

    kind: Literal["doremi"] = "doremi"
    reference: Reference
    step: float = Field(1.0, gt=0, description="eta, of exponentiated gradient ascent")
    smoothing: float = Field(1e-3, ge=0, le=1, description="c, the share that is spread evenly")


class DoGE(Frozen):
    """More weight for domains whose gradient helps all of them, or a target (Fan et al. 2023, arXiv 2310.15393)."""

    kind: Literal["doge"] = "doge"
    mu: float = Field(0.05, gt=0, description="of mirror descent, whose step is the learning rate / mu")
    smoothing: float = Field(0.0, ge=0, le=1, description="the share that is spread evenly")
    target: str | None = Field(None, description="a domain to do well in, which is not trained on; None: all domains")


LearnDomainWeights = Annotated[DoReMi | DoGE, Field(discriminator="kind")]
