"""Tables of runs, with columns named as in the literature, read from files of any origin.

A table is a mapping from column names to arrays [rows]. `read_table` reads CSV (also gzipped), Parquet and JSON lines,
and renames columns, so that other people's runs can be fitted.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pathways_lite.atomic_file import replace_atomically
from pathways_lite.errors import UserError
from pathways_lite.paths import local_path

Table = dict[str, np.ndarray]
PF_DAY = 8.64e19  # FLOPs


@dataclass(frozen=True)
class Column:
    """The meaning of a column and the range of plausible medians; `mistake` is advice about a common mistake."""

    meaning: str
    unit: str = ""
    low: float = 0.0
    high: float = float("inf")
    mistake: str = ""


COLUMNS: dict[str, Column] = {
    "N": Column("parameters", "parameters", 1e4, 1e15),
    "N_non_embedding": Column("parameters without embeddings", "parameters", 1e3, 1e15),
    "N_active": Column("parameters that are not pruned", "parameters", 1e4, 1e15),
    "N_average": Column("active parameters, averaged over tokens", "parameters", 1e4, 1e15),
    "N_encoder": Column("parameters of the encoder", "parameters", 1e4, 1e15),
    "N_decoder": Column("parameters of the decoder", "parameters", 1e4, 1e15),
    "Nnv": Column("parameters outside the vocabulary", "parameters", 1e3, 1e15),
    "Nv": Column("parameters of the vocabulary", "parameters", 1e3, 1e13),
    "D": Column("training tokens", "tokens", 1e4, 1e16),
    "U": Column("unique training tokens", "tokens", 1e4, 1e16),
    "C": Column("training compute", "FLOPs", 1e7, 1e30),
    "C_sparse": Column("training compute where zeros are skipped", "FLOPs", 1e7, 1e30),
    "C_pf_days": Column("training compute", "PF-days", 1e-9, 1e10),
    "M": Column("tokens per parameter", "", 1e-3, 1e6),
    "L": Column(
        "loss", "nats per token", 1e-3, 20, "a loss is the logarithm of a perplexity, and a bit is 0.6931 nats"
    ),
    "S": Column("optimizer steps", "steps", 1, 1e9),
    "B": Column("batch", "tokens", 1, 1e10),
    "lr": Column("peak learning rate", "", 1e-9, 1e2),
    "error": Column("error rate", "", 0, 1),
    "performance": Column("performance, 1 if perfect", "", -2.18, 1.12),
}

OWN_COLUMNS = frozenset({"run", "stage", "step", "lineage", "start", "C", "C_stage", "D", "D_stage", "N", "L"})
"""Columns by which a table of `runs_table` is recognized, also after it was written and read."""

_TERM = re.compile(r"^(?P<name>.*?)(?:\s*\*\s*(?P<factor>[0-9.]+(?:[eE][+-]?[0-9]+)?))?$")


def is_own_table(table: Mapping[str, np.ndarray]) -> bool:
    """Return whether the table is one of `runs_table`, whose units are ours."""
    return table.keys() >= OWN_COLUMNS


def read_table(path: str | Path, columns: Mapping[str, str] | None = None) -> Table:
    """Read the table in a file and rename its columns.

    `columns` maps our names to the file's, each with a factor if necessary: {"N": "size_M*1e6"}. The other columns keep
    their names. Raises UserError if the file or a column does not exist.
    """
    path = local_path(path)
    if not path.is_file():
        raise UserError(f"there is no table {path}; give a CSV, Parquet or JSON-lines file")
    return rename_columns(_read(path), columns or {}, str(path))


def rename_columns(table: Table, columns: Mapping[str, str], where: str) -> Table:
    """Add columns by our names, as in `read_table`, to a table from `where`. Raises UserError for an unknown column."""
    for name, term in columns.items():
        match = _TERM.match(term)
        source = match["name"] if match and match["name"] in table else term
        if source not in table:
            raise UserError(f"{where} has no column {source!r}; it has {', '.join(sorted(table))}")
        factor = float(match["factor"]) if match and source != term and match["factor"] else 1.0
        table[name] = table[source] if factor == 1.0 else numeric_column(table, source) * factor
    return table


def _read(path: Path) -> Table:
    import pyarrow as pa
    from pyarrow import csv, json, parquet

    try:
        if path.suffix == ".parquet":
            arrow_table = parquet.ParquetFile(path).read()  # unlike read_table with two columns of one name too
        elif path.suffix in (".jsonl", ".json"):
            arrow_table = json.read_json(path)
        else:
            arrow_table = csv.read_csv(path, parse_options=csv.ParseOptions(delimiter=_delimiter(path)))
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is not a CSV, Parquet or JSON-lines table: {reason}") from error
    names = [name.strip() for name in arrow_table.column_names]
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise UserError(f"{path} has more than one column named {', '.join(twice)}; rename or remove all but one")
    # Columns without a name are what spreadsheets leave of empty ones.
    return {name: _array(column) for name, column in zip(names, arrow_table.columns, strict=True) if name}


def _delimiter(path: Path) -> str:
    """Return the separator of the columns in the first line: a comma, a semicolon or a tab."""
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        header = file.readline()
    return max(",;\t", key=lambda mark: header.count(mark.encode()))


def _array(column: Any) -> np.ndarray:
    """Convert numbers to float64, with NaN for missing ones, and anything else to stripped text."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind):
        return column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return np.array(["" if value is None else str(value).strip() for value in column.to_pylist()], dtype=object)


