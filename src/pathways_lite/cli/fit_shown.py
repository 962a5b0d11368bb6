"""How a fit looks on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pathways_lite.scaling.fit import Fit


def shown(fit: Fit) -> Group:
    """Parameters with intervals, how it was found, and what to know before believing it."""
    grid = Table("", "value", "2.5 %", "97.5 %", "unit")
    for (name, found), parameter in zip(fit.parameter_intervals().items(), fit.law.parameters, strict=True):
        limits = ("", "") if not fit.bootstraps else (f"{found.low:.5g}", f"{found.high:.5g}")
        grid.add_row(name, f"{found.value:.6g}", *limits, parameter.unit)
    lines = [
        f"{fit.law.title}: {fit.law.formula}",
        f"{fit.rows} rows, {fit.loss} in {fit.link}: objective (sum) {fit.objective:.8g}, "
        f"reached by {fit.reached} of {fit.starts} starts",
        *fit.notes,
    ]
    return Group(Text(lines[0]), grid, *(Text(line) for line in lines[1:]))
