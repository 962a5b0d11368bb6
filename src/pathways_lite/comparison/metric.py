"""The metric that runs are compared by."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pathways_lite.recipe import Frozen


class Metric(Frozen):
    """A number that falls as a model learns, and how its curve is smoothed before it is read.

    Losses per token compare models with the same tokenizer; bits per byte compare any.
    """

    of: Literal["held-out", "train"] = Field(
        default="held-out", description="evaluations, or the logged training losses"
    )
    unit: Literal["loss", "bits_per_byte"] = Field(
        default="loss", description="nats per token, or (held-out only) bits/byte"
    )
    domain: str | None = Field(default=None, description="domain of the held-out text; None: all of it, by its sums")
    flops: Literal["dense", "sparse"] = Field(
        default="dense", description="FLOPs to compare at: as hardware spends them, or where zeros are skipped"
    )
    window: int = Field(
        default=1, ge=1, description="odd number of points to average around each point; 1: as measured"
    )

    @property
    def name(self) -> str:
        """The label of a plot's axis."""
        unit = "loss (nats per token)" if self.unit == "loss" else "bits per byte"
        label = f"{self.of} {unit}"
        return label if self.domain is None else f"{label}, {self.domain}"

    @property
    def flops_label(self) -> str:
        """The kind of FLOPs, in words."""
        return "model FLOPs" if self.flops == "dense" else "model FLOPs where zeros are skipped"

    @property
    def smoothing_label(self) -> str:
        """How curves are smoothed, in words."""
        return "not smoothed" if self.window == 1 else f"smoothed by a moving average of {self.window} points"
