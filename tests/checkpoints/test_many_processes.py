"""Checkpoints of two processes, really two: each writes and reads its own shards, and all see the same outcome."""

import jax
import numpy as np
import pytest

from pathways_lite.checkpoints import (
    CheckpointManager,
    fsck,
    read_companions,
    read_manifest,
    restore,
    verify_checkpoint,
)

# A state sharded over four devices in every way: evenly, partly replicated, fully replicated, on one process only.
STATE = """
import os
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P, Mesh
from pathways_lite.checkpoints import CheckpointManager, DamagedError, fsck, restore, orbax_io
from pathways_lite.checkpoints.fingerprint import fingerprint
from pathways_lite.checkpoints.reader import CheckpointReader

SPECS = {"w": P("a", "b"), "rows": P("b"), "half": P(None, "b"), "bf16": P(("a", "b")), "same": P(), "step": P()}

def content(step):
    rng = np.random.default_rng(step)
    return {
        "w": rng.standard_normal((8, 6)).astype(np.float32),
        "rows": rng.standard_normal((4, 3)).astype(np.float32),
        "half": rng.integers(0, 2**31, (3, 4)).astype(np.int32),
        "bf16": rng.standard_normal((8, 2)).astype(jnp.bfloat16),
        "same": rng.standard_normal((5,)).astype(np.float32),
        "step": np.int32(step),
    }

def placed(tree, devices=None):
    devices = jax.devices() if devices is None else devices
    mesh = Mesh(np.array(devices).reshape(-1, 2) if len(devices) > 1 else np.array(devices).reshape(1, 1), ("a", "b"))
    sharding = lambda name: NamedSharding(mesh, SPECS[name])
    put = lambda x, on: jax.make_array_from_callback(np.shape(x), on, lambda index: np.asarray(x)[index])
    return {name: put(x, sharding(name)) for name, x in tree.items()}

def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)

def same(tree, step):
    return all(
        np.array_equal(np.asarray(shard.data), np.asarray(content(step)[name])[shard.index])
        for name, x in tree.items() for shard in x.addressable_shards
    )
"""


@pytest.fixture
def local():
    """The same state, content and comparison in this process."""
    names: dict = {}
    exec(STATE, names)
    return names


SAVE = (
    STATE
    + """
state = placed(content(7))
overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0, tree), donate_argnums=0)
with CheckpointManager(arguments[0], keep=2) as checkpoints:
    for step in (5, 6, 7):
        companions = {"tokenizer/bytes.json": b"{}"} if index == 0 else None
        checkpoints.save(step, placed(content(step)) if step < 7 else state, {"by": index}, companions=companions)
    overwrite(state)
    restored = checkpoints.restore_latest(abstract(placed(content(0))))
    print(restored.step, restored.meta, same(restored.arrays, 7), checkpoints.steps())
coordination.shutdown()
"""
)


def test_two_processes_write_the_same_as_one(tmp_path, start_group, local):
    group = start_group(SAVE, 2, 2, tmp_path / "two")
    assert [output.splitlines()[-1] for output in group.wait()] == ["7 {'by': 0} True [6, 7]"] * 2
    with CheckpointManager(tmp_path / "one") as checkpoints:
        checkpoints.save(7, local["placed"](local["content"](7), jax.devices()[:1]), {})
    two, one = tmp_path / "two/step_00000007", tmp_path / "one/step_00000007"
    assert read_manifest(two).digest == read_manifest(one).digest
    assert read_companions(two, read_manifest(two)) == {"tokenizer/bytes.json": b"{}"}
    assert verify_checkpoint(two).ok
    assert read_manifest(two).nbytes == read_manifest(one).nbytes
    assert all(finding.ok for finding in fsck(tmp_path))
    whole = restore(two, local["content"](0)).arrays
    assert all(np.array_equal(whole[name], value) for name, value in local["content"](7).items())
    assert len(list((two / "arrays/w/c").rglob("*/*"))) == 4, "one file for each device's shard"


