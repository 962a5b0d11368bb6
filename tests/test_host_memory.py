"""Keeping freed memory is for processes that run on CPUs alone."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from pathways_lite.host_memory import runs_on_cpu_only


@pytest.mark.parametrize(("platforms", "alone"), [("cpu", True), ("tpu,cpu", False), ("cuda", False)])
def test_what_is_asked_for_decides(platforms: str, alone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    assert runs_on_cpu_only() is alone


@pytest.mark.skipif(sys.platform != "linux", reason="device files of Linux")
@pytest.mark.parametrize(
    ("library", "device", "alone"),
    [
        (None, "nvidia0", True),
        ("libtpu", None, True),  # installed to plan
        ("libtpu", "accel0", False),
        ("libtpu", "vfio/0", False),
        ("jax_plugins", "nvidia1", False),
        ("jax_plugins", "nvidiactl", True),
        ("jax_plugins", "dxg", False),
    ],
)
def test_otherwise_an_accelerator_and_its_library_decide(
    library: str | None, device: str | None, alone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if name == library else None)
    monkeypatch.setattr("pathways_lite.host_memory._DEVICES", tmp_path)
    if device is not None:
        (tmp_path / device).parent.mkdir(exist_ok=True)
        (tmp_path / device).touch()
    assert runs_on_cpu_only() is alone


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc only")
def test_freed_memory_is_not_faulted_in_again() -> None:
    """Page faults of a large allocation, the second time that it is made."""
    script = """
import resource, sys
from pathways_lite.host_memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
for _ in range(2):
    before = faults()
    piece = libc.malloc(ctypes.c_size_t(64 << 20))
    ctypes.memset(piece, 1, 64 << 20)
    libc.free(piece)
print(faults() - before)
"""
    counts = {
        how: int(subprocess.run([sys.executable, "-c", script, how], capture_output=True, check=True).stdout)
        for how in ("keep", "plain")
    }
    assert counts["keep"] < 100 < counts["plain"]
