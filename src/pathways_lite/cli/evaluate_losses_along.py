"""`pathways-lite evaluate RUN --along`: the held-out loss of every checkpoint that a run keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import typer

from pathways_lite.cli.common import print_json
from pathways_lite.cli.evaluate_along import (
    Row,
    checkpoint_facts,
    default_table,
    evaluate_along,
    measured_sentence,
    yes_or_no,
)

if TYPE_CHECKING:
    from pathways_lite.scaling.table import Table
    from pathways_lite.training.evaluate_checkpoints import CheckpointEvaluator
    from pathways_lite.training.load import TrainedModel


class LossMeasurement:
    """Measures held-out losses."""

    unit = "tokens"

    def __init__(self, evaluator: CheckpointEvaluator, average: bool) -> None:
        self._evaluator, self._average = evaluator, average
        self.units = evaluator.tokens
        self.same = {
            "text": evaluator.text_digest,
            "overlap": f"{evaluator.overlap or 0}",
            "average": yes_or_no(average),
        }

    def load(self, checkpoint: Path) -> TrainedModel:
        """Load a checkpoint, whose tokenizer must be that of the text."""
        return self._evaluator.load(checkpoint)

    def rows(self, model: TrainedModel, measured: list[Row], advance: Callable[[int], None]) -> list[Row]:
        """Evaluate a checkpoint that has no row yet."""
        from pathways_lite.scaling.runs_table import loss_columns

        if measured:
            return []
        evaluator, shown = self._evaluator, 0.0

        def between_batches(done: int, batches: int) -> None:
            nonlocal shown
            # Domains are evaluated one after another, each with batches of its own.
            part = evaluator.tokens / evaluator.domains / batches
            advance(int(shown + part) - int(shown))
            shown += part

        results = evaluator.evaluate(model, between_batches=between_batches)
        total = sum(results.values(), start=type(next(iter(results.values())))())
        return [
            {
                **checkpoint_facts(model, self._average),
                **loss_columns({name: result.to_json() for name, result in results.items()}),
                "bits_per_byte": None if total.lossy else total.bits_per_byte,
                "text": evaluator.text_digest,
                "overlap": float(evaluator.overlap or 0),
            }
        ]


def evaluate_losses_along(
    path: Path, out: Path | None, *, every: int, corpus: str | None, tokens: int | None, overlap: int | None,
    average: bool, as_json: bool,
) -> None:  # fmt: skip
    """Write a table of held-out losses and a picture, and print them."""
    from pathways_lite.scaling.along_plot import write_picture
    from pathways_lite.scaling.runs_table import to_columns
    from pathways_lite.training.evaluate_checkpoints import CheckpointEvaluator

    evaluator = CheckpointEvaluator(path, corpus=corpus, tokens=tokens, overlap=overlap, average=average)
    out = out or default_table(path, "along.csv")
    rows, measured = evaluate_along(path, out, LossMeasurement(evaluator, average), every=every)
    picture = write_picture(to_columns(rows), out.with_suffix(".png"))
    if as_json:
        facts = {"table": out, "picture": picture, "measured": measured, "kept": len(rows) - measured}
        print_json({**facts, "rows": rows})
        return
    _print_rows(to_columns(rows), str(path))
    typer.echo(measured_sentence(measured, len(rows) - measured, "checkpoint"))
    typer.echo(out)
    typer.echo(picture)


def _print_rows(table: Table, title: str) -> None:
    from pathways_lite.console import Console
    from pathways_lite.console import Table as Grid
    from pathways_lite.tracking.formatting import si

    grid = Grid(title=title)
    for column in ("stage", "step", "tokens", "FLOPs", "loss", "bits/byte"):
        grid.add_column(column, justify="left" if column == "stage" else "right")
    for i, stage in enumerate(table["stage"]):
        bits = table["bits_per_byte"][i]
        grid.add_row(
            str(stage), f"{table['step'][i]:,.0f}", si(table["D"][i]), f"{table['C'][i]:.3g}", f"{table['L'][i]:.4f}",
            f"{bits:.4f}" if np.isfinite(bits) else "-",
        )  # fmt: skip
    Console().print(grid)
