"""Figures of repeated samples: accuracy over the number of samples, and what a weak verifier lets through."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from pathways_lite.judging.beyond import Beyond
from pathways_lite.judging.judgement import COVERAGE, Curve, Judgement, WeakJudgement
from pathways_lite.tracking.plot_style import Palette, Theme, label_text, line_style, save_figure, style, to_svg

_BINS = 20
_MOST_BANDS = 3  # that can be told apart


def curves_svg(judgement: Judgement, beyond: Beyond | None, theme: Theme) -> str:
    """Plot coverage and every selection over k with their intervals, and predictions of coverage beyond the samples."""
    with style(theme) as palette:
        return to_svg(_draw_curves(judgement, beyond, palette))


def _draw_curves(judgement: Judgement, beyond: Beyond | None, palette: Palette) -> Figure:
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    ax = figure.subplots()
    for i, (name, curve) in enumerate(judgement.curves.items()):
        _draw(ax, judgement.ks, curve, name, i, palette)
    if beyond is not None:
        _draw_beyond(ax, beyond, palette)
    _finish(ax, "samples k")
    return figure


def weak_svg(weak: WeakJudgement, theme: Theme) -> str:
    """Plot over attempts K what is solved, what passes wrongly, and what a perfect verifier would solve."""
    with style(theme) as palette:
        figure = Figure(figsize=(7.2, 4.0), layout="constrained")
        ax = figure.subplots()
        lines = (("perfect verifier", weak.perfect), ("solved", weak.solved), ("false positives", weak.false_positives))
        for i, (name, curve) in enumerate(lines):
            _draw(ax, weak.ks, curve, name, i, palette)
        _finish(ax, "attempts K")
        return to_svg(figure)


def problems_svg(judgement: Judgement, theme: Theme) -> str:
    """Plot how many problems have which share of correct samples; those without one have a bar of their own."""
    with style(theme) as palette:
        figure = Figure(figsize=(7.2, 2.8), layout="constrained")
        ax = figure.subplots()
        rates = judgement.counts.correct / judgement.counts.samples
        ax.hist(
            rates[rates > 0],
            np.linspace(0, 1, _BINS + 1).tolist(),
            color=palette.series[0],
            label="solved at least once",
        )
        ax.bar(-0.5 / _BINS, np.sum(rates == 0), 1 / _BINS, color=palette.series[1], hatch="//", label="never solved",
               edgecolor=palette.grid)  # fmt: skip
        ax.set(xlabel="share of correct samples", ylabel="problems", xlim=(-1.5 / _BINS, 1.02))
        ax.legend()
        return to_svg(figure)


def write_picture(judged: Mapping[str, tuple[Judgement, Beyond | None]], path: Path) -> Path:
    """Write the curves of one directory of samples, or coverage of several by name, and return the path."""
    with style("light") as palette:
        if len(judged) == 1:
            figure = _draw_curves(*next(iter(judged.values())), palette)
        else:
            figure = _draw_comparison(judged, palette)
        save_figure(figure, path)
    return path


def _draw_comparison(judged: Mapping[str, tuple[Judgement, Beyond | None]], palette: Palette) -> Figure:
    """Draw coverage of several directories by name, with what was predicted of it, and what weak verifiers solve."""
    weak = {name: judgement.weak for name, (judgement, _) in judged.items() if judgement.weak is not None}
    figure = Figure(figsize=(10.4 if weak else 7.2, 4.4), layout="constrained")
    axes = figure.subplots(1, 2 if weak else 1, squeeze=False)[0]
    labels, banded = _short_names(list(judged)), len(judged) <= _MOST_BANDS
    for i, (name, (judgement, beyond)) in enumerate(judged.items()):
        look = _draw(axes[0], judgement.ks, judgement.curves[COVERAGE], labels[name], i, palette, banded=banded)
        if beyond is not None and max(beyond.ks) > beyond.samples:
            ks = np.geomspace(beyond.samples, max(beyond.ks), 50)
            axes[0].plot(ks, beyond.beta.coverage(ks), color=look["color"], linewidth=1, linestyle=":")
    for i, name in enumerate(judged):
        if name in weak:
            _draw(axes[1], weak[name].ks, weak[name].solved, labels[name], i, palette, banded=banded)
    if any(beyond is not None for _, beyond in judged.values()):
        axes[0].plot([], [], color=palette.faint, linewidth=1, linestyle=":", label="predicted: Beta distribution")
    for ax, xlabel in zip(axes, ("samples k", "attempts K"), strict=False):
        _finish(ax, xlabel)
    axes[0].set_title("some sample is correct")
    if weak:
        axes[1].set_title("the first that a weak verifier accepts is correct")
        axes[1].sharey(axes[0])
    return figure


def _short_names(names: list[str]) -> dict[str, str]:
    """Return the directories' own names where they tell them apart, and their paths elsewhere."""
    own = [Path(name).name for name in names]
    return dict(zip(names, map(label_text, own if len(set(own)) == len(own) else names), strict=True))


def _draw(
    ax: Axes, ks: np.ndarray, curve: Curve, name: str, i: int, palette: Palette, *, banded: bool = True
) -> dict[str, Any]:
    """Draw a curve with its band, and return its look."""
    look = line_style(i, palette)
    ax.plot(ks, curve.mean, label=name, markersize=3.5, markevery=max(1, len(ks) // 12), linewidth=1.6, **look)
    if banded and np.isfinite(curve.low).all():
        ax.fill_between(ks, curve.low, curve.high, color=look["color"], alpha=0.13, linewidth=0)
    return look


def _draw_beyond(ax: Axes, beyond: Beyond, palette: Palette) -> None:
    if max(beyond.ks) > beyond.samples:
        ks = np.geomspace(beyond.samples, max(beyond.ks), 50)
        ax.plot(ks, beyond.beta.coverage(ks), color=palette.faint, linewidth=1, linestyle=":")
    estimators = (("Beta distribution", beyond.by_beta, "o", -0.02), ("power law", beyond.by_power, "s", 0.02))
    for name, intervals, marker, shift in estimators:
        x = np.array(beyond.ks) * (1 + shift)
        y = np.array([interval.value for interval in intervals])
        limits = np.array([[interval.low, interval.high] for interval in intervals]).T
        errors = np.clip(np.nan_to_num(np.abs(limits - y)), 0, None)
        ax.errorbar(
            x, y, errors, fmt=marker, color=palette.ink, markersize=4.5, linewidth=1, capsize=2.5,
            markerfacecolor="none" if marker == "s" else palette.ink, label=f"predicted: {name}",
        )  # fmt: skip


def _finish(ax: Axes, xlabel: str) -> None:
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel=xlabel, ylabel="share of problems")
    ax.set_ylim(0, min(1.02, 1.12 * ax.get_ylim()[1]))
    ax.legend()
