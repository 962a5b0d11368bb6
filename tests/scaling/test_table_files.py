"""Tables as people have them: every way of writing numbers, every encoding, exports of W&B."""

import gzip
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import feather

from pathways_lite.errors import UserError
from pathways_lite.scaling.number_text import parse_number
from pathways_lite.scaling.table import numeric_column, read_table

N = [1.5e9, 7e9, 2.4e12]


def numbers(path: Path, name: str = "N", **options: str) -> list[float]:
    return numeric_column(read_table(path, **options), name).tolist()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "value"),
    [("1.5B", 1.5e9), ("300e9", 3e11), ("2.4T", 2.4e12), ("160M", 1.6e8), ("70m", 7e7), ("2.5%", 0.025),
     ("2.5 %", 0.025),
     ("1,500,000", 1.5e6), ("1 500 000", 1.5e6), ("1_500_000", 1.5e6), ("1'500'000", 1.5e6), ("-3", -3), ("1e-4", 1e-4),
     ("\u22123.5", -3.5), (" 12 ", 12), ("1.5 bn", 1.5e9), (".5k", 500)],
)  # fmt: skip
def test_numbers_are_read_as_people_write_them(text: str, value: float) -> None:
    assert parse_number(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "-", "N/A", "nan", "NaN", "null", "—"])
def test_missing_numbers_are_nan(text: str) -> None:
    assert np.isnan(parse_number(text))


