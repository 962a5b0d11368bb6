"""The checkpoints of a run: saved in the background, the newest kept, complete after any failure."""

import errno
import resource
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pathways_lite.checkpoints import CheckpointManager, fsck, orbax_io
from pathways_lite.errors import UserError


def test_the_newest_are_kept(tmp_path, state):
    with CheckpointManager(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3, 4):
            checkpoints.save(step, state, {})
            assert checkpoints.newest == step, "also while it is being written"
    assert checkpoints.steps() == [3, 4]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000003", "step_00000004"]


def test_old_ones_go_only_after_the_new_one_is_there(tmp_path, state, monkeypatch):
    at_discard = []
    with CheckpointManager(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, state, {})
        discard = "pathways_lite.checkpoints.manager.discard"
        monkeypatch.setattr(discard, lambda path: at_discard.append((path.name, fsck(tmp_path)[-1])))
        checkpoints.save(2, state, {})
    assert [(name, finding.path.name, finding.ok) for name, finding in at_discard] == [
        ("step_00000001", "step_00000002", True)
    ]


def test_an_old_one_that_cannot_be_deleted_is_told_and_ends_nothing(tmp_path, state, monkeypatch, capfd):
    def refuse(path):
        raise OSError(errno.EPERM, "Operation not permitted", str(path))

    monkeypatch.setattr("pathways_lite.checkpoints.manager.discard", refuse)
    with CheckpointManager(tmp_path, keep=1) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state, {})
    assert checkpoints.steps() == [1, 2, 3]
    assert all(finding.ok for finding in fsck(tmp_path))
    assert capfd.readouterr().err.count("step_00000001 cannot be deleted (Operation not permitted)") == 1


