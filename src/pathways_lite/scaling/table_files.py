"""Files with tables as people have them: CSV of any origin, Parquet, Feather, JSON, workbooks, W&B exports."""

from __future__ import annotations

import gzip
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.scaling.number_text import Decimal
from pathways_lite.scaling.spreadsheets import ZIP, read_sheet, workbook_kind

FORMATS = "CSV, Parquet, Feather, JSON, JSON lines or Excel"

# W&B's export of a chart: one column per run and metric, with its range in two more.
_HISTORY = re.compile(r"(?P<run>.+) - (?P<metric>.+?)(?P<range>__MIN|__MAX)?$")


def read_file(path: Path, decimal: Decimal | None = None, sheet: str | None = None) -> dict[str, np.ndarray]:
    """Read the table in a file: numbers as float64 with NaN for missing ones, anything else as stripped text.

    The format follows from the content, not from the name. Nested JSON becomes columns with dotted names; a W&B export
    of a chart becomes rows with a column `run`. `sheet` names that of a workbook.

    Raises UserError for what is no table.
    """
    import pyarrow as pa

    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        elif content[:4] == b"\x28\xb5\x2f\xfd":
            import zstandard

            content = zstandard.ZstdDecompressor().decompressobj().decompress(content)
        arrow = _arrow_table(path, content, decimal, sheet)
    except (pa.ArrowException, OSError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it ends early"
        raise UserError(f"{path} is not a {FORMATS} table: {reason}") from error
    names = [name.strip() for name in arrow.column_names]
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise UserError(f"{path} has more than one column named {', '.join(twice)}; rename or remove all but one")
    # Columns without a name are what spreadsheets leave of empty ones.
    table = {name: _array(column, decimal) for name, column in zip(names, arrow.columns, strict=True) if name}
    return _unpivot_history(table)


def _arrow_table(path: Path, content: bytes, decimal: Decimal | None, sheet: str | None) -> Any:
    from pyarrow import csv, feather, orc, parquet

    stream = io.BytesIO(content)
    if content[:4] == b"PAR1":
        return _flatten(parquet.ParquetFile(stream).read())  # unlike read_table with two columns of one name too
    if content[:6] == b"ARROW1" or content[:4] == b"FEA1":
        return _flatten(feather.read_table(stream))
    if content[:3] == b"ORC":
        return _flatten(orc.read_table(stream))
    if kind := workbook_kind(content):
        return read_sheet(path, content, kind, sheet)
    if sheet is not None:
        raise UserError(f"{path} is no workbook and has no sheets; leave --sheet away")
    if content[:4] == ZIP:
        raise UserError(f"{path} is an archive; unpack it, and give the file with the table")
    text = _decode(content)
    if not text.strip():
        raise UserError(f"{path} is empty; a table has a header and rows")
    if text.lstrip()[:1] in "[{" and (
        path.suffix.lower() in (".json", ".jsonl", ".ndjson") or text.lstrip()[1:2] in '"{'
    ):
        return _flatten(_read_json(text))
    options = csv.ConvertOptions(
        decimal_point=decimal or ".", null_values=["", "NaN", "nan", "NA", "N/A", "null", "None"]
    )
    return csv.read_csv(
        io.BytesIO(text.encode()), parse_options=csv.ParseOptions(delimiter=_delimiter(text)), convert_options=options
    )


def _decode(content: bytes) -> str:
    """Return the text: UTF-8, UTF-16 with or without its mark, or else Windows' Latin-1, which any bytes are."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16")
    if b"\x00" in content[:64]:
        return content.decode("utf-16-le" if content[1:2] == b"\x00" else "utf-16-be")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def _read_json(text: str) -> Any:
    """Return rows from JSON lines, an array of objects, or an object of columns."""
    import pyarrow as pa
    from pyarrow import json as arrow_json

    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return arrow_json.read_json(io.BytesIO(text.encode()))
    if isinstance(value, list) and all(isinstance(row, dict) for row in value):
        names = list(dict.fromkeys(name for row in value for name in row))
        return pa.table({name: pa.array([row.get(name) for row in value], from_pandas=True) for name in names})
    if isinstance(value, dict) and value and all(isinstance(column, (list, dict)) for column in value.values()):
        # pandas writes columns as {"N": {"0": …}}
        columns = {k: list(c.values()) if isinstance(c, dict) else c for k, c in value.items()}
        if len({len(column) for column in columns.values()}) == 1:
            return pa.table(columns)
    if isinstance(value, dict):
        return pa.Table.from_pylist([value])
    raise ValueError("the JSON is neither rows (objects) nor columns (lists)")


def _flatten(table: Any) -> Any:
    """Return the table with nested objects as columns with dotted names."""
    import pyarrow as pa

    while any(pa.types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    return table


def _delimiter(text: str) -> str:
    """Return the separator of the columns in the first line: a comma, a semicolon or a tab."""
    header = text.partition("\n")[0]
    return max(",;\t", key=header.count)


def _array(column: Any, decimal: Decimal | None) -> np.ndarray:
    """Convert numbers to float64, with NaN for missing ones, and anything else to stripped text."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind):
        return column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    texts = ("" if value is None else str(value).strip() for value in column.to_pylist())
    return np.array([_with_point(text, decimal) for text in texts] if decimal else list(texts), dtype=object)


def _with_point(text: str, decimal: Decimal | None) -> str:
    """Return a number that is text with a decimal point and without thousands; any other text as it is."""
    grouping = "." if decimal == "," else ","
    if not re.fullmatch(r"[+-]?\d[\d.,]*(e[+-]?\d+)?\s*([a-zA-Z]{1,2}|%)?", text):
        return text
    return text.replace(grouping, "").replace(",", ".")


def _unpivot_history(table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Turn W&B's export of a chart (`RUN - METRIC`, with `__MIN` and `__MAX`) into rows with `run` and METRIC."""
    matches = {name: match for name in table if (match := _HISTORY.match(name))}
    if not any(match["range"] for match in matches.values()):
        return table
    measured = {name: match for name, match in matches.items() if not match["range"]}
    axis = [name for name in table if name not in matches]
    runs = dict.fromkeys(match["run"] for match in measured.values())
    metrics = dict.fromkeys(match["metric"] for match in measured.values())
    rows = len(next(iter(table.values())))
    parts: dict[str, list[np.ndarray]] = {name: [] for name in (*axis, "run", *metrics)}
    for run in runs:
        columns = {metric: table.get(f"{run} - {metric}", np.full(rows, np.nan)) for metric in metrics}
        kept = np.any([_is_given(column) for column in columns.values()], axis=0)
        for name in axis:
            parts[name].append(table[name][kept])
        parts["run"].append(np.full(int(kept.sum()), run, dtype=object))
        for metric, column in columns.items():
            parts[metric].append(column[kept])
    return {name: np.concatenate(columns) for name, columns in parts.items()}


def _is_given(column: np.ndarray) -> np.ndarray:
    return column != "" if column.dtype == object else np.isfinite(column)
