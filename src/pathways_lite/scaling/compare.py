"""Compare laws by their predictions for held-out runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pathways_lite.errors import UserError, did_you_mean
from pathways_lite.scaling.fit import leave_largest_out
from pathways_lite.scaling.law import Law
from pathways_lite.scaling.losses import Loss
from pathways_lite.scaling.quality import quality
from pathways_lite.scaling.table import Table, derive_columns


@dataclass(frozen=True)
class HeldOutError:
    """Relative errors of a law's predictions for the held-out rows, and for the fitted ones."""

    law: str
    fitted: int  # rows
    held_out: int  # rows
    mean: float
    worst: float
    fit_mean: float


def _is_same_column(table: Table, first: str, second: str) -> bool:
    return first in table and second in table and bool(np.array_equal(table[first], table[second]))


def with_shared_names(laws: Sequence[Law], table: Table) -> Table:
    """Return the table with the columns x and y of laws of one input, where the other laws say what these are.

    y is the target that the other laws share, x their only input. Columns that exist stay.
    """
    named = [law for law in laws if "x" not in law.inputs]
    targets = {law.target for law in named if law.target in table}
    inputs = {law.inputs for law in named}
    added: Table = {}
    if len(targets) == 1 and "y" not in table:
        added["y"] = table[next(iter(targets))]
    if len(inputs) == 1 and len(only := next(iter(inputs))) == 1 and "x" not in table and only[0] in table:
        added["x"] = table[only[0]]
    return {**table, **added}


def held_out_errors(
    laws: Sequence[Law],
    table: Mapping[str, np.ndarray],
    *,
    by: str,
    count: int = 1,
    loss: Loss | None = None,
    seed: int = 0,
) -> list[HeldOutError]:
    """Fit each law without the rows of the `count` largest values of `by`, and sort by their prediction errors.

    `loss`: None uses each law's own.

    Raises UserError if a law cannot be fitted, or if the laws predict different targets.
    """
    full = derive_columns(table, (by,))
    targets = list(dict.fromkeys(law.target for law in laws))
    if any(not _is_same_column(full, targets[0], name) for name in targets[1:]):
        raise UserError(
            f"the laws predict different targets ({', '.join(targets)}) and cannot be compared; if they are one column "
            f"of the table, name it for each, as in {targets[-1]}=COLUMN"
        )
    if by not in full:
        raise UserError(f"the table has no column {by!r} to hold out by.{did_you_mean(by, full)}")
    results = []
    for law in laws:
        fit, predicted, measured = leave_largest_out(law, full, by=by, count=count, loss=loss, seed=seed)
        error = np.abs(predicted / measured - 1)
        within = quality(fit)["mean_relative_error"]
        results.append(HeldOutError(law.name, fit.rows, len(error), float(error.mean()), float(error.max()), within))
    return sorted(results, key=lambda result: result.mean)
