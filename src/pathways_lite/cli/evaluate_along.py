"""`pathways-lite evaluate RUN --along`: every kept checkpoint, measured on the same text or tasks, as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pathways_lite.cli.common import count_progress

if TYPE_CHECKING:
    from pathways_lite.training.load import TrainedModel

Row = dict[str, Any]

_MAY_BE_EMPTY = ("bits_per_byte", "held_out_loss", "learning_rate")
"""What pages and pictures draw where it is known. A table leaves out what none of its rows has."""


class Measurement(Protocol):
    """What is measured of every checkpoint.

    Attributes:
      same: columns that say what was measured and how; rows with other values are not in one table.
      units, unit: how much is done per checkpoint, for the progress.
    """

    same: dict[str, str]
    units: int
    unit: str

    def load(self, checkpoint: Path) -> TrainedModel:
        """Load a checkpoint. Raises UserError where it cannot be measured with the others."""
        ...

    def rows(self, model: TrainedModel, measured: list[Row], advance: Callable[[int], None]) -> list[Row]:
        """Measure what the rows `measured` do not have of a checkpoint, and return new rows."""
        ...


def evaluate_along(path: Path, out: Path, measurement: Measurement, *, every: int) -> tuple[list[Row], int]:
    """Measure every kept checkpoint at or below `path`, and write a table; rows that are there are kept.

    The table is written after each checkpoint, so a command that was interrupted continues. Raises UserError if the
    table is of something else.

    Returns:
      The rows of the table, and how many of them are new.
    """
    from pathways_lite.errors import UserError
    from pathways_lite.output_lock import lock_file
    from pathways_lite.scaling.runs_table import filled_columns, to_columns
    from pathways_lite.scaling.table import write_table
    from pathways_lite.training.evaluate_checkpoints import kept_checkpoints

    checkpoints = kept_checkpoints(path, every)
    new = 0
    with lock_file(out):
        rows = _rows_so_far(out, measurement.same)
        total = measurement.units * len(checkpoints)
        with count_progress("evaluating checkpoints", total, measurement.unit) as advance:
            for checkpoint in checkpoints:
                if added := _measure(measurement, checkpoint, rows, advance):
                    # Rows that were read lack what the table left out; its columns are in the order of a new row.
                    rows = [{name: row.get(name) for name in (added[0] | row)} for row in (*rows, *added)]
                    new += len(added)
                    rows.sort(key=lambda row: (_order(row["D"]), row["step"]))
                    write_table(filled_columns(to_columns(rows)), out)
    if not rows:
        raise UserError(f"no checkpoint of {path} could be evaluated")
    return rows, new


def _measure(measurement: Measurement, checkpoint: Path, rows: list[Row], advance: Callable[[int], None]) -> list[Row]:
    """Return the new rows of a checkpoint; none for one that cannot be read, with a warning."""
    from pathways_lite.checkpoints import DamagedError
    from pathways_lite.training.load import print_warning

    done = 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        advance(count)

    added: list[Row] = []
    try:
        model = measurement.load(checkpoint)
        added = measurement.rows(model, [row for row in rows if row["digest"] == model.manifest.digest], report)
    except (DamagedError, FileNotFoundError) as error:  # or just deleted by the run that is training
        print_warning(f"{checkpoint} is left out: {error}")
    advance(measurement.units - done)
    return added


def _order(tokens: float | None) -> float:
    """Return tokens to sort by; unknown ones come last."""
    return np.inf if tokens is None or not np.isfinite(tokens) else tokens


def default_table(path: Path, name: str) -> Path:
    """Return the file `name` in the run's or stage's directory; for one checkpoint, in its stage's."""
    from pathways_lite.checkpoint_names import step_of

    directory = path.parent.parent if step_of(path) is not None else path
    return directory / name


def _rows_so_far(out: Path, same: Mapping[str, str]) -> list[Row]:
    """Return the rows of an earlier call. Raises UserError for a table of something else."""
    from pathways_lite.errors import UserError
    from pathways_lite.scaling.runs_table import to_rows
    from pathways_lite.scaling.table import read_table

    if out.suffix not in (".csv", ".parquet"):
        raise UserError(f"{out.name} ends in neither .parquet nor .csv; use one of these suffixes to choose the format")
    if not out.exists():
        return []
    table = read_table(out)
    if missing := [name for name in ("digest", *same) if name not in table]:
        raise UserError(
            f"{out} was not written by `evaluate --along` for this: it has no column {missing[0]}; name another --out"
        )
    for name, value in same.items():
        if other := [found for found in map(_as_text, table[name]) if found != value]:
            raise UserError(
                f"{out} has results with {name} {other[0]}, and these would have {name} {value}, which cannot be "
                "compared; name another --out, or delete the file"
            )
    return [dict.fromkeys(_MAY_BE_EMPTY) | row for row in to_rows(table)]


def _as_text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def checkpoint_facts(model: TrainedModel, average: bool) -> Row:
    """Return the columns of every table of checkpoints: `runs_table`'s, sizes, and what was measured."""
    from pathways_lite.models.accounting import parameter_count
    from pathways_lite.scaling.runs_table import checkpoint_row

    size = model.stage.model
    return {
        **checkpoint_row(model.path, model.manifest.step, model.manifest.meta, {}),
        "N": float(parameter_count(size)),
        "N_non_embedding": float(parameter_count(size, embedding=False)),
        "digest": model.manifest.digest,
        "average": yes_or_no(average),
    }


def measured_sentence(new: int, earlier: int, noun: str) -> str:
    """Say how many rows of a table are new, and how many an earlier call has measured."""
    from pathways_lite.errors import counted

    if not earlier:
        return f"{counted(new, noun)} measured"
    return f"{counted(new, noun)} measured; the table has {earlier:,} of an earlier call too"


def yes_or_no(average: bool) -> str:
    """Return the value of the column `average`."""
    return "yes" if average else "no"
