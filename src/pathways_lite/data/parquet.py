"""Read documents from the rows of Parquet files and of Arrow files, which Hugging Face datasets are saved as."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathways_lite.data.documents import BadChunk, Document, InputChunk, Skipped
from pathways_lite.data.records import Origin, wrong_columns

_BATCH_ROWS = 1024


@dataclass(frozen=True)
class RowGroup:
    """A row group of a Parquet file."""

    path: Path
    origin: Origin
    index: int
    first_row: int
    n_rows: int
    size: int
    input_bytes: int

    def read(self) -> Iterator[Document | Skipped]:
        import pyarrow.parquet

        row = self.first_row
        try:
            file = pyarrow.parquet.ParquetFile(self.path)
            columns = _wanted_columns(file.schema_arrow, self.origin)
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, row_groups=[self.index], columns=columns):
                yield from _documents(batch, row, self.origin)
                row += batch.num_rows
        except _read_errors() as error:
            lost = self.first_row + self.n_rows - row
            reason = f"this row and {lost - 1:,} after it cannot be read ({_one_line(error)})"
            yield Skipped(f"{self.origin.where} row {row}: {reason}", lost)


def parquet_chunks(path: Path, origin: Origin) -> Iterator[InputChunk]:
    """Yield one chunk per row group."""
    import pyarrow.parquet

    try:
        metadata = pyarrow.parquet.read_metadata(path)
        schema = metadata.schema.to_arrow_schema()
    except _read_errors() as error:
        empty = not path.stat().st_size
        reason = "the file is empty" if empty else f"not a Parquet file ({_one_line(error)})"
        yield BadChunk(Skipped(f"{origin.where}: {reason}"))
        return
    if not metadata.num_rows:
        yield BadChunk(Skipped(f"{origin.where}: the file has no rows"))
        return
    if (n := schema.names.count(origin.fields.text_field)) != 1:
        problem = wrong_columns(schema.names, origin.fields.text_field, n)
        yield BadChunk(Skipped(f"{origin.where}: {problem}", metadata.num_rows))
        return
    row = 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        yield RowGroup(path, origin, index, row, group.num_rows, group.total_byte_size, group.total_byte_size)
        row += group.num_rows


@dataclass(frozen=True)
class ArrowFile:
    """An Arrow file or stream: one chunk, as a stream has no index."""

    path: Path
    origin: Origin
    size: int

    @property
    def input_bytes(self) -> int:
        return self.size

    def read(self) -> Iterator[Document | Skipped]:
        import pyarrow

        row = 0
        try:
            with pyarrow.memory_map(str(self.path)) as file:
                reader = _arrow_reader(file)
                names = reader.schema.names
                if (n := names.count(self.origin.fields.text_field)) != 1:
                    problem = wrong_columns(names, self.origin.fields.text_field, n)
                    yield Skipped(f"{self.origin.where}: {problem}")
                    return
                columns = _wanted_columns(reader.schema, self.origin)
                for batch in _arrow_batches(reader):
                    for first in range(0, batch.num_rows, _BATCH_ROWS):
                        yield from _documents(batch.select(columns).slice(first, _BATCH_ROWS), row, self.origin)
                        row += min(_BATCH_ROWS, batch.num_rows - first)
        except _read_errors() as error:
            yield Skipped(f"{self.origin.where} row {row}: the rest of the file cannot be read ({_one_line(error)})")
            return
        if not row:
            yield Skipped(f"{self.origin.where}: the file has no rows")


def _arrow_reader(file: Any) -> Any:
    import pyarrow.ipc

    is_stream = file.read(6) != b"ARROW1"
    file.seek(0)
    return pyarrow.ipc.open_stream(file) if is_stream else pyarrow.ipc.open_file(file)


def _arrow_batches(reader: Any) -> Iterator[Any]:
    """Yield the batches of a stream, or of a file, which is no iterator."""
    if hasattr(reader, "num_record_batches"):
        return (reader.get_batch(index) for index in range(reader.num_record_batches))
    return iter(reader)


def _wanted_columns(schema: Any, origin: Origin) -> list[str]:
    """Return the columns that are read. Raises ValueError if one of them is there twice."""
    fields = origin.fields
    wanted = [fields.text_field, *(name for name in (fields.domain_field, fields.id_field) if name in schema.names)]
    for name in wanted:
        if schema.names.count(name) > 1:
            raise ValueError(f"there are {schema.names.count(name)} columns {name!r}")
    return list(dict.fromkeys(wanted))


def _documents(batch: Any, first_row: int, origin: Origin) -> Iterator[Document | Skipped]:
    """Yield the document of each row; a row that cannot be converted is left out alone."""
    columns = {name: _values(batch.column(name)) for name in batch.schema.names}
    for index in range(batch.num_rows):
        row = first_row + index
        where = f"{origin.where} row {row}"
        record = {name: values[index] for name, values in columns.items()}
        bad = next((value for value in record.values() if isinstance(value, Exception)), None)
        if bad is not None:
            yield Skipped(f"{where}: cannot be read ({_one_line(bad)})")
        else:
            yield origin.fields.document(record, origin.domain, f"{origin.name}:{row}", where)


def _values(column: Any) -> list[Any]:
    """Return a column as Python values.

    Times in nanoseconds, which Python does not have, become text; text that is not UTF-8 becomes bytes; and a value
    that cannot be converted becomes the exception that says why.
    """
    import pyarrow
    import pyarrow.compute

    types = pyarrow.types
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if types.is_temporal(column.type) and getattr(column.type, "unit", "") == "ns":
        try:
            column = pyarrow.compute.cast(column, pyarrow.string())
        except pyarrow.ArrowException:  # durations, and times of unknown zones
            column = pyarrow.compute.cast(column, pyarrow.int64())
    try:
        return list(column.to_pylist())
    except _read_errors():
        return [_value(scalar) for scalar in column]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return error.object
    except _read_errors() as error:
        return error


def _read_errors() -> tuple[type[Exception], ...]:
    import pyarrow

    # ValueError: UnicodeDecodeError is one, and so are errors of conversion.
    return pyarrow.ArrowException, OSError, ValueError, KeyError, OverflowError


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
