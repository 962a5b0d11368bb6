"""How much each sample of a batch counts, by its loss: what `methods.reweighting` computes, as data.

Names of the four rules under a temperature are those of "Dynamic Loss-Based Sample Reweighting for Improved Large
Language Model Pretraining" (Sow et al. 2025, arXiv 2502.06733).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pathways_lite.recipe.base import Amount, Fraction, Frozen
from pathways_lite.recipe.checkpoint_ref import Reference


class Uniform(Frozen):
    """Every sample counts the same; its weights are logged all the same."""

    kind: Literal["uniform"] = "uniform"


class _Tempered(Frozen):
    """A softmax of scores between 0 and 1: no weight is more than exp(1 / temperature) times another."""

    temperature: float = Field(0.4, gt=0, description="r, of the softmax; the paper has 1 at 124M parameters, else 0.4")
    final_temperature: float | None = Field(
        None, gt=0, description="where the stage ends; r goes there in a line from where the burn-in ends"
    )


class LinUpper(_Tempered):
    """The lower a sample's loss below the middle of the batch's range, the less it counts; the paper's best."""

    kind: Literal["lin_upper"] = "lin_upper"


class Upper(_Tempered):
    """In proportion to the loss, over its whole range."""

    kind: Literal["upper"] = "upper"


class Quadratic(_Tempered):
    """The middle of the range counts most."""

    kind: Literal["quadratic"] = "quadratic"


class Extremes(_Tempered):
    """Both ends of the range count most."""

    kind: Literal["extremes"] = "extremes"


class Focal(Frozen):
    """(1 - p)^gamma, p being exp(-loss) (Lin et al. 2017, arXiv 1708.02002)."""

    kind: Literal["focal"] = "focal"
    gamma: float = Field(2.0, ge=0)


class TopLosses(Frozen):
    """The samples of highest loss alone. Rows that are left out have no backward pass: selective backpropagation.

    With a reference that is RHO-loss (Mindermann et al. 2022, arXiv 2206.07137; share 0.1), of tokens Rho-1 (Lin et al.
    2024, arXiv 2404.07965; share 0.6).
    """

    kind: Literal["top"] = "top"
    share: float = Field(0.5, gt=0, le=1, description="of the batch that is kept")


Rule = Annotated[
    Uniform | LinUpper | Upper | Quadratic | Extremes | Focal | TopLosses,
    Field(discriminator="kind"),
]


class Reweighting(Frozen):
    """Weights of a batch's samples, anew at every step, by their losses in the whole of it.

    Their mean per token with loss is 1, so that a learning rate means what it means without. The z-loss has no weights.
    """

    rule: Rule = LinUpper()
    sample: Literal["row", "document", "token"] = Field(
        "row", description="what has a loss (the mean over its tokens) and a weight: a packed row, a document in it"
    )
    burn_in: Amount = Field(Fraction(n=0.05), description="all weights are 1 before (the paper: 1000 of 20000 steps)")
    reference: Reference | None = None

    @property
    def kept(self) -> float:
        """Share of a batch's rows that have a backward pass."""
        return self.rule.share if isinstance(self.rule, TopLosses) and self.sample == "row" else 1.0

    def rows(self, sequences: int) -> int:
        """How many rows of a batch of `sequences` have a backward pass. Raises ValueError where that is a fraction."""
        rows = round(self.kept * sequences)
        if rows < 1 or abs(rows - self.kept * sequences) > 1e-6:
            raise ValueError(
                f"reweighting.rule.share={self.kept} of a batch of {sequences} rows is {self.kept * sequences:g} rows; "
                "it has to be a whole number of them"
            )
        return rows


# Weights of domains that are learned while a small model, the proxy, trains. `methods.domain_weights` learns them.


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
