"""Small corpora and token stores."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pathways_lite.data.build import build
from pathways_lite.data.store import Store

WORDS = "tree of night river in stone over light and under 1984 42 wind rain".split()  # noqa: SIM905


def text(number: int, words: int = 60) -> str:
    """Return text that depends on the number."""
    return f"Chapter {number}\n\n" + " ".join(WORDS[(number * k * k + k) % len(WORDS)] for k in range(words)) + ".\n"


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    """A file of 90 documents in the domains `tales` (two thirds) and `poems`."""
    path = tmp_path / "corpus.jsonl"
    records = [{"text": text(i, 30 + i), "domain": "tales" if i % 3 else "poems", "id": f"d{i}"} for i in range(90)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def store(tmp_path: Path, jsonl: Path) -> Store:
    """The corpus as a byte-level token store; a tenth is held out."""
    return build([str(jsonl)], tmp_path / "store", tokenizer="bytes", held_out=0.1, workers=0)


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, bytes]]:
    """A function that reads all files below a directory, by relative path."""
    return lambda root: {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
