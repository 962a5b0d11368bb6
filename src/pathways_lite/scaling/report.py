"""A fit as one self-contained HTML page: data, fit, residuals, intervals, the optimal frontier, caveats."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.scaling.fit import Fit, Interval, published_objectives, quality
from pathways_lite.scaling.plots import fit_svg, frontier_svg, residuals_svg
from pathways_lite.scaling.table import COLUMNS, Column, numeric, with_derived
from pathways_lite.tracking.formatting import si
from pathways_lite.tracking.page import page, paragraph, picture, section, table


def write_report(fit: Fit, path: str | Path, *, first: str = "") -> Path:
    """Write the page of a fit and return where it is; `first` is HTML that goes before everything about the fit."""
    path = Path(path)
    path.write_text(render(fit, first=first), encoding="utf-8")
    return path


def render(fit: Fit, *, first: str = "") -> str:
    """The page as HTML. All text is escaped; nothing outside the page is loaded."""
    parts = (
        _notes_section,
        _parameters_section,
        _quality_section,
        _residuals_section,
        _frontier_section,
        _data_section,
        _settings_section,
    )
    return page(f"{fit.law.title}: a fit", "".join((_header_section(fit), first, *(part(fit) for part in parts))))


def _header_section(fit: Fit) -> str:
    found = quality(fit)
    lead = (
        f"{fit.law.formula}. {fit.rows} rows, mean relative error {found['mean_relative_error']:.3%}, worst "
        f"{found['worst_relative_error']:.2%}."
    )
    return f"<header>\n<h1>{escape(fit.law.title)}</h1>\n{paragraph(lead, 'lead')}\n</header>\n"


def _notes_section(fit: Fit) -> str:
    return section("Before believing it", *(paragraph(note, "verdict") for note in fit.notes))


def _parameters_section(fit: Fit) -> str:
    rows = []
    for parameter in fit.law.parameters:
        found = fit.parameter_intervals()[parameter.name]
        samples = fit.samples.get(parameter.name)
        spread = "–" if samples is None else f"{np.std(samples):.4g}"
        rows.append([parameter.name, f"{found.value:.5g}", *_format_limits(found), spread, parameter.unit or "–"])
    caption = (
        f"{fit.bootstraps} bootstraps over {'rows' if fit.groups is None else 'whole runs'}, "
        f"{'corrected for bias and acceleration' if fit.jackknife else 'percentiles'}. "
        if fit.bootstraps
        else "No bootstrap was made, so there are no intervals. "
    )
    caption += "In a flat valley parameters are uncertain together; predictions are far better known."
    return section("Parameters", table(["", "value", "2.5 %", "97.5 %", "sd", "unit"], rows, caption=caption))


def _quality_section(fit: Fit) -> str:
    found = quality(fit)
    facts = [
        ["objective (sum)", f"{fit.objective:.8g}"],
        ["loss", f"{fit.loss} in {fit.link}"],
        ["starts at the best objective", f"{fit.reached} of {fit.starts}"],
        ["converged", "yes" if fit.converged else "no"],
        ["R²", f"{found['r2']:.6f}"],
        ["root mean squared error", f"{found['rmse']:.5g}"],
    ]
    others = [[name, f"{objective:.8g}"] for name, objective in published_objectives(fit) if np.isfinite(objective)]
    figure = picture(
        fit_svg(fit, "light"), fit_svg(fit, "dark"), alt="Measured against predicted", caption="One point per row."
    )
    published = table(["published values", "objective here"], others, caption="Published constants on these data.")
    return section("How well it fits", table(["", ""], facts), figure, published if others else "")


def _residuals_section(fit: Fit) -> str:
    caption = "Measured minus predicted, relative to measured. A pattern is what the law does not know."
    return section(
        "What is left over",
        picture(residuals_svg(fit, "light"), residuals_svg(fit, "dark"), alt="Residuals by input", caption=caption),
    )


def _frontier_section(fit: Fit) -> str:
    light, dark = frontier_svg(fit, "light"), frontier_svg(fit, "dark")
    if light is None or dark is None:
        return ""
    top = float(numeric(with_derived(fit.data, ("C",)), "C").max())
    rows = []
    for C in (top, 10 * top, 100 * top):
        try:
            best = fit.optimal(C)
        except UserError:
            return ""
        rows.append([f"{C:.3g}", *(_format_allocation(name, found) for name, found in best.items())])
    header = ["C (FLOPs)", *(name.replace("_", " ") for name in fit.optimal(top))]
    caption = "With 95 % intervals. From ten times the data's compute on, the form of the law is an assumption."
    alt = "Compute-optimal parameters and tokens"
    return section(
        "Compute-optimal", picture(light, dark, alt=alt, caption="Bands: 95 %."), table(header, rows, caption=caption)
    )


def _data_section(fit: Fit) -> str:
    rows = []
    for name in (*fit.law.inputs, fit.law.target):
        column, known = fit.data[name], COLUMNS.get(name)
        if column.ndim == 1:
            numbers = [f"{value:.4g}" for value in (column.min(), np.median(column), column.max())]
            rows.append([name, _describe_column(known) if known else "–", *numbers, f"{len(np.unique(column))}"])
    return section("Data", table(["", "what", "least", "median", "most", "different"], rows))


def _describe_column(column: Column) -> str:
    """Its meaning, with the unit where that is not said already."""
    return column.meaning if column.unit in column.meaning else f"{column.meaning}, {column.unit}"


def _settings_section(fit: Fit) -> str:
    facts = {**fit.origin, "law": fit.law.name, "source": fit.law.source, "seed": fit.seed, "starts": fit.starts}
    return section("How to repeat it", f"<pre>\n{escape(json.dumps(facts, indent=2, ensure_ascii=False))}</pre>")


def _format_allocation(name: str, found: Interval) -> str:
    """A value and its limits in few digits: sizes with prefixes, as in 7.3 G."""
    shown = si if name in ("N", "D") else "{:.3g}".format
    limits = f" ({shown(found.low)}, {shown(found.high)})" if np.isfinite(found.low) else ""
    return shown(found.value) + limits


def _format_limits(found: Interval) -> list[str]:
    return ["–" if not np.isfinite(limit) else f"{limit:.4g}" for limit in (found.low, found.high)]
