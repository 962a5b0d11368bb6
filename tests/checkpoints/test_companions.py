"""Files that checkpoints carry beside their arrays: one copy for all checkpoints, verified, and never in the way."""

import os
import shutil

import numpy as np
import pytest

from pathways_lite.checkpoints import (
    CheckpointManager,
    DamagedError,
    StreamedArray,
    fsck,
    open_checkpoint,
    read_companions,
    read_manifest,
    restore,
    verify_checkpoint,
    write_streamed,
)

TREE = {"w": np.arange(6.0)}
FILES = {"tokenizer/tokenizer.json": b"{}" * 100, "held_out.npz": bytes(range(256))}


@pytest.fixture
def manager(tmp_path):
    with CheckpointManager(tmp_path) as manager:
        for step in (1, 2, 3):
            manager.save(step, TREE, {}, companions=FILES)
        manager.wait()
        yield manager


def test_every_checkpoint_carries_the_files_and_all_share_one_copy(manager):
    for name, content in FILES.items():
        files = [manager.path(step) / name for step in manager.steps()]
        assert [file.read_bytes() for file in files] == [content] * 3
        assert len({file.stat().st_ino for file in files}) == 1
    for step in manager.steps():
        assert read_companions(manager.path(step), read_manifest(manager.path(step))) == FILES
        assert set(read_manifest(manager.path(step)).files) >= set(FILES)


def test_a_copy_alone_has_everything(manager, tmp_path):
    copy = shutil.copytree(manager.path(2), tmp_path / "elsewhere")
    shutil.rmtree(manager.path(3))
    shutil.rmtree(manager.path(2))
    assert read_companions(copy, read_manifest(copy)) == FILES
    assert verify_checkpoint(copy).ok


def test_other_content_is_not_linked(manager):
    manager.save(4, TREE, {}, companions={**FILES, "held_out.npz": b"other"})
    manager.wait()
    old, new = manager.path(3), manager.path(4)
    assert (old / "held_out.npz").read_bytes() == FILES["held_out.npz"]
    assert (new / "held_out.npz").read_bytes() == b"other"
    name = "tokenizer/tokenizer.json"
    assert (old / name).stat().st_ino == (new / name).stat().st_ino


def test_without_hard_links_the_files_are_copied(manager, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    manager.save(4, TREE, {}, companions=FILES)
    manager.wait()
    assert read_companions(manager.path(4), read_manifest(manager.path(4))) == FILES


@pytest.mark.parametrize("damage", [lambda p: p.write_bytes(p.read_bytes()[:-1] + b"!"), lambda p: p.unlink()])
def test_damage_is_told_by_fsck_and_by_reading_but_the_arrays_are_restored(manager, damage):
    damage(manager.path(3) / "held_out.npz")
    problems = [line for finding in fsck(manager.path(3)) for line in finding.problems]
    assert len(problems) == 1
    assert problems[0].startswith("held_out.npz: ")
    with pytest.raises(DamagedError, match=r"held_out\.npz"):
        read_companions(manager.path(3), read_manifest(manager.path(3)))
    assert verify_checkpoint(manager.path(3), companions=False).ok
    np.testing.assert_array_equal(restore(manager.path(3), TREE).arrays["w"], TREE["w"])
    # The next checkpoint has whole files again.
    manager.save(4, TREE, {}, companions=FILES)
    manager.wait()
    assert verify_checkpoint(manager.path(4)).ok


def test_a_streamed_checkpoint_carries_them_too(tmp_path):
    array = StreamedArray((2,), "float32", (2,), lambda: iter([((0,), np.ones(2, np.float32))]))
    path = write_streamed(tmp_path, 0, {"w": array}, {}, lambda: None, FILES)
    assert read_companions(path, open_checkpoint(path)[0]) == FILES
    assert verify_checkpoint(path).ok
