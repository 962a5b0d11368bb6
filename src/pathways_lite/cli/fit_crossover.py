"""`pathways-lite fit crossover`: the compute at which one method overtakes another."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import numpy as np
import typer

from pathways_lite.cli.common import AsJson, print_json
from pathways_lite.cli.fit_table import Columns, DecimalMark, DropMissing, RowChoice, Sheet, TablePath, Where, read_rows
from pathways_lite.intervals import plain


def crossover(
    table: TablePath,
    columns: Columns = None,
    arm: Annotated[str, typer.Option(help="the column that names the arm (method) of a run")] = "arm",
    between: Annotated[list[str] | None, typer.Option(help="two of its values; default: its only two")] = None,
    x: Annotated[str, typer.Option(help="the column over which the losses cross")] = "C",
    reach: Annotated[float, typer.Option(min=1, help="search to this many times the measured range")] = 100.0,
    bootstraps: Annotated[int, typer.Option(min=20, help="number of resamples of the runs")] = 2000,
    seed: Annotated[int, typer.Option(help="random seed of the resamples")] = 0,
    where: Where = None,
    drop_missing: DropMissing = False,
    decimal: DecimalMark = None,
    sheet: Sheet = None,
    as_json: AsJson = False,
) -> None:
    """Fit a power law of the loss to each of two arms, and find where they cross, with an interval.

    `fit arms` says by how much an arm is better; this says from which scale on.

    Example: `pathways-lite fit crossover runs.csv --arm optimizer --between adamw --between muon`
    """
    from pathways_lite.errors import UserError
    from pathways_lite.scaling.isoflop import find_crossover
    from pathways_lite.scaling.table import derive_columns, numeric_column

    rows = read_rows(
        table, columns, (x, "L"), by=arm, choice=RowChoice(where or (), drop_missing, decimal, sheet=sheet)
    )
    full = derive_columns(rows.table, (x,))
    losses, scale = numeric_column(full, "L"), numeric_column(full, x)
    names = np.array([str(value) for value in full[arm]], dtype=object)
    chosen = between or list(dict.fromkeys(names.tolist()))
    if len(chosen) != 2 or any(name not in names for name in chosen):
        found = ", ".join(dict.fromkeys(names.tolist()))
        raise UserError(f"a crossing is between two arms; give --between twice, of {found}")
    first, second = ((scale[names == name], losses[names == name]) for name in chosen)
    result = find_crossover(*first, *second, reach=reach, bootstraps=bootstraps, seed=seed)
    facts = {"between": chosen, "x": x, **asdict(result)}
    if as_json:
        print_json(facts)
        return
    for name, law in zip(chosen, (result.first, result.second), strict=True):
        typer.echo(f"{name}: L = {law.coefficient:.4g} {x}^{plain(law.exponent, '.4f')} (R² {law.r2:.4f})")
    largest = float(scale.max())
    if result.C is None:
        better = chosen[int(result.first(largest) > result.second(largest))]
        typer.echo(
            f"No crossing within {reach:g} times the measured {x}; {better} is better at the largest. "
            f"{result.crossing_fraction:.0%} of the resamples cross."
        )
        return
    after = chosen[int(result.first.exponent > result.second.exponent)]
    typer.echo(
        f"They cross at {x} = {result.C:.3g} ({result.low:.3g} to {result.high:.3g}), above which {after} is better; "
        f"{result.crossing_fraction:.0%} of the resamples cross."
    )
    if 10 * largest < result.C or float(scale.min()) / 10 > result.C:
        typer.echo("That is more than ten times outside the measured range: an extrapolation.", err=True)
    for line in rows.left_out:
        typer.echo(line, err=True)