READ = (
    STATE
    + """
target = abstract(placed(content(0)))
print(same(restore(Path(arguments[0]), target).arrays, 7))
read, reads = CheckpointReader._read, []
def counted(self, name, stored, position):
    data = read(self, name, stored, position)
    reads.append(data.nbytes)
    return data
CheckpointReader._read = counted
restore(Path(arguments[0]), target)
print("bytes", sum(reads))
print([finding.ok for finding in fsck(arguments[0])])
coordination.shutdown()
"""
)


def test_two_processes_each_read_their_shards_of_one_process_s_checkpoint(tmp_path, start_group, local):
    with CheckpointManager(tmp_path) as checkpoints:
        checkpoints.save(7, local["placed"](local["content"](7), jax.devices()[:1]), {})
    outputs = [output.splitlines() for output in start_group(READ, 2, 2, tmp_path / "step_00000007").wait()]
    assert [lines[-3] for lines in outputs] == ["True", "True"]
    # The mesh is processes by devices: half of w and bf16, all of what is not spread over the first axis.
    expected = 8 * 6 * 4 // 2 + 4 * 3 * 4 + 3 * 4 * 4 + 8 * 2 * 2 // 2 + 5 * 4 + 4
    assert [lines[-2] for lines in outputs] == [f"bytes {expected}"] * 2
    assert [lines[-1] for lines in outputs] == ["[True]", "[True]"]


FAIL = (
    STATE
    + """
write = orbax_io.write
def full(path, arrays):
    write(path, arrays)
    if index == 1:
        raise OSError(errno.ENOSPC, "No space left on device")

import errno
from pathways_lite.errors import UserError
with CheckpointManager(arguments[0]) as checkpoints:
    checkpoints.save(5, placed(content(5)), {})
    checkpoints.wait()
    orbax_io.write = full
    checkpoints.save(6, placed(content(6)), {})
    try:
        checkpoints.wait()
    except UserError as error:
        print(error)
    orbax_io.write = write
    checkpoints.save(8, placed(content(8)), {})
    checkpoints.wait()
    # Flip one bit of one process's shard.
    if coordination.is_primary():
        path = checkpoints.path(8) / "arrays/w/c/1/1"
        raw = bytearray(path.read_bytes()); raw[0] ^= 1; path.write_bytes(raw)
    restored = checkpoints.restore_latest(abstract(placed(content(0))), report=print)
    print(restored.step, same(restored.arrays, 5), os.listdir(arguments[0]))
    # The files are intact, but one process reads other content, as with faulty memory or a faulty network.
    read = CheckpointReader._read
    def wrong(self, name, stored, position):
        data = read(self, name, stored, position)
        if index == 1 and name == "same":
            data = data + 1
            self._sums[name] = {"0": fingerprint(data, (0,))}
        return data
    CheckpointReader._read = wrong
    try:
        checkpoints.restore(5, abstract(placed(content(0))))
    except DamagedError as error:
        print("damaged:", *error.problems)
coordination.shutdown()
"""
)


def test_all_processes_report_what_fails_in_one(tmp_path, start_group):
    outputs = [output.splitlines() for output in start_group(FAIL, 2, 2, tmp_path).wait()]
    for lines in outputs:
        assert lines[0].startswith("the disk is full: the checkpoint of step 6 needs")
        assert lines[0].endswith("Free some space and give the same command again.")
        assert lines[-1] == "damaged: array same: its content is not what was saved"
        assert "5 True" in lines[-2]
        assert ".tmp" not in lines[-2], "nothing is left of what could not be written"
    assert "arrays/w/c/1/1 (array w): its content is not what was written" in "\n".join(outputs[0])
    assert len(outputs[1]) == 3, "damage is reported once"
    assert verify_checkpoint(tmp_path / "step_00000005").ok
