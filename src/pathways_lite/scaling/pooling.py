"""Rows of different experiments in one fit: find the column that says so from the residuals."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pathways_lite.scaling.fit import Fit

MOST_GROUPS = 30
SHARE = 0.4  # of the variance of the residuals that a column must explain before it is named
P_VALUE = 1e-4


def pooling_notes(fit: Fit, table: Mapping[str, np.ndarray]) -> list[str]:
    """Return a sentence about the text column whose values explain the residuals best, if one explains them.

    By an analysis of variance of the relative residuals. `table` [rows of the fit] has the columns that were not
    fitted.
    """
    from scipy import stats

    residuals = np.log(
        np.maximum(np.abs(fit.predicted()), 1e-300) / np.maximum(np.abs(fit.data[fit.law.target]), 1e-300)
    )
    total = float(np.sum((residuals - residuals.mean()) ** 2))
    if not np.isfinite(total) or total <= 1e-16 * len(residuals):
        return []
    best: tuple[float, str, int] | None = None
    for name, column in table.items():
        if column.dtype != object or len(column) != len(residuals):
            continue
        labels, group_of_row, counts = np.unique(column.astype(str), return_inverse=True, return_counts=True)
        groups, rows = len(labels), len(residuals)
        if not 2 <= groups <= min(MOST_GROUPS, rows // 3) or np.mean(counts) < 3:
            continue
        means = np.bincount(group_of_row, residuals) / counts
        within = float(np.sum((residuals - means[group_of_row]) ** 2))
        share = 1 - within / total
        f = (total - within) / (groups - 1) / max(within / (rows - groups), 1e-300)
        if share > SHARE and stats.f.sf(f, groups - 1, rows - groups) < P_VALUE and (best is None or share > best[0]):
            best = (share, name, groups)
    if best is None:
        return []
    share, name, groups = best
    return [
        f"{name} explains {share:.0%} of the residuals: its {groups} values look like different experiments; fit them "
        f"apart with --each {name!r}, or choose one with --where."
    ]
