"""`pathways-lite fit LAW TABLE --each COLUMN`: the same law fitted to every value of a column apart."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from pathways_lite.cli.common import print_json
from pathways_lite.cli.fit_table import Rows
from pathways_lite.intervals import plain

if TYPE_CHECKING:
    from pathways_lite.scaling.law import Law


def fit_each(
    law: Law, rows: Rows, column: str, path: Path, settings: dict[str, Any], bootstraps: int | None, *, as_json: bool
) -> None:
    """Fit the rows of every value of `column`, write a fit each beside `path`, and print the parameters side by side.

    `bootstraps`: of every fit; None: as many as its rows allow. A value whose rows cannot carry the fit is told and
    left out. Raises UserError if none can.
    """
    from pathways_lite.console import Console, Table
    from pathways_lite.errors import UserError, did_you_mean
    from pathways_lite.output_lock import lock_file
    from pathways_lite.scaling.bootstrap import default_count
    from pathways_lite.scaling.fit import fit_law
    from pathways_lite.scaling.quality import quality

    if column not in rows.table:
        raise UserError(f"the table has no column {column!r} to fit apart.{did_you_mean(column, rows.table)}")
    labels = np.array([_label(value) for value in rows.table[column]], dtype=object)
    fits, refused = {}, {}
    for label in dict.fromkeys(labels.tolist()):
        chosen = labels == label
        table = {name: values[chosen] for name, values in rows.table.items()}
        groups = None if rows.groups is None else rows.groups[chosen]
        try:
            count = default_count(int(chosen.sum())) if bootstraps is None else bootstraps
            origin = {**rows.origin, column: label}
            fit = fit_law(law, table, groups=groups, origin=origin, bootstraps=count, **settings)
        except UserError as error:
            refused[label] = str(error)
            continue
        target = path.with_name(f"{path.stem}-{re.sub(r'[^\w.+-]+', '_', label) or 'empty'}.json")
        with lock_file(target):
            fit.save(target)
        fits[label] = (fit, target)
    if not fits:
        raise UserError(f"no value of {column} has rows that carry the fit: {next(iter(refused.values()))}")
    if as_json:
        print_json({
            "law": law.name, "refused": refused,
            "fits": {
                label: {"values": fit.values, "rows": fit.rows, "file": file, **quality(fit), "notes": list(fit.notes)}
                for label, (fit, file) in fits.items()
            },
        })  # fmt: skip
        return
    grid = Table(column, "rows", *law.names, "mean error", "worst")
    for label, (fit, _) in fits.items():
        metrics = quality(fit)
        errors = (f"{metrics['mean_relative_error']:.2%}", f"{metrics['worst_relative_error']:.2%}")
        grid.add_row(label, str(fit.rows), *(plain(fit.values[name], ".4g") for name in law.names), *errors)
    Console().print(grid)
    notes = [(label, note) for label, (fit, _) in fits.items() for note in fit.notes]
    for sentence in (*rows.left_out, *(f"{column}={label}: {said}" for label, said in (*notes, *refused.items()))):
        typer.echo(sentence, err=True)
    for _, file in fits.values():
        typer.echo(file)


def _label(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"
