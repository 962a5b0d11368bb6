"""`pathways-lite fit arms`: what each method of a table is worth, with exponents that all share."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from pathways_lite.cli.common import AsJson, print_json
from pathways_lite.cli.fit_table import (
    Columns,
    DecimalMark,
    DropMissing,
    RowChoice,
    Sheet,
    TablePath,
    Where,
    read_rows,
    single_numbers,
)
from pathways_lite.intervals import plain

if TYPE_CHECKING:
    from rich.table import Table

    from pathways_lite.scaling.efficiency import Efficiency


def arms(
    table: TablePath,
    columns: Columns = None,
    arm: Annotated[str, typer.Option(help="the column that names the arm (method) of a run")] = "arm",
    baseline: Annotated[str | None, typer.Option(help="the arm that is worth 1; default: the first")] = None,
    law: Annotated[str, typer.Option(help="chinchilla (N and D), compute (C) or tokens (D)")] = "chinchilla",
    scaled: Annotated[
        list[str] | None,
        typer.Option("--factor", help="inputs that get a factor: N, D or C; default: D, or the only one"),
    ] = None,
    at: Annotated[list[str] | None, typer.Option(help="a scale to give the factor at: D=1e12")] = None,
    seeds: Annotated[
        str | None,
        typer.Option(help="column of seeds, if a seed's rows are measured along one run: intervals over seeds"),
    ] = None,
    where: Where = None,
    drop_missing: DropMissing = False,
    decimal: DecimalMark = None,
    sheet: Sheet = None,
    as_json: AsJson = False,
) -> None:
    """Fit one law to all arms, to say how many tokens (compute, parameters) of the baseline's one of an arm's is worth.

    Prints the factor with an interval, how it changes with scale, and a test of shared exponents.

    Examples:

    - `pathways-lite fit arms runs.csv --arm optimizer --baseline adamw --at D=1e12`

    - `pathways-lite fit arms runs.csv --arm method --law compute`
    """
    from pathways_lite.console import Console
    from pathways_lite.errors import UserError, did_you_mean
    from pathways_lite.scaling.efficiency import fit_efficiency
    from pathways_lite.scaling.laws.efficiency import BASES

    if law not in BASES:
        raise UserError(f"no factors are fitted with a law {law!r}.{did_you_mean(law, BASES)}")
    base = BASES[law]
    rows = read_rows(
        table,
        columns,
        (*base.inputs, "L"),
        by=arm,
        choice=RowChoice(where or (), drop_missing, decimal, sheet=sheet),
        apart=arm,
    )
    names = np.array([str(value) for value in rows.table[arm]], dtype=object)
    if seeds is not None and seeds not in rows.table:
        raise UserError(f"{table} has no column {seeds!r} of seeds.{did_you_mean(seeds, rows.table)}")
    efficiency = fit_efficiency(
        rows.table, names, baseline=baseline or str(names[0]), law=law,
        scaled=tuple(scaled or (("D",) if "D" in base.inputs else base.inputs)), goal=single_numbers(at or []),
        seeds=None if seeds is None else rows.table[seeds],
    )  # fmt: skip
    if as_json:
        print_json(efficiency_facts(efficiency))
        return
    Console().print(render_efficiency(efficiency))
    for line in (*rows.left_out, *efficiency.sentences()):
        typer.echo(line)


def efficiency_facts(efficiency: Efficiency) -> dict[str, object]:
    """Return the result as JSON."""
    return {
        "law": efficiency.law.name, "baseline": efficiency.baseline, "rows": efficiency.rows,
        "values": efficiency.values, "residual_sd": efficiency.error, "p_value_shared_exponents": efficiency.p_value,
        "replicates": efficiency.replicates, "factors": [asdict(factor) for factor in efficiency.factors],
        "sentences": efficiency.sentences(),
    }  # fmt: skip


def render_efficiency(efficiency: Efficiency) -> Table:
    """Return a table with a row per arm and scaled input."""
    from pathways_lite.console import Table

    header = ("arm", "of", "factor", "2.5 %", "97.5 %", "smallest scale", "largest scale", "exponent ×", "p")
    grid = Table(*header)
    for factor in efficiency.factors:
        grid.add_row(
            factor.arm, factor.column, *factor.shared.texts(".4g", "–"),
            *(plain(v, ".3g") if np.isfinite(v) else "–" for v in (
                factor.smallest.value, factor.largest.value, 1 + factor.slope.value, factor.p_value
            )),
        )  # fmt: skip
    return grid
