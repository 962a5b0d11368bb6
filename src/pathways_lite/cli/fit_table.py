"""Tables as the commands of `fit` take them: options that choose rows and columns, and numbers on the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import numpy as np
import typer

from pathways_lite.cli.fit_runs import (
    arms_note,
    corpora_notes,
    finished_runs,
    is_study_or_runs,
    left_out_notes,
    settings_note,
    study_directory,
)
from pathways_lite.paths import local_path

if TYPE_CHECKING:
    from pathways_lite.scaling.number_text import Decimal
    from pathways_lite.scaling.table import Table

Columns = Annotated[
    list[str] | None,
    typer.Argument(help="columns of the law by those of the table: N='size_M*1e6' L=loss L='ln(perplexity)'"),
]
TablePath = Annotated[
    Path,
    typer.Argument(
        parser=local_path,
        help="CSV (also .gz), Parquet, Feather, JSON or Excel, e.g. the output of `runs table` or an export of W&B; "
        "or a study (its file, or its directory), or a directory of runs: the last evaluation of every finished run",
    ),
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        help="keep the rows for which a condition holds: 'dataset == \"comma\" and N > 1e8'; several: all of them"
    ),
]
DropMissing = Annotated[
    bool,
    typer.Option("--drop-missing", help="leave out rows without a number in a column that is needed (crashed runs)"),
]
DecimalMark = Annotated[str | None, typer.Option("--decimal", help="the table's decimal mark: , or . (the default)")]

Sheet = Annotated[str | None, typer.Option("--sheet", help="the sheet of a workbook, if it has several")]

UNFINISHED = frozenset({"crashed", "failed", "killed", "running", "preempted"})
"""States of runs in exports of W&B, apart from finished."""


@dataclass(frozen=True)
class RowChoice:
    """The rows that a command uses, as its options say."""

    where: Sequence[str] = ()
    drop_missing: bool = False
    decimal: str | None = None
    drop_highest: int = 0
    sheet: str | None = None


@dataclass(frozen=True)
class Rows:
    """The rows of a table, and a record of where they come from. `left_out`: sentences for the reader."""

    table: Table
    groups: np.ndarray | None  # [rows], to resample together
    origin: dict[str, Any]
    left_out: tuple[str, ...] = field(default=())


def read_rows(
    path: Path, columns: Sequence[str] | None, needed: Sequence[str], *, by: str | None = None,
    choice: RowChoice = RowChoice(), target: str | None = None, apart: str | None = None,
) -> Rows:  # fmt: skip
    """Read the table or the runs at `path`, and keep the rows that `choice` keeps.

    `apart`: the column whose values are fitted apart. `needed`: the columns that must have numbers, which may be
    derived from others. `by` names the runs. `target`, one of `needed`, is the column of `drop_highest`. Raises
    UserError if a column is missing or no row is left.
    """
    from pathways_lite.errors import UserError, did_you_mean
    from pathways_lite.scaling.expressions import rows_where
    from pathways_lite.scaling.table import numeric_column, read_table, rename_columns

    names = dict(parse_pair(term) for term in columns or [])
    left_out: list[str] = []
    if choice.decimal not in (None, ".", ","):
        raise UserError(f"--decimal {choice.decimal!r} is not a decimal mark; give , or .")
    if is_study_or_runs(path):
        runs = finished_runs(path)
        left_out += left_out_notes(path, runs["run"].tolist())
        table = rename_columns(runs, names, str(path))
    else:
        table = read_table(path, names, decimal=cast("Decimal | None", choice.decimal), sheet=choice.sheet)
    if by is not None and by not in table:
        raise UserError(f"{path} has no column {by!r} that names runs.{did_you_mean(by, sorted(table))}")
    origin: dict[str, Any] = {"table": path.name, "columns": names}
    if choice.sheet is not None:
        origin["sheet"] = choice.sheet
    for condition in choice.where:
        table = _select(table, rows_where(condition, table))
    if choice.where:
        origin["where"] = list(choice.where)
    if choice.drop_missing:
        table, sentence = _drop_missing(table, needed)
        left_out += [sentence] if sentence else []
        origin["missing"] = sentence or "no row"
    if choice.drop_highest:
        assert target is not None
        kept = np.sort(np.argsort(-numeric_column(table, target), kind="stable")[choice.drop_highest :])
        table = _select(table, kept)
    left_out += _unfinished(table)
    if apart is None:
        inputs = [] if target is None else [name for name in needed if name != target]
        left_out += [*(arms_note(table, path) or settings_note(table, inputs)), *corpora_notes(table)]
    _require_known_costs(table, needed)
    origin["dropped"] = f"the {choice.drop_highest} highest {target}" if choice.drop_highest else "nothing"
    return Rows(table, None if by is None else table[by], {**origin, "resampled": by or "rows"}, tuple(left_out))


def _select(table: Table, rows: np.ndarray) -> Table:
    return {name: column[rows] for name, column in table.items()}


def _unfinished(table: Table) -> list[str]:
    """Say that W&B's column of states names runs whose loss is not their last one."""
    for name in ("State", "state"):
        states = [str(state) for state in table.get(name, ())]
        if other := [state for state in states if state in UNFINISHED]:
            kinds = ", ".join(dict.fromkeys(other))
            return [
                f"{len(other)} of {len(states)} rows are of runs that are not finished ({name}: {kinds}), whose loss "
                f"may not be their last; leave them out with --where '{name} == \"finished\"'."
            ]
    return []


