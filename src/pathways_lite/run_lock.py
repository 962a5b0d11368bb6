"""Lock a run directory for one writer.

The lock is the operating system's (`flock` on `run.lock`), so it ends with the process that holds it, however that
process ends: a run killed by -9 can be continued at once. The text in the file says who holds the lock, for people and
for the cases that `flock` does not cover:

- A network file system may limit `flock` to one host (NFS mounted with `local_lock` or `nolock`). An owner on another
  host is therefore assumed alive while its heartbeat (the file's modification time) is younger than `STALE_AFTER`. One
  that was only suspended may wake up later and find the directory taken: `require_held` is called before everything
  that is written, and ends it.
- Some file systems have no locks. Then only the text protects, and two runs started at the same instant are not kept
  apart; the lock prints a note.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import getpass
import json
import os
import shlex
import socket
import stat
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from pathways_lite.console import escape_controls, print_line
from pathways_lite.errors import LostRunError, UserError

FILE_NAME = "run.lock"
HEARTBEAT = 30.0  # seconds
STALE_AFTER = 300.0  # seconds without a heartbeat after which an owner on another host counts as dead

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


class InUseError(UserError):
    """Another process holds the lock."""


@dataclass(frozen=True)
class Owner:
    """The process that holds a lock."""

    user: str
    host: str
    boot: str  # distinguishes a host from the same host before a restart
    pid: int
    started: str  # start of the process; distinguishes it from a later process with the same pid
    command: str
    since: float  # seconds since the epoch

    @classmethod
    def this_process(cls) -> Self:
        return cls(
            user=_user_name(),
            host=socket.gethostname(),
            boot=_boot_id(),
            pid=os.getpid(),
            started=_start_ticks(os.getpid()) or "",
            command=shlex.join(sys.orig_argv),
            since=time.time(),
        )

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.since).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
        return f"{self.user}@{self.host}, process {self.pid}, since {since}: {self.command}"

    def is_here(self) -> bool:
        """Return True if the owner runs, or ran, on this host."""
        return self.host == socket.gethostname()

    def is_dead_here(self) -> bool:
        """Return True if an owner on this host is gone, or its pid now belongs to another process."""
        return self.boot != _boot_id() or _start_ticks(self.pid) != (self.started or None)


class RunLock:
    """Lock on a directory for this process: `with RunLock(directory): ...`, or `acquire` and `release`."""

    def __init__(
        self,
        directory: Path | str,
        *,
        note: Callable[[str], None] | None = None,
        file_name: str = FILE_NAME,
        end_when_lost: bool = False,
    ) -> None:
        """Create the lock without acquiring it. `note` receives lines for the user; the default prints to stderr.

        With `end_when_lost`, a process that has lost the directory and is still there a heartbeat later is ended: it
        may hang in a write to files that the new owner has removed.
        """
        self._end_when_lost = end_when_lost
        self._path = Path(directory) / file_name
        self._note = note or print_line
        self._descriptor: int | None = None
        self._owner: Owner | None = None  # this process, as written into the file
        self._released = threading.Event()

    def acquire(self) -> None:
        """Acquire the lock. Raises InUseError, with owner and start time, while another process holds the directory."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot make the directory {self._path.parent}: {error.strerror}; name another place for the output"
            ) from error
        descriptor = _open(self._path, os.O_RDWR | os.O_CREAT)
        try:
            self._take(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        _held_locks.add(self)
        self._released.clear()
        threading.Thread(target=self._beat, args=(descriptor,), daemon=True, name="run-lock").start()

    def acquire_removable(self) -> None:
        """Acquire a lock whose file its last owner may remove, also after this process has opened it."""
        self.acquire()
        while not self._is_in_place():
            self.release()
            self.acquire()

    def release(self) -> None:
        """Release the lock. The empty file stays: removing it would let two processes lock two files of one name."""
        if self._descriptor is not None:
            self._released.set()
            _held_locks.discard(self)
            if _read_owner(self._descriptor) == self._owner:
                os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def _is_in_place(self) -> bool:
        """Return True if the file that is locked still has the lock's name."""
        try:
            return self._descriptor is not None and os.path.samestat(os.fstat(self._descriptor), self._path.stat())
        except FileNotFoundError:
            return False

    def require_held(self) -> None:
        """Read the file again. Raises LostRunError where this process no longer holds the directory."""
        try:
            descriptor = _open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            raise LostRunError(
                f"{self._path} is gone: {self._path.parent} was moved or removed while this process was training in "
                "it; nothing more is written. Give the command again with the new directory as --out"
            ) from None
        try:
            owner = _read_owner(descriptor)
        finally:
            os.close(descriptor)
        if owner != self._owner:
            raise LostRunError(
                f"{self._path.parent} was taken over by another run ({owner or 'which has ended'}), as this process "
                f"had given no sign of life for {STALE_AFTER:.0f} s; it ends and writes nothing more"
            )

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _take(self, descriptor: int) -> None:
        locked = self._flock(descriptor)
        owner = _read_owner(descriptor)
        if locked is False:
            raise self._refusal(owner)
        if owner is not None:
            self._check_dead(owner, locked)
            self._note(f"took over {self._path.parent} from a run that has died ({owner})")
        self._owner = Owner.this_process()
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(self._owner)).encode(), 0)

    def _flock(self, descriptor: int) -> bool | None:
        """Return True if locked, False if another process holds it, None if the file system has no locks."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            self._note(f"the file system of {self._path.parent} has no locks; do not start two runs there at once")
            return None
        return True

    def _check_dead(self, owner: Owner, locked: bool | None) -> None:
        """Raise InUseError if the owner named in the file may still be alive."""
        if owner.is_here():
            dead = bool(locked) or owner.is_dead_here()
        else:
            dead = self._seconds_since_heartbeat() > STALE_AFTER
        if not dead:
            raise self._refusal(owner)

    def _refusal(self, owner: Owner | None) -> InUseError:
        message = f"{self._path.parent} is in use by another run ({owner or 'which has just started'}). "
        if owner is None or owner.is_here():
            end = f", or end it with `kill {owner.pid}`: it saves a checkpoint first" if owner else ""
            return InUseError(f"{message}Wait for it{end}.")
        return InUseError(
            f"{message}Wait for it, or end it there. If it has died, this directory is free "
            f"{STALE_AFTER:.0f} s after its last sign of life, {self._seconds_since_heartbeat():.0f} s ago."
        )

    def _seconds_since_heartbeat(self) -> float:
        """Return the seconds since the last heartbeat by the file server's clock, as the hosts' clocks may disagree."""
        with tempfile.NamedTemporaryFile(dir=self._path.parent, prefix=".now-") as probe:
            return os.fstat(probe.fileno()).st_mtime - self._path.stat().st_mtime

    def _beat(self, descriptor: int) -> None:
        while not self._released.wait(HEARTBEAT):
            with contextlib.suppress(OSError):
                if _read_owner(descriptor) == self._owner:
                    os.utime(descriptor)
                    continue
                # A heartbeat now would be another run's.
                if self._end_when_lost and not self._released.wait(HEARTBEAT):
                    self._end()
                return

    def _end(self) -> None:
        """End this process if it has lost the directory."""
        try:
            self.require_held()
        except UserError as error:
            with contextlib.suppress(OSError):
                os.write(2, f"error: {escape_controls(str(error))}\n".encode())
            os._exit(error.status)

    def _close_in_child(self) -> None:
        """Close the lock in a forked worker, which shares it and would keep it after this process has died."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


