"""Sources: every document once, and one sentence for all input that holds none."""

import ast
import gzip
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.documents import read
from pathways_lite.data.documents import Document
from pathways_lite.data.python_installation import SourceFile, library_files, split_docstrings
from pathways_lite.data.records import Fields
from pathways_lite.data.sources import Source
from pathways_lite.errors import UserError


def lines(n: int) -> bytes:
    return b"".join(
        json.dumps({"text": f"text {i} ü", "domain": f"d{i % 2}", "id": i}).encode() + b"\n" for i in range(n)
    )


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("ending", [b"\n", b""])
def test_jsonl(tmp_path: Path, suffix: str, ending: bytes) -> None:
    path = tmp_path / f"x.jsonl{suffix}"
    # Two compressed streams, concatenated, and enough for several chunks.
    path.write_bytes(COMPRESS[suffix](lines(9000)) + COMPRESS[suffix](b"\n" + lines(3).rstrip() + ending))
    documents, skipped = read(path)
    assert skipped == []
    assert len(list(Source(str(path)).chunks())) > 1
    assert [d.id for d in documents] == [*map(str, range(9000)), "0", "1", "2"]
    assert documents[7] == Document("7", "d1", "7", "text 7 ü")


def test_text_files_and_directories(tmp_path: Path) -> None:
    root = tmp_path / "books"
    for name, content in {
        "b.txt": b"bee",
        "a/z.md": b"zed",
        ".hidden": b"no",
        "c.txt.gz": gzip.compress(b"see"),
    }.items():
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_bytes(content)
    (root / "r.jsonl").write_bytes(lines(1))
    documents, skipped = read(root)
    assert [(d.id, d.domain, d.text) for d in documents] == [
        ("books/a/z.md", "books", "zed"),
        ("books/b.txt", "books", "bee"),
        ("books/c.txt.gz", "books", "see"),
        ("0", "d0", "text 0 ü"),
    ]
    assert skipped == []
    assert {d.domain for d in read(f"mine={root}")[0]} == {"mine"}
    assert read(root / "b.txt")[0] == [Document("b.txt", "b", "b.txt", "bee")]


