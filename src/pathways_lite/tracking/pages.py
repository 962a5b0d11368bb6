"""Everything about a run that is for people to look at."""

from __future__ import annotations

from pathlib import Path

from pathways_lite.tracking.plots import save_curves
from pathways_lite.tracking.report import write_report
from pathways_lite.tracking.run_data import read_run


def write_pages(run_directory: str | Path) -> list[Path]:
    """Write the page and the loss curves of a run, and return where they are. Raises UserError where there is none."""
    directory = Path(run_directory)
    curves = [directory / "loss.png", directory / "loss.svg"]
    save_curves(read_run(directory), *curves)
    return [write_report(directory), *curves]
