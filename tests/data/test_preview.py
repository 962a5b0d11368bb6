"""Previews: what each source is taken for, and the beginnings of three documents."""

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pathways_lite.cli.data import app
from pathways_lite.data.preview import preview
from pathways_lite.data.sources import Source


def lines(n: int) -> str:
    return "".join(json.dumps({"text": f"record {i} " + "word " * 50, "id": f"r{i}"}) + "\n" for i in range(n))


def test_what_files_are_taken_for(tmp_path: Path) -> None:
    root = tmp_path / "src"
    root.mkdir()
    for name in ("a.txt", "b.md"):
        (root / name).write_text(f"text of {name}")
    (root / "c.json.gz").write_bytes(gzip.compress(lines(9).encode()))
    (root / "d.bin").write_bytes(bytes(range(256)))
    (root / "e.txt").symlink_to("nowhere")
    (root / "f.txt").symlink_to("/etc/passwd")
    described = str(preview(Source(str(root)))).splitlines()
    assert described[0] == f"{root}: 5 files, 3 as text, 1 as JSON lines (gz)"
    assert described[1:4] == [
        f"  left out: {root}/e.txt: a link that leads nowhere (to nowhere)",
        f"  left out: {root}/d.bin: binary data, not text",
        f"  link out of the source: {root}/f.txt -> /etc/passwd",
    ]
    assert described[4] == "  src/a.txt (domain src): text of a.txt"
    assert len(described) == 7


def test_one_file_gives_three_examples_without_control_characters(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    evil = json.dumps({"text": "\x1b]0;title\x07 and\u202e more\n", "id": "[red]\x1b[31m", "domain": "\x9b"})
    path.write_text(f"oops\n{evil}\n{lines(9)}")
    described = str(preview(Source(str(path))))
    assert described.isprintable() or all(c.isprintable() or c == "\n" for c in described)
    assert described.splitlines()[1].startswith(f"  skipped: {path} line 1: not JSON")
    assert described.splitlines()[2] == ("  [red]\\x1b[31m (domain \\x9b): \\x1b]0;title\\x07 and\\u202e more\\n")
    assert described.splitlines()[3].startswith("  r0 (domain x): record 0 word")
    assert described.splitlines()[3].endswith(" ...")
    assert len(described.splitlines()) == 5


def test_python_and_files_without_documents(tmp_path: Path) -> None:
    described = str(preview(Source("python:"))).splitlines()
    assert described[0].startswith("python: ")
    assert len(described) == 4
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,2\n")
    assert "there is no column 'text'" in str(preview(Source(str(path))))


def test_a_dry_run_builds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "part-00000").write_text(lines(9))
    command = ["build", "out", "en-web=part-00000", "--tokenizer", "bytes", "--workers", "0"]
    dry = CliRunner().invoke(app, [*command, "--dry-run"], catch_exceptions=False)
    assert [path.name for path in tmp_path.iterdir()] == ["part-00000"]
    assert "part-00000: 1 file, 1 as JSON lines\n  r0 (domain en-web): record 0 word" in dry.stdout
    wet = CliRunner().invoke(app, command, catch_exceptions=False)
    assert dry.stdout in wet.stdout
    assert "held_out" in wet.stdout