def write_table(table: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Write a table as Parquet or CSV, according to the suffix of `path`."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    path = Path(path)
    # Text columns hold Python strings; NaN is written as an empty cell.
    arrow = pa.table({name: pa.array(column.tolist(), from_pandas=True) for name, column in table.items()})
    writers = {".parquet": parquet.write_table, ".csv": csv.write_csv}
    if path.suffix not in writers:
        raise UserError(
            f"{path.name} ends in neither .parquet nor .csv; use one of these suffixes to choose the format"
        )
    with replace_atomically(path, shared=True) as temporary:
        writers[path.suffix](arrow, temporary)


def numeric_column(table: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """Return the column as float64. Raises UserError if it is missing or holds text."""
    if name not in table:
        raise UserError(f"the table has no column {name}; map it with {name}=COLUMN (it has {', '.join(table)})")
    try:
        return np.asarray(table[name], np.float64)
    except ValueError:
        raise UserError(f"column {name} holds text where numbers are expected: {_first_text(table[name])}") from None


def _first_text(column: np.ndarray) -> str:
    for row, value in enumerate(column, 1):
        try:
            float(value)
        except ValueError:
            return f"{value!r} in row {row}"
    return "no single value"


# By column, the columns that it can be derived from and how; the first possible derivation is used.
_DERIVATIONS: dict[str, tuple[tuple[tuple[str, ...], Callable[..., np.ndarray]], ...]] = {
    "D": ((("C", "N"), lambda c, n: c / (6 * n)), (("M", "N"), lambda m, n: m * n)),
    "N": ((("C", "D"), lambda c, d: c / (6 * d)),),
    "C": ((("N", "D"), lambda n, d: 6 * n * d),),
    "M": ((("D", "N"), lambda d, n: d / n),),
    "C_pf_days": ((("C",), lambda c: c / PF_DAY),),
}


def derive_columns(table: Mapping[str, np.ndarray], names: tuple[str, ...]) -> Table:
    """Add the columns of `names` that follow from others: C = 6ND, M = D/N, PF-days from FLOPs."""
    full = dict(table)
    for name in names:
        _derive(full, name, frozenset())
    return full


def _derive(full: Table, name: str, pending: frozenset[str]) -> bool:
    """Add the column if it is missing, without deriving it from `pending` columns. Returns True if it exists now."""
    if name in full:
        return True
    pending = pending | {name}
    for sources, rule in _DERIVATIONS.get(name, ()):
        if not pending & set(sources) and all(_derive(full, source, pending) for source in sources):
            full[name] = rule(*(numeric_column(full, source) for source in sources))
            return True
    return False


def row_names(table: Mapping[str, np.ndarray], rows: int) -> tuple[str, ...] | None:
    """Return the names of the rows: the column `run`, `name` or `id`, or the first with different texts in all rows."""
    texts = {name: column for name, column in table.items() if column.dtype == object and len(column) == rows}
    usual: tuple[str, ...] = ("run", "name", "id", "Name", "ID")
    named = [name for name in usual if name in texts]
    named += [name for name, column in texts.items() if len(set(column)) == rows]
    if not named:
        return None
    return tuple(str(value) for value in texts[named[0]])


def table_digest(table: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of the table's content, independent of the order of its columns."""
    sha = hashlib.sha256()
    for name in sorted(table):
        sha.update(f"{name}:{np.asarray(table[name]).tolist()}\n".encode())
    return sha.hexdigest()
