"""Sheets of Excel and OpenDocument workbooks as tables. Read with python-calamine, the extra `excel`."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

from pathways_lite.errors import UserError, did_you_mean
from pathways_lite.extras import install_command

OLD_EXCEL = b"\xd0\xcf\x11\xe0"  # also of a workbook with a password
ZIP = b"PK\x03\x04"


def workbook_kind(content: bytes) -> str | None:
    """Return what kind of workbook a file's content is, None for any other content."""
    if content[:4] == OLD_EXCEL:
        return "an Excel workbook"
    if content[:4] != ZIP:
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            is_sheet = "mimetype" in names and b"opendocument.spreadsheet" in archive.read("mimetype")
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError):
        return None
    if any(name.startswith("xl/") for name in names):
        return "an Excel workbook"
    return "an OpenDocument spreadsheet" if is_sheet else None


def read_sheet(path: Path, content: bytes, kind: str, sheet: str | None) -> Any:
    """Return a sheet as an Arrow table: its first row that is not empty has the names of the columns.

    `sheet` is its name; None: the only one that is not empty. Raises UserError without the extra, for a workbook that
    cannot be read, and where the sheet must be named.
    """
    try:
        from python_calamine import CalamineError, CalamineWorkbook
    except ImportError:
        raise UserError(
            f"{path} is {kind}, which needs the extra `excel` ({install_command('excel')}); or save the sheet as CSV "
            "(File, Save as, CSV UTF-8), and give that file"
        ) from None
    try:
        with CalamineWorkbook.from_filelike(io.BytesIO(content)) as workbook:
            names = workbook.sheet_names
            if sheet is not None and sheet not in names:
                raise UserError(f"{path} has no sheet {sheet!r}.{did_you_mean(sheet, names)}")
            sheets = {name: workbook.get_sheet_by_name(name).to_python() for name in ([sheet] if sheet else names)}
    except CalamineError as error:
        raise UserError(
            f"{path} is {kind} that cannot be read ({error}); if it has a password, save it without one"
        ) from error
    filled = {name: rows for name, rows in sheets.items() if any(map(_is_filled, rows))}
    if not filled:
        raise UserError(f"{path} has no sheet with rows; a table has a header and rows")
    if len(filled) > 1:
        raise UserError(f"{path} has the sheets {', '.join(filled)}; name the one to read with --sheet")
    return _to_arrow(next(iter(filled.values())))


def _is_filled(row: list[Any]) -> bool:
    return any(cell != "" for cell in row)


def _to_arrow(rows: list[list[Any]]) -> Any:
    import pyarrow as pa

    header, *body = [row for row in rows if _is_filled(row)]
    names = ["" if cell == "" else str(cell) for cell in header]
    columns = [_column([row[i] if i < len(row) else "" for row in body]) for i in range(len(names))]
    return pa.Table.from_arrays([pa.array(column) for column in columns], names=names)


def _column(cells: list[Any]) -> list[Any]:
    """Return numbers with None for empty cells, or, if any cell is something else, all as text."""
    if all(cell == "" or (isinstance(cell, int | float) and not isinstance(cell, bool)) for cell in cells):
        return [None if cell == "" else float(cell) for cell in cells]
    return [_text(cell) for cell in cells]


def _text(cell: Any) -> str:
    """Return a cell as one would type it: whole numbers without a point."""
    return f"{cell:.0f}" if isinstance(cell, float) and cell.is_integer() and abs(cell) < 1e15 else str(cell)
