"""Tables of other people: columns of one name are refused, empty ones are left out."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from pathways_lite.errors import UserError
from pathways_lite.scaling.checks import validate_columns
from pathways_lite.scaling.laws.registry import find_law
from pathways_lite.scaling.table import OWN_COLUMNS, read_table, write_table


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


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_units_of_our_own_tables_are_trusted(suffix: str, tmp_path: Path) -> None:
    N = np.array([800.0, 1600, 3200, 6400, 800, 6400])  # runs of 1e7 FLOPs
    D = np.array([1000.0, 2000, 4000, 1000, 4000, 8000])
    table = {"N": N, "D": D, "C": 6 * N * D, "L": 2.0 + 5 / N**0.3 + 6 / D**0.3}
    law = find_law("chinchilla")
    with pytest.raises(UserError, match="other units"):
        validate_columns(law, table)
    own = {name: np.array(["x"] * 6, object) for name in OWN_COLUMNS} | table
    write_table(own, tmp_path / f"runs{suffix}")
    assert validate_columns(law, read_table(tmp_path / f"runs{suffix}"))["N"].tolist() == N.tolist()


def test_small_runs_of_others_are_plausible() -> None:
    N, D = np.geomspace(1e4, 3e4, 6), np.geomspace(2e4, 9e4, 6)[::-1]  # 1e9 FLOPs
    assert validate_columns(find_law("chinchilla"), {"N": N, "D": D, "C": 6 * N * D, "L": 2 + N**-0.3 + D**-0.3})
