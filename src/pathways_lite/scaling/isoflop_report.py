"""The page and the figure of an IsoFLOP analysis: losses over sizes by budget, and the optimal sizes over compute."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pathways_lite.atomic_file import write_text_atomically
from pathways_lite.intervals import Interval, plain
from pathways_lite.run_directory import write_json
from pathways_lite.scaling.isoflop_analysis import Estimate, IsoflopAnalysis
from pathways_lite.scaling.laws import chinchilla
from pathways_lite.scaling.plots import amount, set_log_scale
from pathways_lite.tracking.page import escape, page, paragraph, picture, section, table
from pathways_lite.tracking.plot_style import Palette, save_figure, style, to_svg

FORMAT = 1


def write_isoflop_report(analysis: IsoflopAnalysis, path: Path, origin: dict[str, Any]) -> list[Path]:
    """Write the analysis as JSON to `path`, and a page and a figure beside it; return their paths."""
    paths = [path, path.with_suffix(".html"), path.with_suffix(".png")]
    content = asdict(analysis)
    for profile in content["profiles"]:
        profile |= {name: profile[name].tolist() for name in ("sizes", "tokens", "losses")}
    write_json(path, {"format": FORMAT, "kind": "isoflop", "origin": origin, **content})
    write_text_atomically(paths[1], render(analysis, origin), shared=True)
    with style("light") as palette:
        save_figure(draw(analysis, palette), paths[2])
    return paths


def sentences(analysis: IsoflopAnalysis) -> list[str]:
    """Return the result in words: the parabola's bias, the scatter and the notes."""
    ratio, difference = analysis.bias
    result = []
    if np.isfinite(ratio):
        from_truth = plain(difference, "+.3f")
        result.append(
            f"Bias check: without noise, these sizes and this method give {ratio:.3g} times the best N at C = "
            f"{analysis.C:.3g}, and an exponent {from_truth} from the truth, if the truth is approach 3's law."
        )
    if np.isfinite(analysis.noise):
        result.append(f"Losses scatter by {analysis.noise:.2%} around the parabolas.")
        if analysis.noise > 0.01:
            result.append(
                "That is more than runs with other seeds usually differ by: the profiles are no parabolas over all of "
                "these sizes; keep those near the minimum with --where, or try --akima."
            )
    return [*result, *analysis.notes]


def estimate_rows(analysis: IsoflopAnalysis) -> list[list[str]]:
    """Return a row of text per method: its exponent, N, D, D/N and L at the target budget."""
    return [
        [
            e.method, _limits(e.exponent, "{:.3f}".format), _limits(e.N, amount), _limits(e.D, amount),
            f"{e.D.value / e.N.value:.3g}", f"{e.L:.4f}" if np.isfinite(e.L) else "–",
        ]
        for e in analysis.estimates
    ]  # fmt: skip


ESTIMATE_HEADER = ("method", "exponent of N*", "N*", "D*", "D/N", "L")


def _limits(interval: Interval, format_value: Any) -> str:
    value, low, high = interval.texts(format_value)
    return f"{value} ({low}, {high})" if interval.has_limits else value


def render(analysis: IsoflopAnalysis, origin: dict[str, Any]) -> str:
    """Render the page as HTML."""
    figures = []
    for theme in ("light", "dark"):
        with style(theme) as palette:
            figures.append(to_svg(draw(analysis, palette)))
    caption = (
        "Left: runs of each budget with the parabola in ln N and its minimum. Right: the minima with 95 % intervals, "
        "the power law through them, and the optimum of the Chinchilla law fitted to all runs."
    )
    profiles = [
        [f"{p.C:.3g}", str(len(p.sizes)), _limits(p.N, amount) if np.isfinite(p.N.value) else "at the edge",
         amount(p.D) if np.isfinite(p.D) else "–", f"{p.L:.4f}"]
        for p in analysis.profiles
    ]  # fmt: skip
    header = f"<header>\n<h1>IsoFLOP analysis</h1>\n{paragraph(_lead(analysis), 'lead')}\n</header>\n"
    return page(
        "IsoFLOP analysis",
        header
        + section("What it says", *(paragraph(sentence, "verdict") for sentence in sentences(analysis)))
        + section("Profiles", picture(*figures, alt="Losses by size, and optimal sizes by compute", caption=caption))
        + section(
            f"The optimum at C = {analysis.C:.3g}",
            table(ESTIMATE_HEADER, estimate_rows(analysis), caption="Intervals, where given, are at 95 %."),
        )
        + section("By budget", table(("C (FLOPs)", "sizes", "N*", "D*", "L"), profiles))
        + section("Where the runs come from", f"<pre>{escape(str(origin))}</pre>"),
    )


