"""Changes of the rotary embedding's frequencies, by which published models see more tokens than they began with."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pathways_lite.recipe.base import Frozen

__all__ = ["LinearScaling", "Llama3Scaling", "RopeScaling", "YarnScaling"]

Factor = Annotated[float, Field(ge=1, description="how many times more tokens than before")]
OriginalLength = Annotated[int, Field(gt=0, description="tokens of a sequence before the scaling")]


class LinearScaling(Frozen):
    """Position interpolation (Chen et al. 2023, arXiv 2306.15595): all frequencies divided by the factor."""

    kind: Literal["linear"] = "linear"
    factor: Factor


class Llama3Scaling(Frozen):
    """Llama 3.1's (Grattafiori et al. 2024, arXiv 2407.21783): low frequencies divided, high ones kept.

    What turns less than `low_frequency_factor` times in `original_length` tokens is divided by the factor, what turns
    more than `high_frequency_factor` times is kept, and between them the mean of both moves in the number of turns.
    """

    kind: Literal["llama3"] = "llama3"
    factor: Factor
    original_length: OriginalLength
    low_frequency_factor: float = Field(
        default=1.0, gt=0, description="turns in original_length, below which all is divided"
    )
    high_frequency_factor: float = Field(
        default=4.0, gt=0, description="turns in original_length, above which all is kept"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low_frequency_factor >= self.high_frequency_factor:
            raise ValueError(
                f"low_frequency_factor={self.low_frequency_factor} is not below high_frequency_factor="
                f"{self.high_frequency_factor}"
            )
        return self


class YarnScaling(Frozen):
    """YaRN (Peng et al. 2023, arXiv 2309.00071): by parts, linear in the frequency's number, and larger logits."""

    kind: Literal["yarn"] = "yarn"
    factor: Factor
    original_length: OriginalLength
    fast_turns: float = Field(
        default=32.0, gt=0, description="turns in original_length from which on frequencies are kept"
    )
    slow_turns: float = Field(default=1.0, gt=0, description="turns in original_length below which they are divided")
    attention_factor: float | None = Field(
        default=None, gt=0, description="factor of rotated queries and keys; None: 0.1 ln(factor) + 1 (equation 22)"
    )
    whole_bounds: bool = Field(
        default=True, description="round the bounds of the linear part to whole numbers of frequencies"
    )


RopeScaling = Annotated[LinearScaling | Llama3Scaling | YarnScaling, Field(discriminator="kind")]
