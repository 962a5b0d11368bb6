"""What a file holds is recognized by content, and named where it holds no text."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.documents import read
from pathways_lite.data.file_formats import default_domain, recognize, split_name
from pathways_lite.data.records import Fields
from pathways_lite.data.sources import Source

RECORDS = [{"url": f"https://example.org/{i}", "text": f"page {i}\nwith two lines: {{}} []"} for i in range(20)]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS)
JSON = {
    "lines": LINES,
    "lines after blank ones": "\n\n" + LINES.replace("\n", "\n\n"),
    "lines with a byte order mark": "\ufeff" + LINES,
    "lines with CRLF": LINES.replace("\n", "\r\n"),
    "an array on one line": json.dumps(RECORDS),
    "an array, indented": json.dumps(RECORDS, indent=2),
    "an array of a line each": "[\n" + ",\n".join(map(json.dumps, RECORDS)) + "\n]\n",
    "objects on several lines": "\n".join(json.dumps(record, indent=4) for record in RECORDS),
}
ANYTHING = [
    ".json",
    ".jsonl",
    ".ndjson",
    ".JSON",
    "",
    ".txt",
    ".json-00000-of-00012",
    ".part0001",
    "-00000-of-00001",
    ".snappy",
]


@pytest.mark.parametrize("layout", JSON)
@pytest.mark.parametrize("ending", ANYTHING)
def test_json_is_recognized_whatever_the_ending(tmp_path: Path, layout: str, ending: str) -> None:
    if layout == "objects on several lines" and "json" not in ending.lower():
        pytest.skip("without an ending this may be a text, as of settings")
    path = tmp_path / f"data{ending}"
    path.write_text(JSON[layout], newline="")
    documents, skipped = read(path)
    assert [d.text for d in documents] == [record["text"] for record in RECORDS]
    assert skipped == []


@given(
    records=st.lists(st.fixed_dictionaries({"text": st.text(min_size=1), "n": st.integers()}), min_size=1),
    indent=st.sampled_from([None, 1]),
    ascii_=st.booleans(),
)
@settings(max_examples=60)
def test_an_array_and_its_lines_hold_the_same_texts(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, object]], indent: int | None, ascii_: bool
) -> None:
    root = tmp_path_factory.mktemp("t")
    encode = {"ensure_ascii": ascii_}
    (root / "a.json").write_bytes(json.dumps(records, indent=indent, **encode).encode("utf-8", "surrogatepass"))
    (root / "b.json").write_bytes(
        "\n".join(json.dumps(record, **encode) for record in records).encode("utf-8", "surrogatepass")
    )
    texts = [[d.text for d in read(root / name)[0]] for name in ("a.json", "b.json")]
    assert texts[0] == texts[1]


def test_a_long_array_is_read_piece_by_piece(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    records = [{"text": "ü" * 1000 + str(i), "id": i} for i in range(4000)]
    path.write_text(json.dumps(records, ensure_ascii=False))
    chunks = list(Source(str(path)).chunks())
    assert len(chunks) > 4
    assert [d.id for d in read(path)[0]] == [str(i) for i in range(4000)]


def test_a_damaged_array_keeps_what_came_before(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(RECORDS)[:-30])
    documents, skipped = read(path)
    assert [d.text for d in documents] == [r["text"] for r in RECORDS[:-1]]
    assert skipped[0].startswith(f"{path} value 20: not JSON")
    assert skipped[0].endswith("this value and all after it are lost")


def test_first_lines_that_are_long_or_damaged_do_not_hide_the_format(tmp_path: Path) -> None:
    path = tmp_path / "part-00000"
    path.write_text(json.dumps({"text": "x" * 200_000}) + "\n" + LINES)
    assert len(read(path)[0]) == 21
    path = tmp_path / "x.json"
    path.write_text('{"text": "cut\n' + LINES)
    documents, skipped = read(path)
    assert (len(documents), len(skipped)) == (20, 1)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", '{"this": "is the first line"}\nand this is the second, of a text about JSON\n'),
        ("wiki.txt", "{{Infobox country}}\n{{Other}}\n"),
        ("links.md", "[{not json}](x)\n"),
        ("settings", '{\n  "a": 1\n}\n'),
        ("page.html", "<html>\n{}\n"),
        ("empty", "{}\n{}\n"),
        ("tab.txt", "a\tb\n1\t2\n"),
        ("colors.txt", "\x1b[31mred\x1b[0m and\x0ca new page\n"),
        ("nul.txt", "a text with one \0 in it\n" * 3),
    ],
)
def test_text_stays_text(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    documents, skipped = read(path)
    assert [d.text for d in documents] == [content]
    assert skipped == []


def test_what_all_files_are_can_be_said(tmp_path: Path) -> None:
    path = tmp_path / "package.json"
    path.write_text('{"name": "x",\n "version": 1}\n')
    documents, skipped = read(path)
    assert documents == []
    assert "there is no field 'text' (fields: name, version)" in skipped[0]
    assert [d.text for d in read(Source(str(path), Fields(format="text")))[0]] == [path.read_text()]
    other = tmp_path / "rows.dat"
    other.write_text("text\ttitle\none\tx\n")
    assert [d.text for d in read(Source(str(other), Fields(format="tsv")))[0]] == ["one"]


NOT_TEXT = {
    "book.txt": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n",
        "a pointer of Git LFS in place of the data; get the data with git lfs pull",
    ),
    "table.parquet": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n",
        "git lfs pull",
    ),
    "a.pdf": (b"%PDF-1.7\n%\xe2\xe3", "a PDF"),
    "b.png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a PNG image"),
    "c.npy": (b"\x93NUMPY\x01\0v\0{}", "a NumPy array"),
    "d.docx": (b"PK\3\4\x14\0\6\0", "a zip container, not text"),
    "e.txt.7z": (b"7z\xbc\xaf\x27\x1c\0\4", "7z archive, which is not read; unpack it"),
    "f.jsonl.Z": (b"\x1f\x9d\x90\x7b\x44\0", "compressed by compress (.Z)"),
    "g.json.br": (b"\x8b\x02\x80\0\1\3\xff", "compressed by Brotli, which is not read"),
    "h.txt": ("UTF-16 text".encode("utf-16"), "UTF-16 text; convert it: iconv"),
    "i.bin": (bytes(range(256)) * 20, "binary data, not text"),
    "j.tokens": (b"\1\0\2\0\3\0" * 50, "binary data, not text"),
    "k.zeros": (bytes(5000), "binary data, not text"),
}


@pytest.mark.parametrize("name", NOT_TEXT)
def test_what_is_not_text_is_named(tmp_path: Path, name: str) -> None:
    content, reason = NOT_TEXT[name]
    path = tmp_path / name
    path.write_bytes(content)
    documents, skipped = read(path)
    assert documents == []
    assert len(skipped) == 1
    assert skipped[0].startswith(f"{path}: ")
    assert reason in skipped[0]


def test_a_text_about_git_lfs_is_text(tmp_path: Path) -> None:
    path = tmp_path / "guide.txt"
    path.write_text("version https://git-lfs.github.com/spec/v1\nis how pointers begin. " + "They are small. " * 100)
    assert recognize(path).format == "text"


def test_names_of_files_without_their_numbers_are_domains() -> None:
    assert split_name("x.jsonl.gz") == ("x", ".jsonl")
    assert split_name("x.tar.gz") == ("x", ".tar")
    assert split_name("x.tgz") == ("x", ".tar")
    assert split_name("c4-train.00000-of-01024.json.gz") == ("c4-train.00000-of-01024", ".json")
    assert split_name("x.csv-00003-of-00010") == ("x-00003-of-00010", ".csv")
    domains = {
        "wiki.jsonl": "wiki",
        "c4-train.00000-of-01024.json.gz": "c4-train",
        "train-00000-of-00010.parquet": "train",
        "x.jsonl-00003-of-00010": "x",
        "00000-of-00010.jsonl": "00000-of-00010",
        "pages/part-00000": "pages",
        "pages/part-00007-8f1c-c000.json.gz": "pages",
        "2024-05.jsonl": "2024-05",
    }
    assert {name: default_domain(Path(name)) for name in domains} == domains
