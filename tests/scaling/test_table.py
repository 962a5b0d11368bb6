"""Tables of other people: columns of one name are refused, empty ones are left out."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from pathways_lite.errors import UserError
from pathways_lite.scaling.table import read_table, write_table


@pytest.mark.parametrize("header", ["N,D,L,L", "L,N, L,D", "N,L,D,L ", "D,D,L,L", "L;N;D;L", "L\tN\tD\tL"])
def test_two_columns_of_one_name_are_named(header: str, tmp_path: Path) -> None:
    mark = next(mark for mark in ";\t," if mark in header)
    (tmp_path / "a.csv").write_text(f"{header}\n{mark.join('1234')}\n")
    with pytest.raises(UserError, match=r"more than one column named (D, )?L; rename"):
        read_table(tmp_path / "a.csv")


def test_two_columns_of_one_name_in_parquet(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0])], names=["L", "L"])
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match="column named L"):
        read_table(tmp_path / "a.parquet")


def test_columns_without_a_name_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("N,D,,L,\n1,2,,3,\n4,5,,6,\n")
    table = read_table(tmp_path / "a.csv")
    assert {name: column.tolist() for name, column in table.items()} == {"N": [1, 4], "D": [2, 5], "L": [3, 6]}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_is_read_as_it_was_written(suffix: str, tmp_path: Path) -> None:
    written = {"N": np.array([1e6, 2e6]), "name": np.array(["a", "[/b]x"], object)}
    write_table(written, tmp_path / f"a{suffix}")
    assert {name: column.tolist() for name, column in read_table(tmp_path / f"a{suffix}").items()} == {
        name: column.tolist() for name, column in written.items()
    }