@pytest.mark.parametrize("text", ["abc", "1.5X", "1,50,00", "12,34,567", "1.2.3", "0,500,000", "5 5"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="number"):
        parse_number(text)


def test_a_comma_that_may_be_a_decimal_mark_is_asked_about() -> None:
    """3,105 is a loss in half of the world, and three thousand in the other."""
    with pytest.raises(ValueError, match="--decimal"):
        parse_number("3,105")
    assert parse_number("3,105", ",") == 3.105
    assert parse_number("3,105", ".") == 3105
    assert parse_number("1.234.567,5", ",") == 1234567.5


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_is_read_back(value: float) -> None:
    assert parse_number(repr(value)) == value


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("N,größe\n1.5B,a\n7B,b\n2.4T,é\n".encode(encoding))
    assert numbers(path) == pytest.approx(N)
    assert read_table(path)["größe"][2] == "é"


def test_decimal_commas(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("N;L;C\n1.500.000,5;3,105;1,5B\n2;2,5;2T\n")
    assert numbers(path, decimal=",") == [1500000.5, 2]
    assert numbers(path, "L", decimal=",") == [3.105, 2.5]
    assert numbers(path, "C", decimal=",") == [1.5e9, 2e12]
    with pytest.raises(UserError, match="--decimal ,"):
        numbers(path, "L")


def test_formats_follow_from_the_content(tmp_path: Path) -> None:
    rows = [{"N": n, "config": {"lr": 0.1, "model": {"d": 8}}} for n in N]
    path = tmp_path / "table.dat"
    feather.write_feather(pa.Table.from_pylist(rows), str(path))
    assert numbers(path) == N
    assert numbers(path, "config.model.d") == [8, 8, 8]
    for name, text in {
        "lines.jsonl": "\n".join(map(json.dumps, rows)),
        "array.json": json.dumps(rows, indent=1),
        "columns.json": json.dumps({"N": dict(enumerate(N))}),
        "lists.json": json.dumps({"N": N}),
    }.items():
        (tmp_path / name).write_text(text)
        assert numbers(tmp_path / name) == N
    for name, content in {
        "csv.gz": gzip.compress(b"N\n1.5e9\n7e9\n2.4e12\n"),
        "csv.zst": zstandard.compress(b"N\n1.5e9\n7e9\n2.4e12\n"),
    }.items():
        (tmp_path / name).write_bytes(content)
        assert numbers(tmp_path / name) == N


def test_formats_that_are_not_read_are_named(tmp_path: Path) -> None:
    for name, content, sentence in (
        ("book.xlsx", b"PK\x03\x04rest", "is an archive; unpack it"),
        ("old.xls", b"\xd0\xcf\x11\xe0rest", "an Excel workbook"),
        ("empty.csv", b"\n", "is empty"),
        ("twice.csv", b"N,L,L\n1,2,3\n", "more than one column named L"),
        ("cut.csv.gz", gzip.compress(b"N\n1\n" * 999)[:40], "ended"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=sentence) as caught:
            read_table(tmp_path / name)
        assert "\n" not in str(caught.value)


def workbook(path: Path, sheets: dict[str, list[list[object]]]) -> Path:
    """Write a workbook with the few parts that the format needs; texts are inline."""

    def cell(value: object) -> str:
        if isinstance(value, str):
            return f'<c t="inlineStr"><is><t>{value}</t></is></c>'
        return "<c/>" if value is None else f"<c><v>{value}</v></c>"

    main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    relations = "http://schemas.openxmlformats.org/package/2006/relationships"
    kinds = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    parts = {
        "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>',
        "_rels/.rels": f'<Relationships xmlns="{relations}"><Relationship Id="r1" Type="{kinds}/officeDocument" '
        'Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook {main} xmlns:r="{kinds}"><sheets>'
        + "".join(f'<sheet name="{name}" sheetId="{i}" r:id="r{i}"/>' for i, name in enumerate(sheets, 1))
        + "</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{relations}">'
        + "".join(
            f'<Relationship Id="r{i}" Type="{kinds}/worksheet" Target="worksheets/s{i}.xml"/>'
            for i in range(1, len(sheets) + 1)
        )
        + "</Relationships>",
    }
    for i, rows in enumerate(sheets.values(), 1):
        lines = "".join(f"<row>{''.join(map(cell, row))}</row>" for row in rows)
        parts[f"xl/worksheets/s{i}.xml"] = f"<worksheet {main}><sheetData>{lines}</sheetData></worksheet>"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in parts.items():
            archive.writestr(name, f'<?xml version="1.0" encoding="UTF-8"?>{text}')
    return path


SHEET: list[list[object]] = [
    [],
    ["run", "N", "tokens", "final loss"],
    ["a", 1e8, "2B", 3.25],
    ["b", 2e8, "4B", 3.0],
    ["crashed", 4e8, "8B", None],
    [None, None, None, None],
]


def test_a_workbook_is_read_whatever_its_name(tmp_path: Path) -> None:
    pytest.importorskip("python_calamine", reason="the extra `excel` is not installed")
    for name in ("runs.xlsx", "runs.csv"):
        table = read_table(workbook(tmp_path / name, {"notes": [], "runs": SHEET}), {"D": "tokens"})
        assert table["run"].tolist() == ["a", "b", "crashed"]
        assert table["N"].tolist() == [1e8, 2e8, 4e8]
        assert numeric_column(table, "D").tolist() == [2e9, 4e9, 8e9]
        np.testing.assert_equal(table["final loss"], [3.25, 3.0, np.nan])


def test_a_sheet_is_named_where_a_workbook_has_several(tmp_path: Path) -> None:
    pytest.importorskip("python_calamine", reason="the extra `excel` is not installed")
    book = workbook(tmp_path / "book.xlsx", {"small": [["N"], [1]], "large": [["N"], [2]], "blank": []})
    assert read_table(book, sheet="large")["N"].tolist() == [2]
    for sheet, sentence in (
        (None, "has the sheets small, large; name the one to read with --sheet"),
        ("x", "no sheet 'x'. There are: small, large, blank"),
        ("blank", "has no sheet with rows"),
    ):
        with pytest.raises(UserError, match=sentence):
            read_table(book, sheet=sheet)
    (tmp_path / "plain.csv").write_text("N\n1\n")
    with pytest.raises(UserError, match="is no workbook and has no sheets"):
        read_table(tmp_path / "plain.csv", sheet="small")


def test_a_damaged_workbook_is_said_so(tmp_path: Path) -> None:
    pytest.importorskip("python_calamine", reason="the extra `excel` is not installed")
    with zipfile.ZipFile(tmp_path / "cut.xlsx", "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook")
    with pytest.raises(UserError, match="an Excel workbook that cannot be read"):
        read_table(tmp_path / "cut.xlsx")


def test_without_the_extra_a_workbook_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_calamine", None)  # makes the import fail
    with pytest.raises(UserError, match=r"needs the extra `excel` \(make install EXTRA=excel\); or save"):
        read_table(workbook(tmp_path / "runs.xlsx", {"runs": SHEET}))


def test_a_chart_exported_by_wandb_becomes_rows(tmp_path: Path) -> None:
    path = tmp_path / "chart.csv"
    path.write_text(
        '"Step","run - a - loss","run - a - loss__MIN","run - a - loss__MAX",'
        '"b - loss","b - loss__MIN","b - loss__MAX"\n'
        '"1","4","4","4","5","5","5"\n"2","3","3","3","","",""\n"3","2.5","2.5","2.5","4","4","4"\n'
    )
    table = read_table(path)
    assert table["run"].tolist() == ["run - a"] * 3 + ["b"] * 2
    assert table["loss"].tolist() == [4, 3, 2.5, 5, 4]
    assert table["Step"].tolist() == [1, 2, 3, 1, 3]


def test_columns_are_computed(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("size_M,Model Size,ppl\n10,1e7,20\n20,2e7,10\n")
    table = read_table(path, {"N": "size_M*1e6", "L": "ln(ppl)", "x": "`Model Size`/1e6 - 1", "y": "Model Size"})
    assert table["N"].tolist() == [1e7, 2e7]
    assert table["L"] == pytest.approx(np.log([20, 10]))
    assert table["x"].tolist() == [9, 19]
    assert table["y"].tolist() == [1e7, 2e7]
    with pytest.raises(UserError, match="no column 'pplx'"):
        read_table(path, {"L": "ln(pplx)"})
    with pytest.raises(UserError, match=r"no column 'eval/loss'\. There are"):
        read_table(path, {"L": "eval/loss"})
