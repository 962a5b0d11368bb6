"""A picture of how dense each layer's arrays are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pathways_lite.tracking.drawing import style

NUMBERED = 24
"""Up to so many layers, shares are written into the picture."""


def draw_densities(densities: Mapping[str, np.ndarray], path: Path) -> None:
    """Shares of active weights, [layers] by array, as a map of arrays by layers; an array without layers has one."""
    layers = max(len(row) for row in densities.values())
    grid = np.full((len(densities), layers), np.nan)
    for at, row in enumerate(densities.values()):
        grid[at, : len(row)] = row
    with style("light") as palette:
        figure = Figure(
            figsize=(max(5.0, min(12.0, 2.6 + 0.45 * layers)), 1.4 + 0.34 * len(densities)), layout="constrained"
        )
        ax = figure.subplots()
        ax.grid(visible=False)
        image = ax.imshow(100 * grid, cmap="Blues", vmin=0, vmax=100, aspect="auto")
        ax.set_yticks(range(len(densities)), [name.removeprefix("layers.") for name in densities])
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
        ax.set_xlabel("layer, from the bottom")
        for (at, layer), share in np.ndenumerate(grid):
            if layers <= NUMBERED and not np.isnan(share):
                color = "white" if share > 0.6 else palette.ink
                ax.text(layer, at, f"{100 * share:.0f}", ha="center", va="center", fontsize=7.5, color=color)
        figure.colorbar(image, ax=ax, label="active weights (%)")
        figure.savefig(path, dpi=160)
