"""What of a run is compared."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pathways_lite.recipe import Frozen


class Metric(Frozen):
    """A number that falls as a model learns, and how it is smoothed before anything is read off its curve.

    Losses per token compare models with the same tokenizer; bits per byte compare any.
    """

    of: Literal["held-out", "train"] = Field("held-out", description="evaluations, or the logged training losses")
    unit: Literal["loss", "bits_per_byte"] = Field("loss", description="nats per token, or (held-out only) bits/byte")
    domain: str | None = Field(None, description="of the held-out text; None: all of it, by its sums")
    flops: Literal["dense", "sparse"] = Field(
        "dense", description="against which it is compared: as hardware spends them, or where zeros are skipped"
    )
    window: int = Field(1, ge=1, description="odd: the mean of so many points around each one; 1: as measured")

    @property
    def name(self) -> str:
        """For the axis of a plot."""
        unit = "loss (nats per token)" if self.unit == "loss" else "bits per byte"
        where = f"{self.of} {unit}"
        return where if self.domain is None else f"{where}, {self.domain}"

    @property
    def compute(self) -> str:
        """What FLOPs are, in words."""
        return "model FLOPs" if self.flops == "dense" else "model FLOPs where zeros are skipped"

    @property
    def smoothing(self) -> str:
        """How curves were smoothed, in words."""
        return "not smoothed" if self.window == 1 else f"smoothed: mean of {self.window} points around each one"