def _drop_missing(table: Table, needed: Sequence[str]) -> tuple[Table, str]:
    """Return the table without the rows that lack a number in a needed column, and a sentence about them."""
    from pathways_lite.errors import UserError
    from pathways_lite.scaling.table import derive_columns, numeric_column

    full = derive_columns(table, tuple(needed))
    missing = {name: ~np.isfinite(numeric_column(full, name)) for name in needed if name in full}
    is_missing = np.any(list(missing.values()), axis=0) if missing else np.zeros(0, bool)
    if not is_missing.any():
        return table, ""
    if is_missing.all():
        raise UserError(f"no row has numbers in all of {', '.join(missing)}")
    reasons = ", ".join(f"{name} in {rows.sum()}" for name, rows in missing.items() if rows.any())
    return _select(
        table, ~is_missing
    ), f"{is_missing.sum()} of {len(is_missing)} rows left out without a number: {reasons}."


def _require_known_costs(table: Table, needed: Sequence[str]) -> None:
    """Raise UserError where a row lacks a needed number because its model was trained elsewhere at an unknown cost."""
    from pathways_lite.errors import UserError
    from pathways_lite.scaling.table import derive_columns, numeric_column

    if "cost_elsewhere" not in table:
        return
    full = derive_columns(table, tuple(needed))
    unknown = table["cost_elsewhere"] == "unknown"
    for name in needed:
        if name not in full or not (rows := unknown & ~np.isfinite(numeric_column(full, name))).any():
            continue
        first = str(table["run"][np.flatnonzero(rows)[0]]) if "run" in table else "a row"
        more = f" and {rows.sum() - 1} more rows start" if rows.sum() > 1 else " starts"
        here = f", or fit to what was spent here ({name}={name}_stage)" if f"{name}_stage" in full else ""
        raise UserError(
            f"{first}{more} from a model that was trained elsewhere at an unknown cost, so {name} is unknown; leave "
            f"such runs out with --drop-missing, state the cost (pathways-lite convert --from hf --tokens N){here}"
        )


def output_path(table: Path, name: str) -> Path:
    """Return where a result of the table, study or runs is written: beside the table, or in the study's directory."""
    return study_directory(table) / name if is_study_or_runs(table) else table.with_name(name)


def parse_pair(term: str) -> tuple[str, str]:
    """Split NAME=VALUE. Raises UserError for anything else."""
    from pathways_lite.errors import UserError

    name, equals, value = term.partition("=")
    if not (name and equals and value):
        raise UserError(f"{term!r} is not NAME=VALUE; write e.g. N=1e9")
    return name.strip(), value.strip()


def parse_numbers(terms: Sequence[str], *, any_sign: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Return arrays by name from NAME=VALUE, where VALUE is a number like 7e9 or 7B, or a list like 1e9,2e9.

    Lists are of one length, or of one number. Raises UserError for what is not a number, and for numbers that are not
    positive except in `any_sign`.
    """
    from pathways_lite.errors import UserError
    from pathways_lite.scaling.number_text import parse_number

    numbers: dict[str, np.ndarray] = {}
    for name, text in map(parse_pair, terms):
        try:
            values = np.array([parse_number(value, ".") for value in text.split(",")])
        except ValueError:
            raise UserError(
                f"{name}={text} is not a number; write e.g. {name}=1e9, {name}=7B or {name}=1e9,2e9"
            ) from None
        if not np.isfinite(values).all():
            raise UserError(f"{name}={text} is not finite; write e.g. {name}=1e9")
        if name not in any_sign and (values <= 0).any():
            raise UserError(f"{name}={text} is not positive; write e.g. {name}=1e9")
        numbers[name] = values
    lengths = {name: len(values) for name, values in numbers.items() if len(values) > 1}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{name} {count}" for name, count in lengths.items())
        raise UserError(f"lists must have the same number of values, or one value; found {counts}")
    longest = max(lengths.values(), default=1)
    return {name: np.broadcast_to(values, longest).copy() for name, values in numbers.items()}


def single_numbers(terms: Sequence[str]) -> Mapping[str, float]:
    """Return numbers by name from NAME=VALUE. Raises UserError for lists too."""
    from pathways_lite.errors import UserError

    numbers = parse_numbers(terms)
    if many := [name for name, values in numbers.items() if len(values) > 1]:
        raise UserError(f"give one value of {many[0]}")
    return {name: float(values[0]) for name, values in numbers.items()}
