"""A checkpoint of others may hold anything: it is refused within bounded time and memory, and nothing else is read."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from pathways_lite.checkpoints import DamagedError, checkpoint_paths, fsck, open_checkpoint, restore
from pathways_lite.checkpoints.arrays import snapshot
from pathways_lite.checkpoints.checkpoint import read_manifest, write_checkpoint
from pathways_lite.checkpoints.manifest import FILE_NAME, ArrayInfo, FileInfo, Manifest

TREE = {"w": np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3), "key": jax.random.key_data(jax.random.key(0))}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path, 5, snapshot(TREE), {})


def rewrite(checkpoint: Path, **changes: Any) -> None:
    """Write another manifest, with its right digest."""
    manifest = Manifest(**{**vars(read_manifest(checkpoint)), **changes})
    (checkpoint / FILE_NAME).write_bytes(manifest.to_bytes())


@pytest.mark.parametrize("name", ["/dev/zero", "/etc/passwd", "../outside", "arrays/../../outside", "", "a\0b"])
def test_a_file_outside_is_refused_and_not_read(checkpoint: Path, name: str) -> None:
    rewrite(checkpoint, files={**read_manifest(checkpoint).files, name: FileInfo(6, 0)})
    with pytest.raises(DamagedError, match="not a path inside the checkpoint"):
        restore(checkpoint, TREE)


@pytest.mark.parametrize("entry", [FILE_NAME, "arrays/w/zarr.json"])
@pytest.mark.parametrize("kind", ["fifo", "device", "directory"])
def test_what_is_no_file_is_refused_and_not_waited_for(checkpoint: Path, entry: str, kind: str) -> None:
    path = checkpoint / entry
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    (finding,) = fsck(checkpoint)
    assert "cannot be read" in str(finding)


@pytest.mark.parametrize("shape", [[2**20, 2**20], [2, 4], [3, 2], [1, 1]])
def test_arrays_of_another_shape_than_the_manifest_says_are_refused_before_they_are_read(
    checkpoint: Path, shape: list[int]
) -> None:
    path = checkpoint / "arrays" / "w" / "zarr.json"
    stored = json.loads(path.read_text())
    stored["shape"] = shape
    path.write_text(json.dumps(stored))
    rewrite(checkpoint, files={**read_manifest(checkpoint).files, "arrays/w/zarr.json": FileInfo.of(path)})
    (finding,) = fsck(checkpoint)
    assert "stored as float32" in str(finding)
    _, reader = open_checkpoint(checkpoint)
    with pytest.raises(DamagedError, match="array w cannot be read"):
        reader.read_slice("w", (slice(None), slice(None)))


def test_a_size_that_is_not_the_shapes_is_refused(checkpoint: Path) -> None:
    arrays = read_manifest(checkpoint).arrays
    rewrite(checkpoint, arrays={**arrays, "w": ArrayInfo((2, 3), "float32", 7, arrays["w"].fingerprint)})
    assert "7 bytes" in str(fsck(checkpoint)[0])


@pytest.mark.parametrize(
    "fields", ['"x": ' + "[" * 100_000, '"format": null', '"format": 2', '"format": 2, "step": []', '"format": [2]']
)
def test_a_manifest_of_other_fields_is_damage(checkpoint: Path, fields: str) -> None:
    head, rest = b'{\n "digest": "', b'", ' + fields.encode() + b"}"
    digest = hashlib.sha256(head + b"0" * 64 + rest).hexdigest().encode()
    (checkpoint / FILE_NAME).write_bytes(head + digest + rest)
    with pytest.raises(DamagedError, match=FILE_NAME):
        read_manifest(checkpoint)


def test_a_checkpoint_may_have_any_name_but_that_of_another_step(checkpoint: Path) -> None:
    best = checkpoint.rename(checkpoint.with_name("best"))
    assert checkpoint_paths(best) == [best]
    np.testing.assert_array_equal(restore(best, TREE).arrays["w"], TREE["w"])
    wrong = best.rename(best.with_name("step_00000007"))
    with pytest.raises(DamagedError, match="checkpoint of step 5; rename it to step_00000005"):
        restore(wrong, TREE)
    assert [finding.ok for finding in fsck(wrong.parent)] == [False]
