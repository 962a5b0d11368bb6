"""Fit a scaling law from Python, as `pathways-lite fit` does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pathways_lite.errors import UserError, counted
from pathways_lite.paths import local_path
from pathways_lite.scaling.bootstrap import default_count
from pathways_lite.scaling.fit import Fit, fit_law
from pathways_lite.scaling.law import Law
from pathways_lite.scaling.laws.registry import find_law
from pathways_lite.scaling.losses import parse_link, parse_loss
from pathways_lite.scaling.runs_table import runs_table
from pathways_lite.scaling.table import read_table, rename_columns

if TYPE_CHECKING:
    from pathways_lite.scaling.table import Table

__all__ = ["fit"]


def fit(
    law: str | Law,
    table: str | Path | Mapping[str, Any],
    columns: Mapping[str, str] | None = None,
    *,
    link: str | None = None,
    loss: str | None = None,
    starts: int = 20,
    seed: int = 0,
    bootstraps: int | None = None,
) -> Fit:
    """Fit a law to a table, with intervals.

    Args:
      law: one of `pathways-lite fit laws`, or a law itself.
      table: columns by name, as a data frame has them; a file with a table; or a directory of runs, of which the last
        evaluation of each finished one is a row.
      columns: the law's columns by those of the table, e.g. {"N": "size_M*1e6", "L": "ln(perplexity)"}.
      link, loss: names as of `fit --link` and `--loss`; None: the law's own.
      bootstraps: resamples for the intervals; None: as many as the rows call for; 0: no intervals.

    The result has `values`, `parameter_intervals()`, `predict`, `optimal`, `notes` and `save`. Raises UserError where
    the table cannot carry the fit.
    """
    rows = _read(table, dict(columns or {}))
    number = len(next(iter(rows.values()), ()))
    return fit_law(
        find_law(law) if isinstance(law, str) else law,
        rows,
        link=None if link is None else parse_link(link),
        loss=None if loss is None else parse_loss(loss),
        starts=starts,
        seed=seed,
        bootstraps=default_count(number) if bootstraps is None else bootstraps,
    )


def _read(table: str | Path | Mapping[str, Any], columns: Mapping[str, str]) -> Table:
    if isinstance(table, str | Path):
        path = local_path(table)
        return (
            rename_columns(runs_table([path], final=True), columns, str(path))
            if path.is_dir()
            else read_table(path, columns)
        )
    given = {str(name): np.asarray(table[name]) for name in table.keys()}  # noqa: SIM118  of a data frame too
    lengths = {name: len(column) if column.ndim == 1 else -1 for name, column in given.items()}
    if len(set(lengths.values())) > 1 or -1 in lengths.values():
        sizes = ", ".join(f"{name} {counted(length, 'row')}" for name, length in lengths.items() if length >= 0)
        raise UserError(f"the columns of a table are lists of one length; found {sizes or 'no lists'}")
    return rename_columns(given, columns, "the table")
