"""Rows of different experiments in one fit: find the column that says so from the residuals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.scaling.fit import Fit
from pathways_lite.scaling.quality import link_residuals
from pathways_lite.scaling.table import derive_columns, numeric_column

MOST_GROUPS = 30
SHARE = 0.4  # of the variance of the residuals that a column must explain before it is named
P_VALUE = 1e-4
SETTINGS = ("arm", "optimizer", "schedule", "lr", "learning_rate", "B", "batch_size", "start", "N", "D")
"""Columns by which runs that a law takes for equal may differ, other than by chance."""


def pooling_notes(fit: Fit, table: Mapping[str, np.ndarray]) -> list[str]:
    """Return a sentence about the text column whose values explain the residuals best, if one explains them.

    By an analysis of variance of the residuals. `table` [rows of the fit] has the columns that were not
    fitted.
    """
    from scipy import stats

    residuals = link_residuals(fit)
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


def differing_settings(table: Mapping[str, np.ndarray], inputs: Sequence[str]) -> list[str]:
    """Return the columns of `SETTINGS` in which rows with equal inputs differ: such rows do not repeat one run.

    The result is empty where an input is missing, or is not a number.
    """
    if not inputs or not len(next(iter(table.values()), ())):
        return []
    full = derive_columns(dict(table), tuple(inputs))
    try:
        columns = [numeric_column(full, name) for name in inputs]
    except UserError:  # which the fit refuses
        return []
    point = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)[1].ravel()
    labels = {name: np.unique(table[name].astype(str), return_inverse=True)[1] for name in SETTINGS if name in table}
    pairs = {name: len(np.unique(np.stack([point, label]), axis=1).T) for name, label in labels.items()}
    return [name for name, count in pairs.items() if count > len(np.unique(point))]


def settings_of_rows(table: Mapping[str, np.ndarray], inputs: Sequence[str]) -> list[str]:
    """Return in a text by what each row differs from others with its inputs; nothing where none do."""
    names = differing_settings(table, inputs)
    return [", ".join(map(str, values)) for values in zip(*(table[name].tolist() for name in names), strict=True)]
