"""CSV and TSV: every row once, also with quotes, newlines and damage in them."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.documents import read
from pathways_lite.data.records import Fields
from pathways_lite.data.sources import Source

ROWS = st.lists(
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r\0"), min_size=1), min_size=1, max_size=30
)


@given(texts=ROWS, delimiter=st.sampled_from([",", ";", "|"]), end=st.sampled_from(["\n", "\r\n"]))
@settings(max_examples=60)
def test_rows_come_back_as_the_csv_module_wrote_them(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], delimiter: str, end: str
) -> None:
    path = tmp_path_factory.mktemp("t") / "x.csv"
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, lineterminator=end)
    writer.writerow(["n", "text", "title"])
    writer.writerows([i, text, "a title"] for i, text in enumerate(texts))
    path.write_bytes(file.getvalue().encode())
    documents, skipped = read(path)
    assert [d.text for d in documents] == texts
    assert skipped == []


def test_fields_and_names(tmp_path: Path) -> None:
    path = tmp_path / "Table.CSV"
    path.write_text('\ufeffid,body,domain\n7,"one, and\nmore",a\n,two,\n\n9,,b\n')
    documents, skipped = read(Source(str(path), Fields(text_field="body")))
    assert [(d.id, d.domain, d.text) for d in documents] == [
        ("7", "a", "one, and\nmore"),
        ("Table.CSV:4", "Table", "two"),
    ]
    assert skipped == [f"{path} line 6: the text is empty"]


def test_quotes_of_tsv_files_are_text_unless_all_rows_are_quoted_rightly(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text('id\ttext\n1\t"No," he said.\n2\t5" screen\n3\t"unclosed\n4\tlast\n')
    documents, skipped = read(path)
    assert [d.text for d in documents] == ['"No," he said.', '5" screen', '"unclosed', "last"]
    assert skipped == []
    path.write_text('id\ttext\n1\t"a ""word"" and\na tab\t."\n2\tplain\n')
    assert [d.text for d in read(path)[0]] == ['a "word" and\na tab\t.', "plain"]


def test_bad_rows_are_left_out_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    rows = [b"a,text", b"1,one", b"2,two,too many", b"3", b"4,caf\xe9", b'"5,unclosed', b"6,six", b"7,seven"]
    path.write_bytes(b"\n".join(rows) + b"\n")
    documents, skipped = read(path)
    assert [d.text for d in documents] == ["one", "six", "seven"]
    reasons = ["line 3: the row has 3 fields, the header 2", "line 4: the row has 1 fields", "line 5: not UTF-8"]
    for sentence, reason in zip(skipped, [*reasons, "line 6: not a row"], strict=True):
        assert reason in sentence


def test_a_quote_without_its_end_takes_one_row_along(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('text,n\none,1\n"two,2\n' + "".join(f"row {i},{i}\n" for i in range(3, 9000)))
    documents, skipped = read(path)
    assert [d.text for d in documents] == ["one", *(f"row {i}" for i in range(3, 9000))]
    assert skipped == [f"{path} line 3: not a row (a quote without its end)"]


def test_headers_without_the_text_or_with_two(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,2\n")
    (sentence,) = read(path)[1]
    assert "there is no column 'text' (columns: a, b); name it with --text-field, or read the file as text" in sentence
    path.write_text("text,text\n1,2\n")
    assert "there are 2 columns 'text'" in read(path)[1][0]
    path.write_text("text\n")
    assert read(path) == ([], [])


def test_many_rows_are_many_chunks(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("text\n" + "".join(f"{'word ' * 100}{i}\n" for i in range(4000)))
    assert len(list(Source(str(path)).chunks())) > 4
    assert [d.id for d in read(path)[0]] == [f"x.csv:{i + 2}" for i in range(4000)]
