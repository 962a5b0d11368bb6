"""`pathways-lite fit mixture`: laws of data mixtures, and the mixture with the lowest loss."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pathways_lite.cli.common import AsJson, count_progress, print_json
from pathways_lite.cli.fit_table import (
    DecimalMark,
    DropMissing,
    RowChoice,
    Sheet,
    TablePath,
    Where,
    output_path,
    parse_pair,
    read_rows,
    single_numbers,
)
from pathways_lite.paths import local_path

LAWS = ("mixing", "linear-mixing", "additive-mixing", "joint-mixing")


def mixture(
    table: TablePath,
    columns: Annotated[
        list[str] | None, typer.Argument(help="columns by those of the table: web=share_web N=params L=loss")
    ] = None,
    domain: Annotated[list[str] | None, typer.Option(help="a column of shares; give the option per domain")] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="a column of losses, with a weight: loss_code or loss_code=2; default: L")
    ] = None,
    law: Annotated[str, typer.Option(help=f"{', '.join(LAWS)}; the last two with N and D")] = "mixing",
    at: Annotated[list[str] | None, typer.Option(help="the size and tokens to mix for: N=1e9 D=2e10")] = None,
    at_most: Annotated[list[str] | None, typer.Option(help="the largest share of a domain: books=0.1")] = None,
    at_least: Annotated[list[str] | None, typer.Option(help="the least share of a domain: web=0.3")] = None,
    bootstraps: Annotated[int, typer.Option(min=0, help="number of resamples for the intervals")] = 200,
    starts: Annotated[int, typer.Option(min=1, help="number of random starts of a fit")] = 20,
    seed: Annotated[int, typer.Option(help="random seed of starts and resamples")] = 0,
    where: Where = None,
    drop_missing: DropMissing = False,
    decimal: DecimalMark = None,
    sheet: Sheet = None,
    out: Annotated[
        Path | None, typer.Option(parser=local_path, help="file of the fit; default: mixture.json beside the table")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fit a law of the loss over the shares of domains, and find the shares that minimize it, with intervals.

    Several targets (losses on several held-out sets) are fitted apart and weighted; each fit is a file.

    Examples:

    - `pathways-lite fit mixture mixes.csv --domain web --domain code --target loss_web --target loss_code=2`

    - `pathways-lite fit mixture mixes.csv --domain web --domain code --law additive-mixing --at N=7e9 --at D=1.4e11`
    """
    from pathways_lite.console import Console, Table
    from pathways_lite.errors import UserError, did_you_mean
    from pathways_lite.output_lock import lock_file
    from pathways_lite.scaling.fit import fit_law
    from pathways_lite.scaling.laws.registry import find_law
    from pathways_lite.scaling.mixture import optimal_mixture
    from pathways_lite.scaling.quality import quality

    if law not in LAWS:
        raise UserError(f"there is no law of mixtures {law!r}.{did_you_mean(law, LAWS)}")
    if not domain:
        raise UserError("name the columns of shares, as in --domain web --domain code")
    chosen = find_law(f"{law}:{','.join(domain)}")
    weights = {}
    for term in target or ["L"]:
        name, weight = parse_pair(term) if "=" in term else (term, "1")
        try:
            weights[name] = float(weight)
        except ValueError:
            raise UserError(f"--target {term}: {weight!r} is not a weight; write e.g. --target {name}=2") from None
    rows = read_rows(
        table, columns, (*chosen.inputs, *weights), choice=RowChoice(where or (), drop_missing, decimal, sheet=sheet)
    )
    path = out or output_path(table, "mixture.json")
    fits, files = [], []
    with lock_file(path), count_progress("fitting", len(weights), "targets") as advance:
        for name in weights:
            if name not in rows.table:
                raise UserError(f"{table} has no column {name!r} of losses.{did_you_mean(name, rows.table)}")
            columns_of_target = {**rows.table, "L": rows.table[name]}
            origin = {**rows.origin, "target": name}
            # The interval of the best mixture is of the best mixtures of the resamples.
            fit = fit_law(
                chosen, columns_of_target, bootstraps=bootstraps, starts=starts, seed=seed, origin=origin,
                method="bootstrap" if bootstraps else None,
            )  # fmt: skip
            files.append(path if len(weights) == 1 else path.with_name(f"{path.stem}-{name}.json"))
            fit.save(files[-1])
            fits.append(fit)
            advance(1)
    bounds = {name: [0.0, 1.0] for name in (*single_numbers(at_most or []), *single_numbers(at_least or []))}
    for side, terms in ((1, at_most), (0, at_least)):
        for name, value in single_numbers(terms or []).items():
            bounds[name][side] = value
    best = optimal_mixture(
        fits, list(weights.values()), bounds={name: (low, high) for name, (low, high) in bounds.items()},
        others=single_numbers(at or []), seed=seed,
    )  # fmt: skip
    errors = {name: quality(fit) for name, fit in zip(weights, fits, strict=True)}
    if as_json:
        print_json({
            "law": chosen.name,
            "fits": {n: {"values": f.values, **errors[n]} for n, f in zip(weights, fits, strict=True)},
            **asdict(best), "left_out": rows.left_out, "files": files,
        })  # fmt: skip
        return
    grid = Table("domain", "best share", "2.5 %", "97.5 %", "measured")
    for name, share in best.shares.items():
        seen = fits[0].data[name]
        grid.add_row(name, *share.texts(".3f"), f"{seen.min():.3g} to {seen.max():.3g}")
    Console().print(grid)
    typer.echo(
        f"Predicted loss there {best.loss:.4f}; at equal shares {best.equal_loss:.4f}; the best measured run has "
        f"{best.best_measured:.4f}."
    )
    for name, metrics in errors.items():
        typer.echo(
            f"{name}: mean error {metrics['mean_relative_error']:.2%} in the fit, "
            f"worst {metrics['worst_relative_error']:.2%}."
        )
    for line in (*rows.left_out, *best.notes, *files):
        typer.echo(line)
