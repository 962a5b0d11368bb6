"""Whether a fit says anything: more than the mean of its target would, and of accuracies above chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.scaling.quality import averaged_rows, quality
from pathways_lite.scaling.table import numeric_column

if TYPE_CHECKING:
    from pathways_lite.scaling.fit import Fit

R2 = 0.2  # below it, nearly all that the rows differ by is not of the inputs
P_VALUE = 0.05
STANDARD_ERRORS = 2.0  # by which an accuracy must be above chance to count


def meaning_notes(fit: Fit, table: Mapping[str, np.ndarray]) -> list[str]:
    """Return sentences on what a fit does not show. `table` [rows of the fit] may have `chance` and `accuracy_se`."""
    return [*_of_a_constant(fit), *_of_chance(fit, table)]


def _of_a_constant(fit: Fit) -> Iterator[str]:
    """Note a law that describes the rows no better than one value for all: by R², and by an F test against the mean."""
    rows, parameters = len(averaged_rows(fit)[fit.law.target]), len(fit.law.parameters)
    r2 = quality(fit)["r2_of_link"]
    if not np.isfinite(r2) or rows <= parameters:
        return
    reason = ""
    if r2 < R2:
        reason = f"R² is {max(r2, 0.0):.2f}"
    elif rows >= 2 * parameters and parameters > 1 and not fit.law.averaged:
        from scipy import stats

        freedom = (parameters - 1, rows - parameters)
        p = stats.f.sf((r2 / freedom[0]) / max((1 - r2) / freedom[1], 1e-300), *freedom)
        reason = f"R² is {r2:.2f} of {rows} rows, which noise alone gives in {p:.0%} of cases" if p > P_VALUE else ""
    if reason:
        target = fit.law.target
        yield (
            f"These rows do not show that {target} depends on {' and '.join(fit.law.inputs)}: their mean describes "
            f"them about as well as the law ({reason}). Its values mean nothing; add rows in which {target} differs by "
            "more than its noise."
        )


def _of_chance(fit: Fit, table: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Note accuracies that are not above those of guesses, and a fitted floor below them."""
    if fit.law.target != "accuracy":
        return
    with suppress(UserError):
        chance, accuracy = numeric_column(table, "chance"), fit.data["accuracy"]
        error = np.nan_to_num(numeric_column(table, "accuracy_se")) if "accuracy_se" in table else 0.0
        if not np.isfinite(chance).all():
            return
        guess = f"{chance.min():.3g}" if np.ptp(chance) == 0 else f"{chance.min():.3g} to {chance.max():.3g}"
        if not (accuracy > chance + STANDARD_ERRORS * error).any():
            beyond = " by more than two standard errors" if np.any(error) else ""
            yield (
                f"No accuracy is above chance ({guess}){beyond}: these models do not solve the task yet, so the fit "
                "says nothing about when they will."
            )
        floor, margin = fit.values.get("floor", np.inf), max(STANDARD_ERRORS * float(np.mean(error)), 0.01)
        if floor < chance.min() - margin:
            yield f"floor is {floor:.3g}, below chance ({guess}), which no model falls to: these data show no floor."
