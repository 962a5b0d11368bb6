"""Laws compared by what they say of runs that they have not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.scaling.fit import leave_largest_out, quality
from pathways_lite.scaling.law import Law
from pathways_lite.scaling.losses import Loss
from pathways_lite.scaling.table import with_derived


@dataclass(frozen=True)
class HeldOutError:
    """Relative errors of a law's predictions for the held-out rows, and within its fit."""

    law: str
    fitted: int
    held_out: int
    mean: float
    worst: float
    fit_mean: float


def held_out_errors(
    laws: Sequence[Law],
    table: Mapping[str, np.ndarray],
    *,
    by: str,
    count: int = 1,
    loss: Loss | None = None,
    seed: int = 0,
) -> list[HeldOutError]:
    """Each law fitted without the rows of the `count` largest values of `by`; the best predictions first.

    `loss`: None is each law's own.

    Raises UserError where a law cannot be fitted, or the laws predict different targets.
    """
    targets = {law.target for law in laws}
    if len(targets) > 1:
        raise UserError(f"the laws predict different things ({', '.join(sorted(targets))}) and cannot be compared")
    full = with_derived(table, (by,))
    if by not in full:
        raise UserError(f"the table has no column {by} to hold out by; it has {', '.join(full)}")
    results = []
    for law in laws:
        fit, predicted, measured = leave_largest_out(law, full, by=by, count=count, loss=loss, seed=seed)
        error = np.abs(predicted / measured - 1)
        within = quality(fit)["mean_relative_error"]
        results.append(HeldOutError(law.name, fit.rows, len(error), float(error.mean()), float(error.max()), within))
    return sorted(results, key=lambda result: result.mean)