_held_locks: weakref.WeakSet[RunLock] = weakref.WeakSet()


def _close_all_in_child() -> None:
    for lock in list(_held_locks):
        lock._close_in_child()
    _held_locks.clear()


os.register_at_fork(after_in_child=_close_all_in_child)


def find_holder(directory: Path | str) -> Owner | None:
    """Return the process that writes to a directory, None if there seems to be none. Takes no lock."""
    path = Path(directory) / FILE_NAME
    try:
        descriptor = _open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        owner = _read_owner(descriptor)
        silence = time.time() - os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)
    if owner is None or (owner.is_dead_here() if owner.is_here() else silence > STALE_AFTER):
        return None
    return owner


def _open(path: Path, flags: int) -> int:
    """Open a lock file, never through a link, whose target would be overwritten.

    Raises UserError where it is not a file or cannot be opened, FileNotFoundError where it is not there.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{path} is a link; a run directory's lock must be a file of its own: remove it") from error
        raise UserError(
            f"cannot write {path}: {error.strerror}; choose a run directory that can be written, with --out"
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"{path} is not a file; a run directory's lock must be one: remove it")
    return descriptor


def _read_owner(descriptor: int) -> Owner | None:
    """Return the owner in the file; None if the lock was released, or its owner died before it had written all."""
    try:
        return Owner(**json.loads(os.pread(descriptor, 1 << 20, 0)))
    except (ValueError, TypeError, RecursionError):
        return None


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without an entry in passwd
        return str(os.getuid())


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _start_ticks(pid: int) -> str | None:
    """Return the start of a process in clock ticks since boot, None if there is no such process.

    Without /proc (macOS) only its existence is known, and the result for a live process is the empty string.
    """
    try:
        # The name in field 2 may contain spaces and brackets; fields 3 and later follow its last bracket.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except OSError:
        pass
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""
