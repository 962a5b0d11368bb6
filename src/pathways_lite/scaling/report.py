"""The report of a fit: one self-contained HTML page with parameters, residuals, the optimal frontier and caveats."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from pathways_lite.atomic_file import write_text_atomically
from pathways_lite.errors import UserError
from pathways_lite.intervals import Interval, plain
from pathways_lite.scaling.fit import Fit
from pathways_lite.scaling.law_plots import law_svg
from pathways_lite.scaling.parameter_plots import correlation_svg, profiles_svg
from pathways_lite.scaling.plots import COUNTS, amount, fit_svg, frontier_svg, residuals_svg
from pathways_lite.scaling.quality import (
    ARM_OF_ROW,
    describe_intervals,
    format_noise,
    published_objectives,
    quality,
    worst_rows,
)
from pathways_lite.scaling.table import COLUMNS, Column, derive_columns, numeric_column
from pathways_lite.scaling.valleys import limit_ratio, standard_deviations
from pathways_lite.tracking.page import escape, page, paragraph, picture, section, table

WORST_SHOWN = 8  # rows in the table of those farthest from the law


def write_report(fit: Fit, path: str | Path, *, first: str = "") -> Path:
    """Write the page of a fit and return its path; `first` is HTML to put before the sections about the fit."""
    path = Path(path)
    write_text_atomically(path, render(fit, first=first), shared=True)
    return path


def render(fit: Fit, *, first: str = "") -> str:
    """Render the page as HTML. All text is escaped; nothing outside the page is loaded."""
    sections = (
        _notes_section,
        _law_section,
        _parameters_section,
        _quality_section,
        _residuals_section,
        _frontier_section,
        _data_section,
        _settings_section,
    )
    return page(
        f"{fit.law.title}: a fit",
        "".join((_header_section(fit), first, *(make_section(fit) for make_section in sections))),
    )


def _header_section(fit: Fit) -> str:
    metrics = quality(fit)
    lead = (
        f"{fit.law.formula}. {fit.rows} rows, mean relative error {metrics['mean_relative_error']:.3%}, worst "
        f"{metrics['worst_relative_error']:.2%}."
    )
    return f"<header>\n<h1>{escape(fit.law.title)}</h1>\n{paragraph(lead, 'lead')}\n</header>\n"


def _notes_section(fit: Fit) -> str:
    return section("Caveats", *(paragraph(note, "verdict") for note in fit.notes))


def _law_section(fit: Fit) -> str:
    light, dark = law_svg(fit, "light"), law_svg(fit, "dark")
    if light is None or dark is None:
        return ""
    is_curve = len(fit.law.inputs) == 1
    caption = (
        "The law over its input, to ten times the data; the band is of the law, not of a run."
        if is_curve
        else "Left: runs over compute, with the law at some of their sizes. Right: the law at four budgets, "
        "with the runs within 25 % of each."
    )
    return section("The law", picture(light, dark, alt="The law and the runs", caption=caption))


def _parameters_section(fit: Fit) -> str:
    rows = []
    for parameter, deviation in zip(fit.law.parameters, standard_deviations(fit), strict=True):
        interval = fit.parameter_intervals()[parameter.name]
        spread = _format_spread(float(deviation), is_factor=parameter.kind == "positive")
        rows.append([parameter.name, *interval.texts(missing="–"), spread, parameter.unit or "–"])
    caption = f"{describe_intervals(fit)} One sd of a parameter that is fitted as a logarithm is a factor, up or down. "
    caption += (
        "Where the objective is a flat valley, parameters are uncertain jointly and predictions are far more certain."
    )
    header = ["", "value", "2.5 %", "97.5 %", "one sd", "unit"]
    return section("Parameters", table(header, rows, caption=caption), _profiles_figure(fit), _correlation_figure(fit))


def _profiles_figure(fit: Fit) -> str:
    light, dark = profiles_svg(fit, "light"), profiles_svg(fit, "dark")
    if light is None or dark is None:
        return ""
    about = "The best objective that is left with one parameter held at a value, over that of the fit: its valley."
    about += " Shaded: the 95 % interval." if fit.method is not None else ""
    if limit_ratio(fit) is not None:
        about += " Dotted: the rise that the 95 % limits of one parameter allow."
    return picture(light, dark, alt="Profiles of the objective", caption=about)


def _correlation_figure(fit: Fit) -> str:
    light, dark = correlation_svg(fit, "light"), correlation_svg(fit, "dark")
    if light is None or dark is None:
        return ""
    about = "Correlations of the parameters. Two that are nearly ±1 are known only together."
    return picture(light, dark, alt="Correlations of the parameters", caption=about)


def _format_spread(deviation: float, *, is_factor: bool) -> str:
    """Format a standard deviation; that of a logarithm as a factor, like × 1.3."""
    if not np.isfinite(deviation):
        return "–"
    if not is_factor:
        return f"± {deviation:.3g}"
    return f"× {np.exp(deviation):.4g}" if deviation < np.log(1000) else "× > 1000"


def _quality_section(fit: Fit) -> str:
    metrics = quality(fit)
    rows = [
        ["objective (sum)", f"{fit.objective:.8g}"],
        ["loss", f"{fit.loss} in {fit.link}"],
        ["starts at the best objective", f"{fit.reached} of {fit.starts}"],
        ["converged", "yes" if fit.converged else "no"],
        ["R²", plain(metrics["r2"], ".6f")],
        *([["R² of log " + fit.law.target, plain(metrics["r2_of_link"], ".6f")]] if fit.link == "log" else []),
        ["noise of a run", format_noise(fit)],
        ["root mean squared error", f"{metrics['rmse']:.5g}"],
    ]
    published_rows = [
        [name, f"{objective:.8g}", _times_ours(objective, fit)]
        for name, objective in published_objectives(fit)
        if np.isfinite(objective)
    ]
    figure = picture(
        fit_svg(fit, "light"), fit_svg(fit, "dark"), alt="Measured against predicted", caption="One point per row."
    )
    worst = table(
        ["farthest from the law", "measured", "predicted", "error"],
        [
            [
                row.name,
                f"{row.measured:.5g}",
                f"{row.predicted:.5g}",
                _error_text(row.error),
            ]
            for row in worst_rows(fit, WORST_SHOWN)
        ],
    )
    published = table(
        ["published values", "objective", "compared with this fit"],
        published_rows,
        caption="Published constants evaluated on these data; those of other data need not describe them.",
    )
    return section("How well it fits", table(["", ""], rows), worst, figure, published if published_rows else "")


def _error_text(error: float) -> str:
    return "" if math.isnan(error) else plain(error, "+.2%")


def _times_ours(objective: float, fit: Fit) -> str:
    """Say how many times the fit's own objective another one is."""
    if not fit.objective > 1e-20 * fit.rows:
        return "–"  # exact data, on which ratios are of rounding errors
    ratio = objective / fit.objective
    return f"{ratio:.4f} times ours" if ratio < 1.1 else f"{ratio:.3g} times ours".replace("e+0", "e")


