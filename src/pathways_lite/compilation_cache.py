"""JAX's persistent compilation cache: compiled programs of earlier processes, in a place that is safe to keep them.

JAX's key of a program covers its code, jaxlib's version, XLA's flags and the compile options, but not all that machine
code depends on: the CPU's instructions and, on CPUs, the number of threads that the program is split for. So each
combination of these has a directory of its own. A cached program is code that runs, so only the user may write there.

JAX writes entries under a lock, but not atomically: a process that is killed leaves half of one, which JAX would find
damaged, report and compile again for ever. Every entry has a second file that is written after it, so entries without
one are removed before the cache is used.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import time
from contextlib import suppress
from pathlib import Path

from pathways_lite.machine import machine_code_key
from pathways_lite.paths import local_path, user_cache

VARIABLE = "PATHWAYS_LITE_COMPILATION_CACHE"
"""Environment variable: a directory to keep compiled programs in instead of the user's cache, or `off`."""

MAX_BYTES = 2 << 30
_MAX_AGE = 30 * 86400  # seconds after which programs of another version or machine are removed
_MIN_COMPILE_SECONDS = 0.2  # reading an entry takes milliseconds
_LOCK = ".lockfile"  # JAX's own


def enable_compilation_cache() -> Path | None:
    """Let JAX keep compiled programs, and return where; None if it does not, because that is off or not safe.

    Call it before anything is compiled. JAX's own settings, if there are any, are left as they are: None.
    """
    import jax

    choice = os.environ.get(VARIABLE, "")
    if choice.lower() in ("off", "0", "no", "false", "none") or jax.config.jax_compilation_cache_dir:
        return None
    if not jax.config.jax_enable_compilation_cache or importlib.util.find_spec("filelock") is None:
        return None
    root = local_path(choice) if choice else user_cache() / "compiled"
    directory = root / machine_code_key()
    if not _is_private(directory):
        return None
    _remove_unfinished(directory)
    _remove_outdated(root, directory)
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_COMPILE_SECONDS)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return directory


def _is_private(directory: Path) -> bool:
    """Make the directory if necessary; return whether it can be written, and by nobody else."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
        directory.touch()  # for `_remove_outdated`
    except OSError:
        return False
    if not hasattr(os, "getuid"):
        return os.access(directory, os.W_OK)
    others_write = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return status.st_uid == os.getuid() and not others_write and os.access(directory, os.W_OK)


def _remove_unfinished(directory: Path) -> None:
    """Remove entries that a killed process has begun; not while another process may be writing one."""
    import filelock

    with suppress(OSError, filelock.Timeout), filelock.FileLock(directory / _LOCK, timeout=0):
        for entry in directory.glob("*-cache"):
            if not entry.with_name(f"{entry.name.removesuffix('-cache')}-atime").exists():
                entry.unlink(missing_ok=True)


def _remove_outdated(root: Path, used: Path) -> None:
    """Remove what no process has used for a month: other versions, machines and numbers of threads."""
    with suppress(OSError):
        for directory in root.iterdir():
            is_ours = len(directory.name) == len(used.name) and directory.is_dir()
            if is_ours and directory != used and time.time() - directory.stat().st_mtime > _MAX_AGE:
                shutil.rmtree(directory, ignore_errors=True)
