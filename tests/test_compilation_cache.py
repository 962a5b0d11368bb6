"""Compiled programs are kept where that is safe, and what a killed process leaves is removed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pathways_lite import compilation_cache
from pathways_lite.compilation_cache import VARIABLE

PROGRAM = """
from pathways_lite.compilation_cache import enable_compilation_cache
directory = enable_compilation_cache()
import jax, jax.numpy as jnp
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
print(directory)
print(float(jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((3, 3)))[0, 0]))
"""


def run(cache: str) -> list[str]:
    """Compile a program in a process of its own; return the cache's directory and the result."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= {VARIABLE: cache, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_programs_are_kept_and_half_written_ones_made_again(tmp_path: Path) -> None:
    directory, first = run(str(tmp_path))
    entries = {path.name: path.read_bytes() for path in Path(directory).glob("*-cache")}
    assert entries, "nothing was kept"
    broken = next(Path(directory).glob("jit__lambda*-cache"))
    broken.write_bytes(broken.read_bytes()[:40])  # as a process leaves it that is killed while it writes
    broken.with_name(broken.name.replace("-cache", "-atime")).unlink()
    assert run(str(tmp_path)) == [directory, first]
    assert {path.name for path in Path(directory).glob("*-cache")} == set(entries)
    assert len(broken.read_bytes()) > 40


def test_it_can_be_turned_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for word in ("off", "0", "NONE"):
        monkeypatch.setenv(VARIABLE, word)
        assert compilation_cache.enable_compilation_cache() is None


def test_settings_of_jax_are_left_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import jax

    monkeypatch.setenv(VARIABLE, str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    assert before, "tests have a cache of their own"
    assert compilation_cache.enable_compilation_cache() is None
    assert jax.config.jax_compilation_cache_dir == before


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="permissions of POSIX")
def test_where_others_may_write_nothing_is_kept(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    assert not compilation_cache._is_private(tmp_path)
    tmp_path.chmod(0o755)
    assert compilation_cache._is_private(tmp_path)


def test_what_was_not_used_for_a_month_is_removed(tmp_path: Path) -> None:
    names = ("0" * 16, "1" * 16, "2" * 16, "other")
    for name in names:
        (tmp_path / name).mkdir()
    for name in ("1" * 16, "other"):
        os.utime(tmp_path / name, (0, 0))
    compilation_cache._remove_outdated(tmp_path, tmp_path / names[0])
    assert {path.name for path in tmp_path.iterdir()} == {names[0], names[2], "other"}
