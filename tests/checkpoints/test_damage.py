"""No damaged bit gets through: each flip is refused, or what is loaded is identical."""

import random

import jax
import numpy as np
import pytest

from pathways_lite.checkpoints import CheckpointManager, DamagedError, fsck, restore, verify_checkpoint
from pathways_lite.checkpoints.arrays import snapshot
from pathways_lite.checkpoints.checkpoint import write_checkpoint
from pathways_lite.errors import UserError

TREE = {"w": np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3), "b": {"x": np.arange(3, dtype=np.int8)}}
META = {"cursor": [1, 2]}


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path, 5, snapshot(TREE), META)


def refuse_all(checkpoint, bits, flip):
    """Every bit of every file is covered by a digest, so every flip is refused, harmless or not."""
    for path, bit in bits:
        flip(path, bit)
        with pytest.raises(DamagedError) as error:
            restore(checkpoint, TREE)
        assert path.name in str(error.value)
        flip(path, bit)
    restore(checkpoint, TREE)


def refused_or_identical(checkpoint, bits, flip, same):
    """The arrays' own digests, without the files': returns how many flips were refused."""
    refused = 0
    for path, bit in bits:
        flip(path, bit)
        try:
            restored = restore(checkpoint, TREE)
        except DamagedError:
            refused += 1
        else:
            assert same(restored.arrays, TREE), (path, bit)
            assert (restored.step, restored.meta) == (5, META)
        flip(path, bit)
    return refused


def is_array_data(bit):
    return "c" in bit[0].parts  # zarr3's folder of chunks


def test_a_flipped_bit_in_any_file_is_refused(checkpoint, flip, all_bits):
    bits = all_bits(checkpoint)
    refuse_all(checkpoint, random.Random(0).sample(bits, 600), flip)


@pytest.mark.slow
def test_every_flipped_bit_in_every_file_is_refused(checkpoint, flip, all_bits):
    refuse_all(checkpoint, all_bits(checkpoint), flip)


def test_array_digests_alone_find_every_flipped_bit_of_the_data(checkpoint, flip, all_bits, same, monkeypatch):
    monkeypatch.setattr("pathways_lite.checkpoints.checkpoint.check_files", lambda *_: [])
    data = [bit for bit in all_bits(checkpoint) if is_array_data(bit)]
    assert len(data) >= 8 * sum(leaf.nbytes for leaf in jax.tree.leaves(TREE))
    sample = random.Random(1).sample(data, 60)
    assert refused_or_identical(checkpoint, sample, flip, same) == len(sample)


@pytest.mark.slow
def test_array_digests_alone_refuse_every_flip_or_nothing_changed(checkpoint, flip, all_bits, same, monkeypatch):
    monkeypatch.setattr("pathways_lite.checkpoints.checkpoint.check_files", lambda *_: [])
    bits = [bit for bit in all_bits(checkpoint) if bit[0].name != "manifest.json"]
    data = [bit for bit in bits if is_array_data(bit)]
    rest = random.Random(2).sample([bit for bit in bits if not is_array_data(bit)], 1000)
    assert refused_or_identical(checkpoint, data, flip, same) == len(data)
    refused_or_identical(checkpoint, rest, flip, same)


def damage(path, how):
    if how == "deleted":
        path.unlink()
    else:
        raw = path.read_bytes()
        path.write_bytes({"truncated": raw[:-1], "empty": b"", "longer": raw + b"\0"}[how])


@pytest.mark.parametrize("how", ["deleted", "truncated", "empty", "longer"])
def test_every_file_damaged_in_every_way_is_named(checkpoint, how):
    for path in [path for path in checkpoint.rglob("*") if path.is_file()]:
        whole = path.read_bytes()
        if not whole and how in ("truncated", "empty"):
            continue  # Orbax's mark of success is empty anyway
        damage(path, how)
        name = str(path.relative_to(checkpoint))
        with pytest.raises(UserError, match="is damaged") as error:
            restore(checkpoint, TREE)
        assert name in str(error.value)
        finding = verify_checkpoint(checkpoint)
        assert not finding.ok
        assert name in str(finding)
        path.write_bytes(whole)
    assert verify_checkpoint(checkpoint).ok


@pytest.mark.parametrize("how", ["deleted", "truncated", "empty"])
def test_the_newest_whole_checkpoint_is_found_by_walking_back(tmp_path, state_of, same, how):
    with CheckpointManager(tmp_path) as checkpoints:
        for step in (10, 20, 30):
            checkpoints.save(step, state_of(step), {"step": step})
    damage(tmp_path / "step_00000030" / "manifest.json", how)
    damage(tmp_path / "step_00000020/arrays/params.embed/c/0/0", how)
    lines: list[str] = []
    restored = checkpoints.restore_latest(state_of(0), report=lines.append)
    assert restored is not None
    assert restored.step == 10
    assert same(restored.arrays, state_of(10))
    assert ["step_00000030" in lines[0], "params.embed" in lines[1], len(lines)] == [True, True, 2]
    assert [finding.ok for finding in fsck(tmp_path)] == [True, False, False]


def test_nothing_whole_is_an_error_and_not_a_new_beginning(tmp_path, state):
    with CheckpointManager(tmp_path) as checkpoints:
        assert checkpoints.restore_latest(state) is None
        checkpoints.save(10, state, {})
        checkpoints.wait()
        damage(tmp_path / "step_00000010" / "manifest.json", "empty")
        with pytest.raises(UserError, match="none of its 1 checkpoints is whole"):
            checkpoints.restore_latest(state, report=lambda _: None)


def test_another_model_is_no_damage_to_walk_back_from(tmp_path, state):
    with CheckpointManager(tmp_path) as checkpoints:
        checkpoints.save(10, {"w": np.ones(1)}, {})
        checkpoints.save(20, {"w": np.ones(2)}, {})
        with pytest.raises(UserError, match=r"w: float64\[2\] in the checkpoint, expected float64\[1\]"):
            checkpoints.restore_latest({"w": np.ones(1)})


def test_fsck_names_what_is_damaged(tmp_path, state, flip):
    for stage in ("base", "more"):
        with CheckpointManager(tmp_path / stage / "checkpoints") as checkpoints:
            checkpoints.save(10, state, {})
    assert [finding.ok for finding in fsck(tmp_path)] == [True, True]
    flip(tmp_path / "base/checkpoints/step_00000010/arrays/params.layers.wq/c/0/0/0", 3)
    bad, good = fsck(tmp_path)
    assert str(good).startswith("ok ")
    assert "params.layers.wq/c/0/0/0 (array params.layers.wq): its content" in str(bad)
    assert len(fsck(good.path)) == 1
    with pytest.raises(UserError, match="no checkpoint"):
        fsck(tmp_path / "nowhere")
