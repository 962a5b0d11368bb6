"""Parquet and Arrow: rows that can be read are, whatever the others and the other columns hold."""

import datetime
import decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from helpers.documents import read, read_items
from pathways_lite.data.build import build
from pathways_lite.data.records import Fields
from pathways_lite.data.sources import Source


def text_column(values: list[bytes]) -> pa.Array:
    """A column of strings, unchecked."""
    ends = [0]
    for value in values:
        ends.append(ends[-1] + len(value))
    offsets = pa.array(ends, pa.int32()).buffers()[1]
    return pa.Array.from_buffers(pa.string(), len(values), [None, offsets, pa.py_buffer(b"".join(values))])


def write(table: pa.Table, path: Path) -> None:
    """Write a table as the ending says."""
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=700)
    elif path.suffix == ".stream":
        with pa.ipc.new_stream(path.with_suffix(".arrow"), table.schema) as stream:
            stream.write_table(table, max_chunksize=700)
        path.with_suffix(".arrow").rename(path.with_suffix("").with_suffix(".arrow"))
    else:
        with pa.ipc.new_file(path, table.schema) as file:
            file.write_table(table, max_chunksize=700)


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow", "x.stream"])
def test_a_row_that_is_not_utf8_is_left_out_alone(tmp_path: Path, name: str) -> None:
    values = [f"row {i}".encode() for i in range(2000)]
    values[3], values[1500] = b"caf\xe9", b"\xff\xfe"
    write(pa.table({"text": text_column(values)}), tmp_path / name)
    path = tmp_path / name.replace(".stream", ".arrow")
    documents, skipped = read(path)
    assert [d.text for d in documents] == [f"row {i}" for i in range(2000) if i not in (3, 1500)]
    assert [d.id for d in documents[2:4]] == [f"{path.name}:2", f"{path.name}:4"]
    assert skipped == [
        f"{path} row 3: not UTF-8 (byte 0xe9 at offset 3)",
        f"{path} row 1500: not UTF-8 (byte 0xff at offset 0)",
    ]


def test_columns_of_any_type(tmp_path: Path) -> None:
    nanoseconds = pa.array([1_700_000_000_123_456_789, None], pa.timestamp("ns"))
    day = datetime.datetime(2024, 2, 29)
    types: dict[str, tuple[pa.Array, str]] = {
        "int": (pa.array([7, 8]), "7"),
        "timestamp_ns": (nanoseconds, "2023-11-14 22:13:20.123456789"),
        "timestamp_us": (pa.array([day, day]), "2024-02-29 00:00:00"),
        "timestamp_zone": (nanoseconds.cast(pa.timestamp("ns", "No/Where")), "1700000000123456789"),
        "time_ns": (pa.array([1, 2], pa.time64("ns")), "00:00:00.000000001"),
        "duration_ns": (pa.array([5, 6], pa.duration("ns")), "5"),
        "decimal": (pa.array([decimal.Decimal("1.20"), None]), "1.20"),
        "dictionary": (pa.array(["a", "b"]).dictionary_encode(), "a"),
        "dictionary_ns": (nanoseconds.dictionary_encode(), "2023-11-14 22:13:20.123456789"),
        "large_string": (pa.array(["big", "b"], pa.large_string()), "big"),
        "string_view": (pa.array(["view", "b"], pa.string_view()), "view"),
        "far_date": (pa.array([2**40, 1], pa.timestamp("s")), ""),
        "struct": (pa.array([{"a": [1]}, None]), "{'a': [1]}"),
    }
    for name, (column, expected) in types.items():
        write(pa.table({"text": ["one", "two"], "id": column}), tmp_path / "x.arrow")
        documents, skipped = read(tmp_path / "x.arrow")
        if name == "far_date":  # after the year 9999
            assert [d.text for d in documents] == ["two"]
            assert "row 0: cannot be read" in skipped[0]
        else:
            assert [d.text for d in documents] == ["one", "two"], name
            assert documents[0].id == expected, name


def test_text_of_any_type(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    for column in (
        pa.array([b"one", b"two"]),
        pa.array([b"one", b"two"], pa.large_binary()),
        pa.array(["one", "two"]).dictionary_encode(),
        pa.array(["one", "two"], pa.large_string()),
    ):
        write(pa.table({"text": column}), path)
        assert read(path) == read(path)
        assert [d.text for d in read(path)[0]] == ["one", "two"]
    for column, kind in [
        (pa.array([decimal.Decimal("1.5")]), "Decimal"),
        (pa.array([["a", "list"]]), "a list"),
        (pa.array([{"inner": "text"}]), "an object"),
        (pa.array([1_700_000_000_123_456_789], pa.int64()), "a number"),
        (pa.array([b"caf\xe9"]), "not UTF-8"),
    ]:
        write(pa.table({"text": column}), path)
        documents, skipped = read(path)
        assert documents == []
        assert kind in skipped[0]


def test_nested_columns_beside_the_text_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    meta = pa.array([{"tags": [{"k": "v"}] * 3, "m": decimal.Decimal("3.14")}] * 1500)
    write(pa.table({"meta": meta, "text": [f"t{i}" for i in range(1500)]}), path)
    assert len(read(path)[0]) == 1500


def test_a_damaged_row_group_counts_its_documents(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    table = pa.table({"text": [f"{i * 7919} is row {i}" for i in range(6000)]})
    pq.write_table(table, path, row_group_size=3000, compression="snappy", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[100:120] = b"\xff" * 20
    path.write_bytes(content)
    documents, skipped = read_items(path)
    assert [d.id for d in documents] == [f"x.parquet:{i}" for i in range(3000, 6000)]
    assert [s.documents for s in skipped] == [3000]
    assert "x.parquet row 0: this row and 2,999 after it cannot be read" in skipped[0].sentence
    store = build([str(path)], tmp_path / "out", tokenizer="bytes", workers=0)
    assert store.manifest.skipped == 3000
    assert len((tmp_path / "out/skipped.txt").read_text().splitlines()) == 1


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow"])
def test_columns_that_are_missing_or_twice_are_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write(pa.table({"url": ["a"] * 3, "content": ["b"] * 3}), path)
    (skipped,) = read_items(path)[1]
    assert "there is no column 'text' (columns: url, content); name it with --text-field" in skipped.sentence
    assert [d.text for d in read(Source(str(path), Fields(text_field="content")))[0]] == ["b"] * 3
    write(pa.Table.from_arrays([pa.array(["a"])] * 2, ["text", "text"]), path)
    assert "there are 2 columns 'text'" in read(path)[1][0]
    write(pa.Table.from_arrays([pa.array(["a"])] * 3, ["text", "id", "id"]), path)
    assert "there are 2 columns 'id'" in read(path)[1][0]


def test_parquet_is_recognized_whatever_the_ending(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write(pa.table({"text": ["one"]}), path)
    for name in ("part-00000", "train-00000-of-00001", "x.snappy"):
        path = path.rename(tmp_path / name)
        assert [d.text for d in read(path)[0]] == ["one"]


def test_a_cut_arrow_stream_keeps_what_came_before(tmp_path: Path) -> None:
    write(pa.table({"text": [f"row {i}" for i in range(2000)]}), tmp_path / "x.stream")
    path = tmp_path / "x.arrow"
    path.write_bytes(path.read_bytes()[:-5000])
    documents, skipped = read(path)
    assert len(documents) == 1400
    assert "row 1400: the rest of the file cannot be read" in skipped[0]
