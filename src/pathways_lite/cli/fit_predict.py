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


def print_predictions(
    fit: Fit | TwoSteps, values: Mapping[str, np.ndarray], intervals: Sequence[Interval], level: float, *, as_json: bool
) -> None:
    """Print a line for one point and a table for several, with warnings of extrapolation on standard error."""
    from pathways_lite.cli.fit import format_interval
    from pathways_lite.console import Console, Table

    warnings = fit.extrapolation_warnings(values)
    if as_json:
        facts: dict[str, object] = {"target": fit.law.target, "level": level, "warnings": warnings}
        if len(intervals) == 1:
            print_json({**facts, **asdict(intervals[0])})
        else:
            inputs = [{name: float(values[name][i]) for name in fit.law.inputs} for i in range(len(intervals))]
            print_json({**facts, "points": [x | asdict(y) for x, y in zip(inputs, intervals, strict=True)]})
        return
    if len(intervals) == 1:
        typer.echo(format_interval(fit.law.target, intervals[0]))
    else:
        grid = Table(*fit.law.inputs, fit.law.target, "low", "high")
        for i, interval in enumerate(intervals):
            limits = ("", "") if interval.low != interval.low else (f"{interval.low:.5g}", f"{interval.high:.5g}")
            grid.add_row(*(f"{values[name][i]:.4g}" for name in fit.law.inputs), f"{interval.value:.5g}", *limits)
        Console().print(grid)
    for sentence in warnings:
        typer.echo(sentence, err=True)