def test_parquet_and_field_names(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    table = pa.table({"body": ["one", "two", None, "four"], "kind": ["a", None, "a", "b"], "other": [1, 2, 3, 4]})
    pq.write_table(table, path, row_group_size=2)
    fields = Fields(text_field="body", domain_field="kind", id_field="name")
    documents, skipped = read(Source(str(path), fields))
    assert [(d.id, d.domain, d.text) for d in documents] == [
        ("x.parquet:0", "a", "one"),
        ("x.parquet:1", "x", "two"),
        ("x.parquet:3", "b", "four"),
    ]
    assert skipped == [f"{path} row 2: the field 'body' is null, not text"]


BAD_LINES = [
    (b"not json", "not JSON (Expecting value: line 1 column 1 (char 0))"),
    (b'{"body": "x"}', "there is no field 'text' (fields: body)"),
    (b"[1]", "expected an object with a field 'text', found a list"),
    (b'{"text": 3}', "the field 'text' is a number, not text"),
    (b'{"text": ""}', "the text is empty"),
    (b'{"text": "x", "domain": 3}', "the field 'domain' is a number, not text"),
    (b'{"text": "a\xff"}', "not UTF-8 (byte 0xff at offset 11)"),
    (b'{"text": "a\\ud800"}', "half a surrogate pair (U+D800) at character 1"),
    (b"[" * 100_000, "not JSON"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_LINES)
def test_bad_lines_are_reported_and_good_ones_kept(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + lines(2) + b"\n" + line + b"\n" + lines(1))
    documents, skipped = read(path)
    assert [d.id for d in documents] == ["0", "1", "0"]
    assert len(skipped) == 1
    assert skipped[0].startswith(f"{path} line 4: ")
    assert reason in skipped[0]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@given(share=st.floats(0.02, 0.99))
@settings(max_examples=12)
def test_a_truncated_file_keeps_what_came_before(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, share: float
) -> None:
    path = tmp_path_factory.mktemp("t") / f"x.jsonl{suffix}"
    content = COMPRESS[suffix](lines(3000))
    path.write_bytes(content[: int(len(content) * share)])
    documents, skipped = read(path)
    assert [d.id for d in documents] == [str(i) for i in range(len(documents))]
    expected = f"{path} line {len(documents) + 1}: the file ends in the middle of its {suffix[1:]} data"
    assert skipped == [f"{expected}; this line and all after it are lost"]
    if suffix == ".gz":
        # As much as can be decompressed.
        whole = zlib.decompressobj(31).decompress(path.read_bytes())
        assert len(documents) == whole.count(b"\n")


def test_damaged_empty_and_unreadable_files(tmp_path: Path) -> None:
    cases = {
        "noise.jsonl.gz": (b"this is no gzip", "line 1: no gz data, although the name says so"),
        "noise.jsonl.zst": (b"this is no zstd", "line 1: no zst data, although the name says so"),
        "empty.jsonl": (b"", ": the file is empty"),
        "empty.jsonl.gz": (gzip.compress(b""), ": the file is empty"),
        "empty.txt": (b"", ": the file is empty"),
        "latin.txt": ("Zürich".encode("latin-1"), ": not UTF-8 (byte 0xfc at offset 1)"),
        "cut.txt.gz": (gzip.compress(b"text" * 100)[:-9], ": the file ends in the middle of its gz data"),
        "empty.parquet": (b"", ": the file is empty"),
        "noise.parquet": (b"this is no parquet", ": not a Parquet file"),
    }
    for name, (content, reason) in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        documents, skipped = read(path)
        assert documents == []
        assert len(skipped) == 1
        assert skipped[0].startswith(str(path))
        assert reason in skipped[0]
        assert "\n" not in skipped[0]


def test_missing_and_empty_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or directory; a source is one of these, or python:"):
        Source(str(tmp_path / "x")).files()
    with pytest.raises(UserError, match="holds no files"):
        Source(str(tmp_path)).files()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe is neither a file nor a directory; write it to a file first"):
        Source(str(tmp_path / "pipe")).files()


@pytest.mark.parametrize("domain", ["en-wiki", "2024", "pre_1929_books", "c++", "web.v2", "zh 中文"])
def test_names_of_domains(tmp_path: Path, domain: str) -> None:
    path = tmp_path / "w.txt"
    path.write_text("some words")
    assert [d.domain for d in read(f"{domain}={path}")[0]] == [domain]


def test_names_that_no_domain_has_are_refused(tmp_path: Path) -> None:
    for name in ("", "-x", "a|b", "[red]"):
        with pytest.raises(UserError, match="cannot be the name of a domain, which begins with a letter"):
            Source.parse(f"{name}=w.txt")
    # A file's own name may have an equals sign.
    (tmp_path / "lang=en").mkdir()
    (tmp_path / "lang=en/x.txt").write_text("words")
    assert [d.domain for d in read(tmp_path / "lang=en")[0]] == ["lang=en"]
    assert [d.domain for d in read(f"en={tmp_path}/lang=en")[0]] == ["en"]
    with pytest.raises(UserError, match="no such file"):
        Source.parse(f"{tmp_path}/lang=de").files()


def test_home_directories_are_found_after_a_domain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("words")
    assert [(d.id, d.domain) for d in read("mine=~/texts")[0]] == [("texts/a.txt", "mine")]
    assert [(d.id, d.domain) for d in read("mine=~/texts/a.txt")[0]] == [("a.txt", "mine")]


SOURCE = '''#!/usr/bin/python
# A comment.
"""Module ü docstring."""

x = """no docstring"""

class A:
    "Class docstring."  # a comment on its line
    y = 1

    async def f(self):
        r"""Function \\d docstring
        of two lines.

            indented
        """
        if x:
            def g(): "Inner."; return "not one"
        return g

def only():
    \'\'\'Alone.\'\'\'

def concatenated():
    "a" "b"
    return f"""{x}"""
'''


def test_docstrings_are_cut_out() -> None:
    code, docstrings = split_docstrings(SOURCE)
    assert docstrings == [
        "Module ü docstring.",
        "Class docstring.",
        "Function \\d docstring\nof two lines.\n\n    indented",
        "Inner.",
        "Alone.",
        "ab",
    ]
    assert code.startswith("#!/usr/bin/python\n# A comment.\n\nx = ")
    assert '"""no docstring"""' in code
    assert "      # a comment on its line\n" in code
    assert "    async def f(self):\n        if x:\n            def g(): ; return" in code
    assert "def only():\n\ndef concatenated():\n    return" in code
    assert not any(text.splitlines()[0] in code for text in docstrings[:5])


def test_sources_of_the_test_package_are_code_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "test_it.py"
    path.write_text(SOURCE, encoding="utf-8")
    (document,) = SourceFile(path, "test/test_it.py", path.stat().st_size).read()
    assert isinstance(document, Document)
    assert (document.domain, document.text) == ("code", SOURCE)


def test_the_python_installation() -> None:
    names = [name for _, name in library_files()]
    assert names == sorted(names, key=lambda name: Path(name))
    assert not any("site-packages" in name for name in names)
    chunks = [chunk for chunk in Source("python:").chunks() if getattr(chunk, "name", "topics").split("/")[0] in PICKED]
    items = [item for chunk in chunks for item in chunk.read()]
    documents = {item.id: item for item in items if isinstance(item, Document)}
    assert len(documents) == len(items)
    code, prose = documents["code:textwrap.py"], documents["prose:textwrap.py"]
    assert code.group == prose.group == "textwrap.py"
    assert "def dedent(text):" in code.text
    assert "Remove any common leading whitespace" not in code.text
    assert prose.text.startswith("Text wrapping and filling.\n\n")
    assert "Remove any common leading whitespace" in prose.text
    assert "# Despite the similar naming" not in code.text
    ast.parse(documents["code:colorsys.py"].text)
    topics = [d for d in documents.values() if d.id.startswith("prose:pydoc_data/topics.py:")]
    assert len(topics) > 50
    assert len({d.group for d in topics}) == len(topics)
    assert not any(d.domain == "code" and "pydoc_data/topics" in d.id for d in documents.values())


PICKED = {"topics", "textwrap.py", "colorsys.py", "json", "pydoc_data"}


def test_the_python_installation_takes_the_name_of_a_domain() -> None:
    source = Source.parse("library=python:")
    chunks = [chunk for chunk in source.chunks() if getattr(chunk, "name", "topics") in ("textwrap.py", "topics")]
    documents = [item for chunk in chunks for item in chunk.read() if isinstance(item, Document)]
    assert {document.domain for document in documents} == {"library"}
    assert {document.id.partition(":")[0] for document in documents} == {"code", "prose"}, "ids are as they were"
    assert {file.domain for file in source.files()} == {"library"}
