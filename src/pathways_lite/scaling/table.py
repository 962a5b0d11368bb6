"""Tables of runs: columns by the field's names, from files of any origin.

A table is a mapping from column names to arrays [rows]. `read_table` takes CSV (also gzipped), Parquet and JSON lines,
and a map from our names to theirs, so that other people's runs can be fitted.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pathways_lite.errors import UserError

Table = dict[str, np.ndarray]


@dataclass(frozen=True)
class Column:
    """What a column means, and the range in which a median of it is believable."""

    meaning: str
    unit: str = ""
    low: float = 0.0
    high: float = float("inf")


COLUMNS: dict[str, Column] = {
    "N": Column("parameters", "parameters", 1e4, 1e15),
    "N_non_embedding": Column("parameters without embeddings", "parameters", 1e3, 1e15),
    "D": Column("training tokens", "tokens", 1e5, 1e16),
    "U": Column("unique training tokens", "tokens", 1e4, 1e16),
    "C": Column("training compute", "FLOPs", 1e10, 1e30),
    "M": Column("tokens per parameter", "", 1e-3, 1e6),
    "L": Column("loss", "nats per token", 1e-3, 20),
    "S": Column("optimizer steps", "steps", 1, 1e9),
    "B": Column("batch", "tokens", 1, 1e10),
    "lr": Column("peak learning rate", "", 1e-9, 1e2),
    "error": Column("error rate", "", 0, 1),
}

_TERM = re.compile(r"^(?P<name>.*?)(?:\s*\*\s*(?P<factor>[0-9.]+(?:[eE][+-]?[0-9]+)?))?$")


def read_table(path: str | Path, columns: Mapping[str, str] | None = None) -> Table:
    """The table in a file, its columns renamed.

    `columns` maps our names to the file's, each with a factor if need be: {"N": "size_M*1e6"}. The file's other columns
    keep their names. Raises UserError where the file or a column is not there.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no table {path}; give a CSV, Parquet or JSON-lines file")
    table = _read(path)
    for name, term in (columns or {}).items():
        match = _TERM.match(term)
        theirs = match["name"] if match and match["name"] in table else term
        if theirs not in table:
            raise UserError(f"{path} has no column {theirs!r}; it has {', '.join(sorted(table))}")
        factor = float(match["factor"]) if match and theirs != term and match["factor"] else 1.0
        table[name] = table[theirs] if factor == 1.0 else numeric(table, theirs) * factor
    return table


def _read(path: Path) -> Table:
    import pyarrow as pa
    from pyarrow import csv, json, parquet

    try:
        if path.suffix == ".parquet":
            read = parquet.read_table(path)
        elif path.suffix in (".jsonl", ".json"):
            read = json.read_json(path)
        else:
            read = csv.read_csv(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is no CSV, Parquet or JSON-lines table: {reason}") from error
    return {name: _array(read.column(name)) for name in read.column_names}


def _array(column: Any) -> np.ndarray:
    """Numbers as float64 with NaN where there is none; anything else as text."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind):
        return column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return np.array(["" if value is None else str(value) for value in column.to_pylist()], dtype=object)


def write_table(table: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Write a table as Parquet or CSV, by the ending of `path`."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    path = Path(path)
    # Text columns hold Python strings; a number that is not known is written as nothing.
    arrow = pa.table({name: pa.array(column.tolist(), from_pandas=True) for name, column in table.items()})
    if path.suffix == ".parquet":
        parquet.write_table(arrow, path)
    elif path.suffix == ".csv":
        csv.write_csv(arrow, path)
    else:
        raise UserError(f"{path.name} ends in neither .parquet nor .csv, which say how to write it")


def numeric(table: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """The column as float64. Raises UserError where it is missing or holds text."""
    if name not in table:
        raise UserError(f"the table has no column {name}; name it with {name}=THEIRS (there are {', '.join(table)})")
    try:
        return np.asarray(table[name], np.float64)
    except ValueError:
        raise UserError(f"column {name} holds text where numbers are expected") from None


def with_derived(table: Mapping[str, np.ndarray], needed: tuple[str, ...]) -> Table:
    """The table with the columns of `needed` that follow from others: C = 6ND, M = D/N (tokens per parameter)."""
    full = dict(table)
    rules = (
        ("D", ("C", "N"), lambda c, n: c / (6 * n)),
        ("D", ("M", "N"), lambda m, n: m * n),
        ("N", ("C", "D"), lambda c, d: c / (6 * d)),
        ("C", ("N", "D"), lambda n, d: 6 * n * d),
        ("M", ("D", "N"), lambda d, n: d / n),
    )
    missing = set(needed) - set(full)
    for _ in range(2):
        for name, sources, rule in rules:
            if missing and name not in full and all(source in full for source in sources):
                full[name] = rule(*(numeric(full, source) for source in sources))
    return full


def digest(table: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the table's content, whatever the order of its columns."""
    sha = hashlib.sha256()
    for name in sorted(table):
        sha.update(f"{name}:{np.asarray(table[name]).tolist()}\n".encode())
    return sha.hexdigest()
