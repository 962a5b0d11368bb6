"""Damage of a token store: noticed on reading wherever reading comes, by fsck wherever it is, and named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pathways_lite.cli.main import app
from pathways_lite.data import pieces
from pathways_lite.data.build import build
from pathways_lite.data.fsck import fsck, is_store
from pathways_lite.data.pieces import ArrayReader, ArrayWriter
from pathways_lite.data.store import ARRAYS, SPLITS, Store, open_store
from pathways_lite.errors import UserError


def read_all(address: str) -> None:
    """Read every array as training, evaluation and selection do."""
    store = open_store(address)
    for domain in store.domains:
        for split in SPLITS:
            store.read(domain, split, 0, store.tokens(domain, split))
            store.document_starts(domain, split)
            store.document_text_bytes(domain, split)
            store.document_ids(domain, split)


def remove(piece: Path, other: Path) -> None:
    piece.unlink()


def empty(piece: Path, other: Path) -> None:
    piece.write_bytes(b"")


def truncate(piece: Path, other: Path) -> None:
    piece.write_bytes(piece.read_bytes()[:-9])


def zero(piece: Path, other: Path) -> None:
    piece.write_bytes(bytes(piece.stat().st_size))


def flip(piece: Path, other: Path) -> None:
    content = bytearray(piece.read_bytes())
    content[len(content) // 3] ^= 4
    piece.write_bytes(content)


def replace(piece: Path, other: Path) -> None:
    shutil.copyfile(other, piece)
    shutil.copyfile(other.parent.parent / "zarr.json", piece.parent.parent / "zarr.json")


@pytest.mark.parametrize("damage", [remove, empty, truncate, zero, flip, replace], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", ARRAYS)
def test_a_damaged_file_is_named_when_it_is_read_and_by_fsck(
    store: Store, name: str, damage: Callable[[Path, Path], None]
) -> None:
    root = Path(store.address)
    assert fsck(store.address) == []
    damage(root / f"d1/train/{name}/c/0", root / f"d0/train/{name}/c/0")
    with pytest.raises(UserError, match=rf"damaged: .*d1/train/{name}/"):
        read_all(store.address)
    problems = fsck(store.address)
    assert problems
    assert f"d1/train/{name}/" in problems[0]


def test_swapped_files_of_one_length_are_told_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        lines = [json.dumps({"text": f"{name} {i:03d}", "domain": name, "id": f"{i:03d}"}) for i in range(30)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    out = tmp_path / "out"
    sources = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    build(sources, out, tokenizer="bytes", workers=0)
    first, second = (out / f"d{i}/train/tokens/c/0" for i in (0, 1))
    assert first.stat().st_size == second.stat().st_size
    first.rename(tmp_path / "aside")
    second.rename(first)
    (tmp_path / "aside").rename(second)
    with pytest.raises(UserError, match="d0/train/tokens/c/0 holds other values than were written"):
        read_all(str(out))
    problems = fsck(str(out))
    assert len(problems) == 2
    assert "it holds the content of d1/train/tokens/c/0" in problems[0]
    assert "it holds the content of d0/train/tokens/c/0" in problems[1]


def test_every_piece_of_a_long_array_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pathways_lite.data.zarr_io.SHARD", 4 * 8192)
    monkeypatch.setattr(pieces, "SHARD", 4 * 8192)
    values = np.arange(100_000, dtype=np.uint32) * 7
    writer = ArrayWriter(str(tmp_path), "x", np.dtype(np.uint32), len(values))
    writer.append(values)
    writer.close()
    assert len(writer.pieces.digests) == 4
    middle = tmp_path / "x/c/2"
    content = middle.read_bytes()
    shutil.copyfile(tmp_path / "x/c/1", middle)

    def reader() -> ArrayReader:
        return ArrayReader(str(tmp_path), "x", writer.pieces, None)

    assert (reader().read(0, 65_536) == values[:65_536]).all()
    with pytest.raises(UserError, match="x/c/2 holds other values"):
        reader().read(65_530, 65_540)
    middle.unlink()
    with pytest.raises(UserError, match="x/c/2 is missing"):
        reader().read(90_000, 90_001)
    middle.write_bytes(content)
    assert (reader().read_whole() == values).all()


def test_zeros_are_data_and_not_a_loss(tmp_path: Path) -> None:
    """A text of NUL bytes: TensorStore would leave out its chunks."""
    (tmp_path / "zeros.jsonl").write_text(json.dumps({"text": "\0" * 50_000, "domain": "zeros"}))
    store = build([str(tmp_path / "zeros.jsonl")], tmp_path / "out", tokenizer="bytes", workers=0)
    assert (store.read("zeros", "train", 1, 50_001) == 0).all()
    assert fsck(store.address) == []


def without_digests(address: str) -> None:
    """Make a store as earlier versions wrote it."""
    manifest = Path(address) / "manifest.json"
    raw = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({k: v for k, v in raw.items() if k not in ("pieces", "digest")}))
    (Path(address) / "pieces.json").unlink()


def test_a_store_without_digests_is_read_and_verified_by_its_fingerprint(store: Store) -> None:
    without_digests(store.address)
    read_all(store.address)
    assert fsck(store.address) == []
    for name in ARRAYS:
        piece = Path(store.address) / f"d0/train/{name}/c/0"
        content = piece.read_bytes()
        piece.unlink()
        with pytest.raises(UserError, match=f"d0/train/{name}/c/0 is missing"):
            read_all(store.address)
        piece.write_bytes(content)
    other = Path(store.address) / "d1/train/text_bytes"
    shutil.rmtree(Path(store.address) / "d1/train/text_bytes")
    shutil.copytree(Path(store.address) / "d1/train/starts", other)
    assert any("d1/train/text_bytes" in problem for problem in fsck(store.address))


@pytest.mark.parametrize("old", ['"poems"', '"eod": 256', '"documents": ', '"skipped"', '"pieces"', '"digest"'])
def test_a_changed_manifest_is_damaged(store: Store, old: str) -> None:
    manifest = Path(store.address) / "manifest.json"
    text = manifest.read_text()
    changed = text.replace(old, old.replace("e", "f", 1) if "e" in old else old.replace("i", "j"), 1)
    manifest.write_text(changed.replace(": 2", ": 3", 1) if old == '"documents": ' else changed)
    with pytest.raises(UserError, match=r"manifest.json is damaged"):
        open_store(store.address)


def test_a_changed_record_of_digests_is_damaged(store: Store) -> None:
    record = Path(store.address) / "pieces.json"
    record.write_text(record.read_text().replace("0", "1", 1))
    with pytest.raises(UserError, match=r"pieces.json is not the one that was written"):
        read_all(store.address)
    assert "pieces.json" in fsck(store.address)[0]
    record.unlink()
    assert "pieces.json is missing" in fsck(store.address)[0]


def test_the_command_names_damage_and_sets_the_status(store: Store) -> None:
    assert is_store(Path(store.address))
    for command in (["fsck"], ["data", "fsck"]):
        done = CliRunner().invoke(app, [*command, store.address])
        assert done.exit_code == 0
        assert "is intact" in done.output
    (Path(store.address) / "d0/held_out/ids/c/0").unlink()
    for command in (["fsck"], ["data", "fsck"]):
        done = CliRunner().invoke(app, [*command, store.address])
        assert done.exit_code == 1
        assert "d0/held_out/ids/c/0 is missing" in done.output
