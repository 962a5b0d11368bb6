"""What `pathways-lite fit` shows of a fit: parameters, how good it is, and what to know before trusting it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.console import Group
from rich.text import Text

from pathways_lite.console import Table
from pathways_lite.intervals import plain
from pathways_lite.scaling.fit import Fit
from pathways_lite.scaling.quality import (
    averaged_rows,
    describe_intervals,
    format_noise,
    noise_of_runs,
    quality,
    worst_rows,
)
from pathways_lite.scaling.rehearsal import extrapolation


def render_fit(fit: Fit) -> Group:
    """Return a table of the parameters with intervals, how the fit was found, how good it is, and its caveats."""
    grid = Table("", "value", "2.5 %", "97.5 %", "unit")
    for (name, interval), parameter in zip(fit.parameter_intervals().items(), fit.law.parameters, strict=True):
        grid.add_row(name, *interval.texts(".6g"), parameter.unit)
    lines = [
        f"{fit.rows} rows, {fit.loss} in {fit.link}: objective (sum) {fit.objective:.8g}, "
        f"reached by {fit.reached} of {fit.starts} starts",
        *quality_lines(fit),
        *([describe_intervals(fit)] if fit.method is not None else []),
        *rehearsal_line(fit),
        *fit.notes,
    ]
    return Group(Text(f"{fit.law.title}: {fit.law.formula}"), grid, *(Text(line) for line in lines))


def quality_lines(fit: Fit) -> list[str]:
    """State the errors of the fit on its own rows, the noise of a run, and its worst rows by name."""
    metrics = quality(fit)
    scale = f"log {fit.law.target}" if fit.link == "log" else fit.law.target
    worst = "; ".join(
        f"{row.name} {row.measured:.4g}, the law says {row.predicted:.4g}{_in_brackets(row.error)}"
        for row in worst_rows(fit)
    )
    zeros = np.count_nonzero(averaged_rows(fit)[fit.law.target] == 0)
    of = f" (of rows whose {fit.law.target} is not 0)" if zeros else ""
    return [
        f"relative error{of}: mean {metrics['mean_relative_error']:.3%}, worst {metrics['worst_relative_error']:.2%}; "
        f"R² of {scale} {plain(metrics['r2_of_link'], '.5f')}; noise of a run {format_noise(fit)}",
        f"farthest from the law: {worst}",
    ]


def _in_brackets(error: float) -> str:
    """Return a relative error; nothing for one of a measured 0."""
    return "" if np.isnan(error) else f" ({plain(error, '+.2%')})"


def quality_json(fit: Fit) -> dict[str, Any]:
    """Return the quality of a fit, its worst rows and its rehearsals as JSON."""
    noise, repeats = noise_of_runs(fit)
    return {
        "quality": {**quality(fit), "noise_of_a_run": noise, "repeats": repeats},
        "worst_rows": [asdict(row) for row in worst_rows(fit)],
        "intervals": fit.method,
        "forecast_factor": None if fit.rehearsal is None else fit.rehearsal.factor,
    }


def rehearsal_line(fit: Fit) -> list[str]:
    """State what the rehearsals of forecasts found, if there were any."""
    rehearsal = fit.rehearsal
    if rehearsal is None:
        return []
    if not rehearsal.misses:
        return ["The rows are too few to rehearse a forecast, so there is no interval of one."]
    how = f"without its largest {rehearsal.by}" if rehearsal.by else "without a fifth of its rows"
    verdict = (
        "their runs were within the intervals that were forecast for them"
        if rehearsal.factor < 1.005
        else f"intervals had to be {rehearsal.factor:.2f} times as wide as forecast to hold their runs"
    )
    return [f"Fitted {how} and asked for the rest ({len(rehearsal.misses)} rehearsals): {verdict}."]


def rehearsal_warnings(fit: Fit, inputs: Mapping[str, np.ndarray]) -> list[str]:
    """Say if new inputs are further beyond the data than any rehearsal was."""
    rehearsal = fit.rehearsal
    if rehearsal is None or not rehearsal.misses or not rehearsal.by:
        return []
    times = float(np.max(extrapolation(fit.law, fit.data, inputs, rehearsal.by)))
    if times <= max(rehearsal.furthest, 1):
        return []
    return [
        f"Rehearsals went {rehearsal.furthest:.2g} times beyond the {rehearsal.by} that they were fitted to, this goes "
        f"{times:.2g} times; the forecast's interval is widened in proportion to the logarithm."
    ]