def _residuals_section(fit: Fit) -> str:
    caption = "Measured minus predicted, relative to measured. A pattern is something that the law does not describe."
    caption += " The rows farthest from the law are named."
    return section(
        "Residuals",
        picture(residuals_svg(fit, "light"), residuals_svg(fit, "dark"), alt="Residuals by input", caption=caption),
    )


def _frontier_section(fit: Fit) -> str:
    light, dark = frontier_svg(fit, "light"), frontier_svg(fit, "dark")
    if light is None or dark is None:
        return ""
    largest = float(numeric_column(derive_columns(fit.data, ("C",)), "C").max())
    rows = []
    for C in (largest, 10 * largest, 100 * largest):
        try:
            best = fit.optimal(C)
        except UserError:
            return ""
        rows.append([f"{C:.3g}", *(_format_allocation(name, interval) for name, interval in best.items())])
    header = ["C (FLOPs)", *(name.replace("_", " ") for name in fit.optimal(largest))]
    caption = "With 95 % intervals. Beyond ten times the data's compute the form of the law is an assumption."
    alt = "Compute-optimal parameters and tokens"
    return section(
        "Compute-optimal", picture(light, dark, alt=alt, caption="Bands: 95 %."), table(header, rows, caption=caption)
    )


def _data_section(fit: Fit) -> str:
    rows = []
    for name in (*fit.law.inputs, fit.law.target):
        column, definition = fit.data[name], COLUMNS.get(name)
        if column.ndim == 1:
            format_value = amount if name in COUNTS else "{:.4g}".format
            numbers = [format_value(float(value)) for value in (column.min(), np.median(column), column.max())]
            rows.append(
                [name, _describe_column(definition) if definition else "–", *numbers, f"{len(np.unique(column))}"]
            )
    return section("Data", table(["", "meaning", "minimum", "median", "maximum", "distinct"], rows))


def _describe_column(column: Column) -> str:
    """Return the column's meaning, with its unit if the meaning does not name it."""
    return column.meaning if column.unit in column.meaning else f"{column.meaning}, {column.unit}"


def _settings_section(fit: Fit) -> str:
    origin = {name: value for name, value in fit.origin.items() if name != ARM_OF_ROW}
    settings = {**origin, "law": fit.law.name, "source": fit.law.source, "seed": fit.seed, "starts": fit.starts}
    return section("How to reproduce it", f"<pre>\n{escape(json.dumps(settings, indent=2, ensure_ascii=False))}</pre>")


def _format_allocation(name: str, interval: Interval) -> str:
    """Format a value and its limits in few digits, on two lines; sizes are written like 7.3B."""
    format_value = amount if name in ("N", "D") else "{:.3g}".format
    value, low, high = interval.texts(format_value)
    return f"{value}\n({low}, {high})" if interval.has_limits else value
