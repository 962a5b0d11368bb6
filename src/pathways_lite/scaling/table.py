"""Tables of runs, with columns named as in the literature, read from files of any origin.

A table is a mapping from column names to arrays [rows]. `read_table` reads a file (`table_files.py` has the formats)
and renames columns, so that other people's runs can be fitted.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pathways_lite.atomic_file import replace_atomically
from pathways_lite.errors import UserError, did_you_mean, similar_path
from pathways_lite.paths import local_path
from pathways_lite.scaling.expressions import evaluate
from pathways_lite.scaling.number_text import Decimal, parse_column
from pathways_lite.scaling.table_files import FORMATS, read_file

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
    "accuracy": Column("accuracy", "", -0.01, 1.01, "an accuracy is between 0 and 1, not in percent"),
    "chance": Column("accuracy by chance", "", -0.01, 0.99, "it is between 0 and 1, not in percent"),
    "teacher_loss": Column("loss of the teacher", "nats per token", 1e-3, 20),
    "supervised_loss": Column("loss of the student without a teacher", "nats per token", 1e-3, 20),
    "rise": Column("rise of the loss by quantization", "nats per token", -5, 20),
    "effective_bits": Column("bits of a quantized weight, with its share of scales", "bits", 2, 64),
    "P_w": Column("precision of the weights", "bits", 1, 64),
    "P_a": Column("precision of the activations", "bits", 1, 64),
    "P_kv": Column("precision of the cache", "bits", 1, 64),
    "performance": Column("performance, 1 if perfect", "", -2.18, 1.12),
}

OWN_COLUMNS = frozenset({"run", "stage", "step", "lineage", "start", "C", "C_stage", "D", "D_stage", "N", "L"})
"""Columns by which a table of `runs_table` is recognized, also after it was written and read."""

_TERM = re.compile(r"^(?P<name>.*?)(?:\s*\*\s*(?P<factor>[0-9.]+(?:[eE][+-]?[0-9]+)?))?$")


def is_own_table(table: Mapping[str, np.ndarray]) -> bool:
    """Return whether the table is one of `runs_table`, whose units are ours."""
    return table.keys() >= OWN_COLUMNS


def read_table(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    *,
    decimal: Decimal | None = None,
    sheet: str | None = None,
) -> Table:
    """Read the table in a file and rename its columns.

    `columns` maps our names to the file's, or to expressions over them: {"N": "size_M*1e6", "L": "ln(perplexity)"}. The
    other columns keep their names. `decimal` is the file's decimal mark, if that is not a point; `sheet` the name of a
    workbook's sheet, if it has several. Raises UserError if the file or a column does not exist.
    """
    path = local_path(path)
    if not path.is_file():
        raise UserError(f"there is no table {path}; give a {FORMATS} file{similar_path(path)}")
    return rename_columns(read_file(path, decimal, sheet), columns or {}, str(path))


def rename_columns(table: Table, columns: Mapping[str, str], where: str) -> Table:
    """Add columns by our names, as in `read_table`, to a table from `where`. Raises UserError for an unknown column."""
    added = {name: _column_of_term(table, term, where) for name, term in columns.items()}
    return {**table, **added}


def _column_of_term(table: Table, term: str, where: str) -> np.ndarray:
    if term in table:
        return table[term]
    match = _TERM.match(term)
    if match and match["factor"] and match["name"] in table:
        return numeric_column(table, match["name"]) * float(match["factor"])
    if not re.search(r"[*/+()`-]", term) or (match and match["factor"] and match["name"].isidentifier()):
        source = match["name"] if match and match["factor"] else term
        raise UserError(f"{where} has no column {source!r}.{did_you_mean(source, sorted(table))}")
    try:
        return np.asarray(evaluate(term, table), np.float64)
    except UserError:
        if re.search(r"[(0-9]", term):
            raise
        # More likely a name with a slash or a hyphen than a quotient of columns.
        raise UserError(f"{where} has no column {term!r}.{did_you_mean(term, sorted(table))}") from None


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
        raise UserError(f"the table has no column {name}; map it with {name}=COLUMN.{did_you_mean(name, table)}")
    return parse_column(name, table[name])


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