def test_a_dangling_link_hides_no_checkpoint(tmp_path, state):
    with CheckpointManager(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
    (tmp_path / "step_00000002").symlink_to("nowhere")
    assert [finding.ok for finding in fsck(tmp_path)] == [True, False]


def test_saving_does_not_wait_for_the_disk_and_sees_the_state_of_its_step(tmp_path, monkeypatch):
    write = orbax_io.write
    monkeypatch.setattr(orbax_io, "write", lambda *args: (time.sleep(0.5), write(*args)))
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = step(jnp.zeros(1000))
    with CheckpointManager(tmp_path) as checkpoints:
        start = time.monotonic()
        checkpoints.save(1, {"x": x}, {})
        blocked = time.monotonic() - start
        for _ in range(5):
            x = step(x)  # reuses the buffers that were just saved
        restored = checkpoints.restore(1, {"x": x})
    assert blocked < 0.4
    np.testing.assert_array_equal(restored.arrays["x"], np.ones(1000))


def test_meta_is_that_of_the_moment(tmp_path, state):
    meta = {"cursor": [1]}
    with CheckpointManager(tmp_path) as checkpoints:
        checkpoints.save(1, state, meta)
        meta["cursor"].append(2)
        assert checkpoints.restore(1, state).meta == {"cursor": [1]}


def test_steps_only_go_forward(tmp_path, state):
    with CheckpointManager(tmp_path) as checkpoints:
        for step in (10, 20, 30):
            checkpoints.save(step, state, {})
        with pytest.raises(ValueError, match="not after the newest checkpoint, 30"):
            checkpoints.save(20, state, {})
        restored = checkpoints.restore_latest(state, at_most=25)
        assert restored is not None
        checkpoints.delete_after(restored.step)
        assert checkpoints.steps() == [10, 20]
        checkpoints.save(25, state, {})
    assert checkpoints.steps() == [10, 20, 25]


def test_a_failed_save_is_reported_once_and_the_old_ones_are_whole(tmp_path, state, monkeypatch):
    def fail(path, arrays):
        raise OSError(errno.EIO, "Input/output error")

    with CheckpointManager(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        checkpoints.wait()
        with monkeypatch.context() as broken:
            broken.setattr(orbax_io, "write", fail)
            checkpoints.save(2, state, {})
            with pytest.raises(UserError, match=r"step 2 .* was not saved; checkpoints up to step 1 are whole"):
                checkpoints.wait()
        checkpoints.save(3, state, {})
    assert [finding.ok for finding in fsck(tmp_path)] == [True, True]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_failed_save_is_never_lost(tmp_path, state, monkeypatch):
    monkeypatch.setattr(orbax_io, "write", lambda *_: 1 / 0)
    checkpoints = CheckpointManager(tmp_path)
    checkpoints.save(1, state, {})
    with pytest.raises(ZeroDivisionError):
        checkpoints.save(2, state, {})
    checkpoints.save(2, state, {})
    with pytest.raises(ZeroDivisionError):
        checkpoints.close()


def fail_after_saving(directory, state, error):
    with CheckpointManager(directory) as checkpoints:
        checkpoints.save(1, state, {})
        if error is not None:
            raise error


def test_a_failed_save_shows_on_leaving_the_block(tmp_path, state, monkeypatch):
    monkeypatch.setattr(orbax_io, "write", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fail_after_saving(tmp_path, state, None)
    with pytest.raises(KeyError) as error:
        fail_after_saving(tmp_path, state, KeyError("the loop's own"))
    assert "not saved: division by zero" in error.value.__notes__[0]


def test_a_full_disk_is_one_sentence(tmp_path, state, monkeypatch):
    class Usage:
        free = 10

    with CheckpointManager(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        checkpoints.wait()
        monkeypatch.setattr("shutil.disk_usage", lambda _: Usage)
        checkpoints.save(2, state, {})
        with pytest.raises(
            UserError, match=r"^the disk is full: the checkpoint of step 2 needs .* up to step 1 are whole"
        ):
            checkpoints.wait()
    assert [finding.ok for finding in fsck(tmp_path)] == [True]


def test_the_kernel_refuses_to_write_more(tmp_path, capfd):
    """A limit on the size of files is refused, as a full disk is, while TensorStore writes."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    with CheckpointManager(tmp_path) as checkpoints:
        checkpoints.save(1, {"w": np.ones(100_000)}, {})
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limit[1]))
        try:
            checkpoints.save(2, {"w": np.ones(100_000), "v": np.ones(10)}, {})
            with pytest.raises(UserError, match=r"^the disk is full: the checkpoint of step 2 needs 0\.8 MB in .*\.$"):
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "ERROR" not in capfd.readouterr().err, "one sentence, not Orbax's tracebacks"
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    assert fsck(tmp_path)[0].ok


# Forks a process that saves forever and kills it at a random moment, the given number of times.
KILLED_WHILE_SAVING = """
import os, random, signal, sys, time
import numpy as np
from pathways_lite.checkpoints import CheckpointManager

def save_forever(directory):
    with CheckpointManager(directory, keep=2) as checkpoints:
        for step in range(1, 100_000):
            checkpoints.save(step, {"step": np.array(step), "w": np.full(20_000, step)}, {"step": step})

for attempt in range(int(sys.argv[2])):
    directory = f"{sys.argv[1]}/{attempt}"
    child = os.fork()
    if not child:
        save_forever(directory)
    time.sleep(random.Random(attempt).uniform(0.3, 1.2))
    os.kill(child, signal.SIGKILL)
    os.wait()
"""


def whole_after_kill_9(directory, times):
    subprocess.run([sys.executable, "-c", KILLED_WHILE_SAVING, directory, str(times)], check=True, timeout=300)
    target = {"step": np.array(0), "w": np.zeros(20_000, int)}
    n_restored = 0
    for attempt in range(times):
        with CheckpointManager(directory / str(attempt), keep=2) as checkpoints:
            for step in checkpoints.steps():
                restored = checkpoints.restore(step, target)
                assert restored.meta == {"step": step}
                assert (restored.arrays["w"] == step).all()
                n_restored += 1
            checkpoints.save(200_000, target, {})
        assert all(path.name.startswith("step_") for path in checkpoints.directory.iterdir()), "leftovers are gone"
    assert n_restored, "no process lived long enough to save"


def test_every_checkpoint_after_kill_9_is_whole(tmp_path):
    whole_after_kill_9(tmp_path, 3)


@pytest.mark.slow
def test_every_checkpoint_after_many_kill_9_is_whole(tmp_path):
    whole_after_kill_9(tmp_path, 50)
