"""The sum of the losses since the last log row, which a checkpoint between two rows carries on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class LossSum:
    """Training losses of several steps. Those that are not finite, of dropped steps, are not counted."""

    total: float = 0.0  # nats per token, summed over steps in double precision
    steps: int = 0

    def plus(self, loss: float) -> LossSum:
        """Add the loss of a step."""
        return LossSum(self.total + loss, self.steps + 1) if math.isfinite(loss) else self

    @property
    def mean(self) -> float:
        """The mean over the steps; NaN if there is none."""
        return self.total / self.steps if self.steps else math.nan

    def to_json(self) -> dict[str, Any]:
        """Return the values to save; a double survives JSON exactly."""
        return {"total": self.total, "steps": self.steps}

    @classmethod
    def from_json(cls, values: Mapping[str, Any] | None) -> Self:
        """Read what `to_json` returned; nothing is summed yet in a checkpoint of an earlier version."""
        return cls() if values is None else cls(float(values["total"]), int(values["steps"]))


NO_LOSSES = LossSum()
