"""The figure of a table of checkpoints: held-out bits per byte, or loss, over the tokens of the chain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pathways_lite.scaling.plots import set_log_scale
from pathways_lite.scaling.table import Table
from pathways_lite.tracking.plot_style import Palette, annotate, label_text, line_style, save_figure, style

MOST_DOMAINS = 10  # more lines than these are not told apart


def write_picture(table: Table, path: Path) -> Path:
    """Write the figure of a table of checkpoints (`evaluate --along`), and return its path."""
    with style("light") as palette:
        save_figure(draw_checkpoints(table, palette), path)
    return path


def draw_checkpoints(table: Table, palette: Palette) -> Figure:
    """Draw all held-out text and each domain over tokens, with a line where a stage ends.

    Bits per byte where the tokens give the text back, nats per token elsewhere.
    """
    has_bits = bool(np.isfinite(table["bits_per_byte"]).all())
    total, prefix = ("bits_per_byte", "bits_") if has_bits else ("L", "loss_")
    domains = [name for name in table if name.startswith(prefix) and name not in ("bits_per_byte", "loss_")]
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    ax = figure.subplots()
    D = table["D"]
    lines = [(total, "all text"), *((name, name.removeprefix(prefix)) for name in domains if len(domains) > 1)]
    for i, (name, label) in enumerate(lines[: MOST_DOMAINS + 1]):
        look = {**line_style(i, palette), "markersize": 4, "linewidth": 2.0 if i == 0 else 1.2}
        ax.plot(D, table[name], label=label_text(label), **look)
    if (D > 0).all() and D.max() > 1.5 * D.min():
        set_log_scale(ax, "x", counts="x")
    stages = table["stage"]
    for i in np.flatnonzero(stages[1:] != stages[:-1]).tolist():
        ax.axvline(D[i], color=palette.faint, linewidth=1, linestyle=":")
        annotate(
            ax, label_text(str(stages[i + 1])), (D[i], 1), ("data", "axes fraction"), (4, -10), color=palette.faint
        )
    ax.set(xlabel="tokens", ylabel="bits per byte" if has_bits else "nats per token")
    if len(lines) > 1:
        ax.legend()
    return figure
