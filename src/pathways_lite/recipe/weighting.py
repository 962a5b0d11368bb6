"""Weights by loss: of samples within a batch, and of domains that a proxy model learns.

`methods.reweighting` and `methods.domain_weights` implement them. The four rules with a temperature are named as in
"Dynamic Loss-Based Sample Reweighting for Improved Large Language Model Pretraining" (Sow et al. 2025, arXiv
2502.06733).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from pathways_lite.plugins import Group
from pathways_lite.recipe.base import Amount, Fraction, Frozen
from pathways_lite.recipe.checkpoint_ref import Reference
from pathways_lite.recipe.plugin import OpenUnion, PluginClass

__all__ = [
    "DoGE", "DoReMi", "Extremes", "Focal", "LearnDomainWeights", "LinUpper", "Quadratic", "Reweighting", "RulePlugin",
    "TopLosses", "Uniform", "Upper",
]  # fmt: skip

# ---- rules: from losses to weights ----


class Uniform(Frozen):
    """Equal weights, logged like those of the other rules."""

    kind: Literal["uniform"] = "uniform"


class _Tempered(Frozen):
    """Softmax of scores between 0 and 1, so no weight is more than exp(1 / temperature) times another."""

    temperature: float = Field(
        default=0.4, gt=0, description="r, of the softmax; the paper uses 1 at 124M parameters, else 0.4"
    )
    final_temperature: float | None = Field(
        default=None, gt=0, description="r at the end of the stage, reached linearly from the end of the burn-in"
    )


class LinUpper(_Tempered):
    """Weights fall with losses below the middle of the batch's range, and are equal above; the paper's best."""

    kind: Literal["lin_upper"] = "lin_upper"


class Upper(_Tempered):
    """Scores proportional to the loss over its whole range."""

    kind: Literal["upper"] = "upper"


class Quadratic(_Tempered):
    """Largest weights in the middle of the range."""

    kind: Literal["quadratic"] = "quadratic"


class Extremes(_Tempered):
    """Largest weights at both ends of the range."""

    kind: Literal["extremes"] = "extremes"


class Focal(Frozen):
    """Focal loss: weights (1 - p)^gamma with p = exp(-loss) (Lin et al. 2017, arXiv 1708.02002)."""

    kind: Literal["focal"] = "focal"
    gamma: float = Field(default=2.0, ge=0, description="exponent; 0 is uniform")


class TopLosses(Frozen):
    """Only the samples with the highest losses. Other rows have no backward pass: selective backpropagation.

    With a reference it is RHO-loss (Mindermann et al. 2022, arXiv 2206.07137; fraction 0.1), on tokens Rho-1 (Lin et
    al. 2024, arXiv 2404.07965; fraction 0.6).
    """

    former_names: ClassVar[Mapping[str, str]] = {"fraction": "share"}

    kind: Literal["top"] = "top"
    fraction: float = Field(default=0.5, gt=0, le=1, description="of the batch that is kept")


class RulePlugin(PluginClass):
    """A rule of another package (group `pathways_lite.reweighting`), for all rows of a batch."""

    plugin_group: ClassVar[Group] = "reweighting"

    @abstractmethod
    def weights(self, losses: Any, sizes: Any) -> Any:
        """Return weights of samples, at least 0, of the shape of `losses`, which are then scaled to a mean of 1.

        Args:
          losses: float32 [B, 1] of rows, or [B, T] of documents or tokens; nats, less those of a reference.
          sizes: of the samples, in tokens; a sample of size 0 does not exist.
        """


Rule = Annotated[
    Uniform | LinUpper | Upper | Quadratic | Extremes | Focal | TopLosses | RulePlugin,
    OpenUnion(),
]


class Reweighting(Frozen):
    """Weights of a batch's samples, recomputed at every step from their losses relative to the whole batch.

    Their mean over tokens with loss is 1, so a learning rate means the same as without. The z-loss is not weighted.
    """

    rule: Rule = Field(default=LinUpper(), description="weights from losses")
    sample: Literal["row", "document", "token"] = Field(
        default="row",
        description="unit that has a loss (the mean over its tokens) and a weight: a packed row, a document in it",
    )
    burn_in: Amount = Field(
        default=Fraction(n=0.05), description="all weights are 1 until then (the paper: 1000 of 20000 steps)"
    )
    reference: Reference | None = Field(default=None, description="model whose losses are subtracted first; None: none")

    @property
    def kept_fraction(self) -> float:
        """Fraction of a batch's rows that have a backward pass."""
        return self.rule.fraction if isinstance(self.rule, TopLosses) and self.sample == "row" else 1.0

    def num_kept_rows(self, sequences: int) -> int:
        """Return the number of rows of a batch that have a backward pass. Raises ValueError if it is not an integer."""
        rows = round(self.kept_fraction * sequences)
        if rows < 1 or abs(rows - self.kept_fraction * sequences) > 1e-6:
            raise ValueError(
                f"reweighting.rule.fraction={self.kept_fraction} "
                f"of a batch of {sequences} rows is {self.kept_fraction * sequences:g} "
                "rows; it must be a whole number of rows"
            )
        return rows


# ---- domain weights, learned while a small model, the proxy, trains ----


class DoReMi(Frozen):
    """More weight for domains where the proxy is worse than a reference model (Xie et al. 2023, arXiv 2305.10429)."""

    kind: Literal["doremi"] = "doremi"
    reference: Reference = Field(description="model whose losses are subtracted")
    step: float = Field(default=1.0, gt=0, description="eta, of exponentiated gradient ascent")
    smoothing: float = Field(default=1e-3, ge=0, le=1, description="c, the fraction that is spread evenly")


class DoGE(Frozen):
    """More weight for domains whose gradient helps all domains, or a target (Fan et al. 2023, arXiv 2310.15393)."""

    kind: Literal["doge"] = "doge"
    mu: float = Field(
        default=0.05,
        gt=0,
        description="of mirror descent, whose step size is the learning rate / mu; the authors' 0.01 is about "
        "0.01 / (D - 1) here, as their scores are larger for D domains with similar gradients",
    )
    smoothing: float = Field(default=0.0, ge=0, le=1, description="fraction that is spread evenly")
    target: str | None = Field(default=None, description="a domain to do well in, not trained on; None: all domains")


LearnDomainWeights = Annotated[DoReMi | DoGE, Field(discriminator="kind")]