def _lead(analysis: IsoflopAnalysis) -> str:
    best = analysis.estimates[0]
    runs = sum(len(p.sizes) for p in analysis.profiles)
    return (
        f"{runs} runs at {len(analysis.profiles)} budgets. N* grows as C^{best.exponent.value:.3f}; at C = "
        f"{analysis.C:.3g} it is {amount(best.N.value)} parameters on {amount(best.D.value)} tokens."
    )


def draw(analysis: IsoflopAnalysis, palette: Palette) -> Figure:
    """Draw the profiles, and the optimal sizes over compute."""
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_profiles(left, analysis, palette)
    _draw_sizes(right, analysis, palette)
    return figure


def _draw_profiles(ax: Axes, analysis: IsoflopAnalysis, palette: Palette) -> None:
    for i, profile in enumerate(analysis.profiles):
        color = palette.series[i % len(palette.series)]
        ax.plot(profile.sizes, profile.losses, "os^Dv"[i % 5], color=color, markersize=4, linestyle="")
        u = np.log(profile.sizes)
        curve = np.polyfit(u - u.mean(), profile.losses, 2)
        grid = np.linspace(u[0], u[-1], 60)
        ax.plot(np.exp(grid), np.polyval(curve, grid - u.mean()), color=color, linewidth=1.2)
        if np.isfinite(profile.N.value):
            ax.plot([profile.N.value], [profile.L], "*", color=palette.ink, markersize=8)
        ax.annotate(
            f"{profile.C:.2g}", (profile.sizes[-1], np.polyval(curve, u[-1] - u.mean())), xytext=(4, 0),
            textcoords="offset points", fontsize=7.5, color=color, va="center",
        )  # fmt: skip
    set_log_scale(ax, "x", counts="x")
    ax.margins(x=0.12)
    ax.set(xlabel="parameters N", ylabel="loss L (by C in FLOPs)")


def _draw_sizes(ax: Axes, analysis: IsoflopAnalysis, palette: Palette) -> None:
    inside = [p for p in analysis.profiles if np.isfinite(p.N.value)]
    C = np.array([p.C for p in inside])
    grid = np.geomspace(C.min(), max(analysis.C, C.max()), 50)
    for p in inside:
        low, high = (p.N.low, p.N.high) if p.N.has_limits else (p.N.value, p.N.value)
        ax.plot([p.C, p.C], [low, high], color=palette.series[0], linewidth=1.5)
    ax.plot(C, [p.N.value for p in inside], "o", color=palette.series[0], markersize=5, label="minima")
    best: Estimate = analysis.estimates[0]
    ax.plot(grid, [analysis.size_law(c) for c in grid], color=palette.series[0], label=f"C^{best.exponent.value:.3f}")
    if min(analysis.law[name] for name in ("A", "B", "alpha", "beta")) > 0:
        law = chinchilla.optimal(analysis.law, grid)
        ax.plot(grid, law["N"], "--", color=palette.series[1], label="Chinchilla law of all runs")
    if C.max() < analysis.C:
        ax.axvspan(C.max(), analysis.C, color=palette.grid, zorder=0, label="beyond the data")
    if best.N.has_limits:
        errors = [[best.N.value - best.N.low], [best.N.high - best.N.value]]
        ax.errorbar([analysis.C], [best.N.value], errors, color=palette.ink, marker="_", capsize=4, linestyle="")
    set_log_scale(ax, counts="y")
    ax.set(xlabel="compute C (FLOPs)", ylabel="optimal parameters N*")
    ax.legend()
