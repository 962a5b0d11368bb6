"""Manage the checkpoints of one stage: save in the background, keep the newest, restore the newest undamaged one."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pathways_lite.checkpoint_names import checkpoint_name, checkpoint_steps
from pathways_lite.checkpoints.arrays import HostArray, snapshot
from pathways_lite.checkpoints.checkpoint import (
    RestoredState,
    discard,
    remove_leftovers,
    restore,
    write_checkpoint,
)
from pathways_lite.checkpoints.manifest import DamagedError
from pathways_lite.console import print_line
from pathways_lite.distributed import coordination
from pathways_lite.errors import UserError
from pathways_lite.paths import local_path

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class CheckpointManager:
    """The checkpoints in one directory, `step_00000100` and so on, written by one run at a time.

    All processes of the run make the same calls; only the primary process makes and removes directories. `save` copies
    the arrays to the host and returns; a background thread computes fingerprints, writes the files and commits. An
    error of that thread is raised by the next `save`, `wait` or `close`. Use it as a context manager, or call `close`.
    """

    def __init__(
        self, directory: Path | str, *, keep: int | None = None, fence: Callable[[], None] = lambda: None
    ) -> None:
        """Manage `directory`, which need not exist yet, keeping the `keep` newest checkpoints (None: all).

        `fence` is called in the primary process before every change of the directory; it raises LostRunError where
        another process writes to it now.
        """
        if keep is not None and keep < 1:
            raise ValueError(f"keep={keep} must be at least 1")
        self.directory = local_path(directory)
        self._keep, self._fence = keep, fence
        self._kept_against_will: set[int] = set()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: tuple[int, Future[None]] | None = None

    # ---- writing ----

    def save(
        self,
        step: int,
        arrays: Any,
        meta: dict[str, Any],
        *,
        companions: Mapping[str, bytes] | None = None,
        rotate: bool = True,
    ) -> None:
        """Save a pytree of arrays (JAX, NumPy, typed random keys) and JSON metadata as the checkpoint of `step`.

        Blocks until the previous save is done and the arrays are copied to the host. Afterwards the arrays may be
        donated. `companions`: files to save beside the arrays, by name (of the primary process). With `rotate=False` no
        old checkpoint is deleted. Raises UserError if an earlier save failed (then this one does not start), ValueError
        if `step` is not after the newest checkpoint (call `delete_after` before returning to an earlier step).
        """
        self.wait()
        newest = self.newest
        if newest is not None and step <= newest:
            raise ValueError(f"step {step} is not after the newest checkpoint, {newest}, in {self.directory}")
        frozen_meta = json.loads(json.dumps(meta, allow_nan=False))
        host = snapshot(arrays)
        self._pending = (step, self._thread.submit(self._write, step, host, frozen_meta, companions, rotate))

    def wait(self) -> None:
        """Block until the last save is on the disk. Raises UserError if it failed, but only once."""
        if self._pending is not None:
            _, future = self._pending
            try:
                future.result()
            finally:
                self._pending = None

    def close(self) -> None:
        """Wait for the last save and end the background thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def delete_after(self, step: int) -> None:
        """Delete every checkpoint later than `step`, newest first: those that a rewind or a fall-back abandons."""
        self.wait()

        def delete() -> None:
            self._fence()
            for later_step in reversed([saved for saved in self.steps() if saved > step]):
                discard(self.path(later_step))

        coordination.run_on_primary(delete)

    # ---- finding ----

    def path(self, step: int) -> Path:
        """Return the directory of a step's checkpoint."""
        return self.directory / checkpoint_name(step)

    def steps(self) -> list[int]:
        """Return the steps of the committed checkpoints, ascending, damaged ones included."""
        return checkpoint_steps(self.directory)

    @property
    def newest(self) -> int | None:
        """The step of the newest checkpoint, committed or being written; None if there is none."""
        if self._pending is not None:
            return self._pending[0]
        return max(self.steps(), default=None)

    # ---- reading ----

    def restore(self, step: int, target: Any, prefix: str = "") -> RestoredState:
        """Restore one step's checkpoint; see `checkpoint.restore`."""
        self.wait()
        return restore(self.path(step), target, prefix)

    def restore_latest(
        self, target: Any, *, at_most: int | None = None, report: Callable[[str], None] = print_line
    ) -> RestoredState | None:
        """Restore the newest undamaged checkpoint (not later than step `at_most`), verifying it while it is loaded.

        Damaged ones are reported and skipped. Returns None if there is no checkpoint at all. Raises DamagedError
        if there are some but all are damaged, UserError if one holds other arrays than `target`.
        """
        self.wait()
        steps = [step for step in coordination.run_on_primary(self.steps) if at_most is None or step <= at_most]
        for step in reversed(steps):
            try:
                return restore(self.path(step), target)
            except DamagedError as error:
                if coordination.is_primary():
                    report(str(error))
        if steps:
            raise DamagedError(
                self.directory, [f"none of its {len(steps)} checkpoints is whole; remove it to start again"]
            )
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None and not isinstance(error, UserError) and coordination.process_count() > 1:
            # Another process may have died in the middle of a save, which would then never finish.
            self._thread.shutdown(wait=False, cancel_futures=True)
            return
        try:
            self.close()
        except Exception as failed_save:
            if error is None:
                raise
            error.add_note(f"Besides, a checkpoint was not saved: {failed_save}")

    def _write(
        self,
        step: int,
        host: dict[str, HostArray],
        meta: dict[str, Any],
        companions: Mapping[str, bytes] | None,
        rotate: bool,
    ) -> None:
        """Write a checkpoint, in the background thread. Old ones are deleted only after the new one is committed."""
        nbytes = sum(array.nbytes for array in host.values())

        def prepare() -> None:
            self._fence()
            self.directory.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.directory)
            if shutil.disk_usage(self.directory).free < nbytes:
                raise OSError(errno.ENOSPC, "the disk is full")

        try:
            write_checkpoint(self.directory, step, host, meta, prepare, self._fence, companions)
        except (OSError, ValueError, coordination.RemoteProcessError) as error:
            raise self._explain(error, step, nbytes) from error
        if self._keep is not None and rotate and coordination.is_primary():
            self._fence()
            for old_step in self.steps()[: -self._keep]:
                self._discard_old(old_step)

    def _discard_old(self, step: int) -> None:
        """Delete a checkpoint that is no longer needed. One that cannot be deleted is told once, and stays."""
        try:
            discard(self.path(step))
        except OSError as error:
            if step not in self._kept_against_will:
                self._kept_against_will.add(step)
                print_line(f"{self.path(step)} cannot be deleted ({error.strerror}); delete it yourself")

    def _explain(self, error: Exception, step: int, nbytes: int) -> Exception:
        """Return a UserError of one sentence for an error of the disk; any other error as it is."""
        code = _errno(error)
        if code is None:
            return error
        whole = f"checkpoints up to step {max(self.steps())} are whole" if self.steps() else "there is none before it"
        need = f"{nbytes / 1e6:,.1f} MB"
        if code in _DISK_FULL:
            return UserError(
                f"the disk is full: the checkpoint of step {step} needs {need} in {self.directory} and was not saved; "
                f"{whole}. Free some space and give the same command again."
            )
        return UserError(f"the checkpoint of step {step} ({need}) was not saved; {whole}. The reason: {error}")


def _errno(error: Exception) -> int | None:
    """Return an error's number, if it has one. TensorStore raises ValueError with the number in its text."""
    if isinstance(error, OSError | coordination.RemoteProcessError) and error.errno is not None:
        return error.errno
    match = re.search(r"os_error_code='(\d+)'", str(error))
    return int(match[1]) if match else None
