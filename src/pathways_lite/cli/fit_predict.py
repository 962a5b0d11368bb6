"""The inputs and the output of `pathways-lite fit predict`: one point, or lists of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import typer

from pathways_lite.cli.common import print_json
from pathways_lite.cli.fit_table import parse_numbers
from pathways_lite.errors import UserError

if TYPE_CHECKING:
    from pathways_lite.intervals import Interval
    from pathways_lite.scaling.fit import Fit
    from pathways_lite.scaling.law import Law
    from pathways_lite.scaling.two_steps import TwoSteps
    from pathways_lite.scaling.uncertainty import Kind


def prediction_inputs(law: Law, terms: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the law's inputs [points] from NAME=VALUE, with what follows from them.

    Zeros are taken where the law is defined there. Raises UserError for shares of a mixture that do not add up to one.
    """
    from pathways_lite.scaling.table import derive_columns

    values = parse_numbers(terms, any_sign=(*law.any_sign, *law.zero_inputs))
    if negative := [n for n in law.zero_inputs if n in values and (values[n] < 0).any()]:
        raise UserError(f"{negative[0]} is negative; give zero or a positive number")
    if law.shares and all(name in values for name in law.shares):
        total = np.sum([values[name] for name in law.shares], axis=0)
        if np.any(np.abs(total - 1) > 1e-3) or any((values[name] < 0).any() for name in law.shares):
            raise UserError(
                f"the shares {', '.join(law.shares)} add up to {total[np.argmax(np.abs(total - 1))]:g}; give "
                "shares that are not negative and add up to 1"
            )
    return derive_columns(values, law.inputs)


def predict_kinds(fit: Fit | TwoSteps, values: Mapping[str, np.ndarray], level: float) -> dict[Kind, list[Interval]]:
    """Return the predictions at every point with intervals of every kind; two steps have that of the law only."""
    from pathways_lite.scaling.fit import Fit
    from pathways_lite.scaling.uncertainty import KINDS

    if isinstance(fit, Fit):
        return {kind: fit.predict(values, level, kind) for kind in KINDS}
    return {"law": fit.predict(values, level)}


def print_predictions(
    fit: Fit | TwoSteps,
    values: Mapping[str, np.ndarray],
    predictions: Mapping[Kind, Sequence[Interval]],
    level: float,
    *,
    as_json: bool,
) -> None:
    """Print a line per interval for one point, a table for several points, and warnings on standard error."""
    from pathways_lite.cli.fit import format_interval, format_limits
    from pathways_lite.cli.fit_display import rehearsal_warnings
    from pathways_lite.console import Console, Table
    from pathways_lite.scaling.fit import Fit

    of_law = predictions["law"]
    others = {kind: intervals for kind, intervals in predictions.items() if kind != "law"}
    warnings = fit.extrapolation_warnings(values)
    if isinstance(fit, Fit):
        warnings += rehearsal_warnings(fit, values)
    if as_json:
        inputs = [{name: float(values[name][i]) for name in fit.law.inputs} for i in range(len(of_law))]
        points = [
            asdict(interval) | {kind: asdict(intervals[i]) for kind, intervals in others.items()}
            for i, interval in enumerate(of_law)
        ]
        facts: dict[str, object] = {"target": fit.law.target, "level": level, "warnings": warnings}
        if len(points) == 1:
            print_json({**facts, **points[0]})
        else:
            print_json({**facts, "points": [x | point for x, point in zip(inputs, points, strict=True)]})
        return
    if len(of_law) == 1:
        typer.echo(format_interval(fit.law.target, of_law[0]))
        for kind, intervals in others.items():
            if intervals[0].has_limits:
                typer.echo(f"{kind} {format_limits(intervals[0])}")
    else:
        shown = {kind: rows for kind, rows in predictions.items() if any(row.has_limits for row in rows)}
        grid = Table(*fit.law.inputs, fit.law.target, *shown)
        for i, interval in enumerate(of_law):
            inputs_of_row = (f"{values[name][i]:.4g}" for name in fit.law.inputs)
            grid.add_row(*inputs_of_row, interval.texts()[0], *(format_limits(rows[i]) for rows in shown.values()))
        Console().print(grid)
    for sentence in warnings:
        typer.echo(sentence, err=True)
