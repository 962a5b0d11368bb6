"""`pathways-lite evaluate RUN --along`: the held-out loss of every checkpoint that a run keeps, as a table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from pathways_lite.cli.common import count_progress, print_json

if TYPE_CHECKING:
    from pathways_lite.scaling.table import Table
    from pathways_lite.training.evaluate_checkpoints import CheckpointEvaluator
    from pathways_lite.training.load import TrainedModel

KEY = ("digest", "text", "overlap", "average")
"""The columns that say what a row measured: of which parameters, on which text, how."""


def evaluate_along(
    path: Path, out: Path | None, *, every: int, corpus: str | None, tokens: int | None, overlap: int | None,
    average: bool, as_json: bool,
) -> None:  # fmt: skip
    """Evaluate every kept checkpoint at `path`, and write a table and a picture; rows that are there are kept.

    The table is written after each checkpoint, so a command that was interrupted continues. Raises UserError if the
    table is of other text.
    """
    from pathways_lite.checkpoints import DamagedError
    from pathways_lite.errors import UserError
    from pathways_lite.output_lock import lock_file
    from pathways_lite.scaling.along_plot import write_picture
    from pathways_lite.scaling.runs_table import to_columns
    from pathways_lite.scaling.table import write_table
    from pathways_lite.training.evaluate_checkpoints import CheckpointEvaluator, kept_checkpoints
    from pathways_lite.training.load import print_warning

    checkpoints = kept_checkpoints(path, every)
    evaluator = CheckpointEvaluator(path, corpus=corpus, tokens=tokens, overlap=overlap, average=average)
    out = out or _default_table(path)
    measured = 0
    with lock_file(out):
        rows = _rows_so_far(out, evaluator, average)
        known = {row["digest"] for row in rows}
        total = evaluator.tokens * len(checkpoints)
        with count_progress("evaluating checkpoints", total, "tokens") as advance:
            for checkpoint in checkpoints:
                try:
                    model = evaluator.load(checkpoint)
                    if model.manifest.digest in known:
                        advance(evaluator.tokens)
                        continue
                    rows.append(_measure(evaluator, model, advance, average))
                except (DamagedError, FileNotFoundError) as error:  # or just deleted by the run that is training
                    print_warning(f"{checkpoint} is left out: {error}")
                    advance(evaluator.tokens)
                    continue
                measured += 1
                rows.sort(key=lambda row: (row["D"], row["step"]))
                write_table(to_columns(rows), out)
        if not rows:
            raise UserError(f"no checkpoint of {path} could be evaluated")
        picture = write_picture(to_columns(rows), out.with_suffix(".png"))
    if as_json:
        facts = {"table": out, "picture": picture, "measured": measured, "kept": len(rows) - measured}
        print_json({**facts, "rows": rows})
        return
    _print_rows(to_columns(rows), str(path))
    typer.echo(f"{measured} checkpoints measured, {len(rows) - measured} rows kept")
    typer.echo(out)
    typer.echo(picture)


def _default_table(path: Path) -> Path:
    """Return along.csv in the run's or stage's directory; for one checkpoint, in its stage's."""
    from pathways_lite.checkpoint_names import step_of

    directory = path.parent.parent if step_of(path) is not None else path
    return directory / "along.csv"


def _rows_so_far(out: Path, evaluator: CheckpointEvaluator, average: bool) -> list[dict[str, Any]]:
    """Return the rows of an earlier call. Raises UserError for a table of something else."""
    from pathways_lite.errors import UserError
    from pathways_lite.scaling.runs_table import to_rows
    from pathways_lite.scaling.table import read_table

    if out.suffix not in (".csv", ".parquet"):
        raise UserError(f"{out.name} ends in neither .parquet nor .csv; use one of these suffixes to choose the format")
    if not out.exists():
        return []
    table = read_table(out)
    if missing := [name for name in KEY if name not in table]:
        raise UserError(
            f"{out} was not written by `evaluate --along`: it has no column {missing[0]}; name another --out"
        )
    wanted = {"text": evaluator.text_digest, "overlap": f"{evaluator.overlap or 0}", "average": _yes_or_no(average)}
    for name, value in wanted.items():
        if other := [found for found in map(_as_text, table[name]) if found != value]:
            raise UserError(
                f"{out} has results with {name} {other[0]}, and these would have {name} {value}, which cannot be "
                "compared; name another --out, or delete the file"
            )
    return to_rows(table)


def _as_text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _yes_or_no(average: bool) -> str:
    return "yes" if average else "no"


def _measure(
    evaluator: CheckpointEvaluator, model: TrainedModel, advance: Callable[[int], None], average: bool
) -> dict[str, Any]:
    """Evaluate one checkpoint, and return its row."""
    from pathways_lite.models.accounting import parameter_count
    from pathways_lite.scaling.runs_table import checkpoint_row

    shown = 0.0

    def between_batches(done: int, batches: int) -> None:
        nonlocal shown
        # Domains are evaluated one after another, each with batches of its own.
        part = evaluator.tokens / evaluator.domains / batches
        advance(int(shown + part) - int(shown))
        shown += part

    results = evaluator.evaluate(model, between_batches=between_batches)
    advance(evaluator.tokens - int(shown))
    total = sum(results.values(), start=type(next(iter(results.values())))())
    row = checkpoint_row(
        model.path, model.manifest.step, model.manifest.meta, {name: r.to_json() for name, r in results.items()}
    )
    size = model.stage.model
    return {
        **row,
        "N": float(parameter_count(size)),
        "N_non_embedding": float(parameter_count(size, embedding=False)),
        "bits_per_byte": None if total.lossy else total.bits_per_byte,
        "digest": model.manifest.digest,
        "text": evaluator.text_digest,
        "overlap": float(evaluator.overlap or 0),
        "average": _yes_or_no(average),
    }


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
