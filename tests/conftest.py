"""Settings of all tests, a tiny corpus, a tiny recipe, and groups of processes.

Every test runs on the CPU, even where a TPU or GPU library is installed; JAX_PLATFORMS=cuda runs them on a GPU
(`tools/gpu_day.sh` does that with the tests of its kernels).
"""

import atexit
import dataclasses
import gc
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

pytest.register_assert_rewrite("helpers")

# No deadline: the time of an example depends on the machine's load and on what is compiled for the first time.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")

os.environ.setdefault("JAX_PLATFORMS", "cpu")

# The programs run for milliseconds, so they are compiled without optimization, which saves a third of the suite's time.
# `make test-all` sets the variable itself and tests optimized programs.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

# All tests share one compilation cache, also in the processes that they start.
_CACHE = tempfile.mkdtemp(prefix="pathways-lite-compiled-")
atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _CACHE)
os.environ["XDG_CACHE_HOME"] = _CACHE  # what the program itself keeps: speeds, peaks
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("libtpu") and importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed (extra `tpu`)")
    if item.get_closest_marker("selection") and not all(map(importlib.util.find_spec, ("sklearn", "datasketch"))):
        pytest.skip("scikit-learn or datasketch is not installed (extra `selection`)")


_MAX_MAPS = 30_000


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Drop compiled programs between modules once they are many.

    Each is a few mappings of memory, of which Linux allows a process 65,530; one more, and XLA crashes.
    """
    if nextitem is not None and nextitem.path != item.path and "jax" in sys.modules and _memory_maps() > _MAX_MAPS:
        import jax

        from helpers import run_helpers

        run_helpers.forget_compiled()
        jax.clear_caches()
        gc.collect()


def _memory_maps() -> int:
    try:
        return Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:  # not Linux
        return 0


WORDS = ("the tree of night a river in stone over light and under 1984 42 wind").split()  # noqa: SIM905


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level token store of 200 short documents in the domains `poems` and `tales`; a tenth is held out."""
    from pathways_lite.data.build import build

    root = tmp_path_factory.mktemp("corpus")
    text = lambda i: " ".join(WORDS[(i * k * k + 3 * k) % len(WORDS)] for k in range(20 + i % 40))  # noqa: E731
    records = [{"text": text(i), "domain": "tales" if i % 3 else "poems", "id": f"d{i}"} for i in range(200)]
    (root / "corpus.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    build([str(root / "corpus.jsonl")], root / "store", tokenizer="bytes", held_out=0.1, workers=0)
    return root / "store"


RECIPE = """
from pathways_lite.recipe import *


def recipe():
    model = Model(d_model=32, n_layers=2, n_heads=2, head_dim=16, d_ff=64, vocab_size=257, dtype="float32", dropout=0.1)
    base = Stage(
        name="base",
        model=model,
        data=Data(corpus={corpus!r}, seq_len=32),
        optimizer=AdamW(learning_rate=3e-3),
        batch_size=Ramp(steps=((0, 2), (5, 4))),
        budget="12 steps",
        evaluation=Evaluation(every=6, tokens=500),
        saving=Saving(every=4, keep=10),
        log_every=1,
    )
    return Recipe(name="tiny", stages=(base,))
"""


@pytest.fixture(scope="session")
def recipe_file(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that trains in a second, with dropout and a batch-size ramp, which a resumed run must reproduce."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.py"
    path.write_text(RECIPE.format(corpus=str(corpus)))
    return path


@dataclasses.dataclass
class Group:
    """Processes that run one distributed program on this machine's CPU.

    The program sees its `index`, the `count` of processes and the `arguments`.
    """

    processes: list[subprocess.Popen[str]]

    def wait(self, timeout: float = 240) -> list[str]:
        """Wait for all processes and return what each printed, stderr included."""
        try:
            return [process.communicate(timeout=timeout)[0] for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()

    @property
    def statuses(self) -> list[int]:
        """The exit statuses of all processes."""
        return [process.wait() for process in self.processes]


_PRELUDE = """
import sys
from pathways_lite.distributed import coordination
port, count, index, *arguments = sys.argv[1:]
index, count = int(index), int(count)
coordination.initialize(f"localhost:{port}", count, index)
"""


@pytest.fixture
def free_port() -> int:
    """A port on which no process listens."""
    return _free_port()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def start_group() -> Iterator[Callable[..., Group]]:
    """A function that starts a script in `count` processes of `devices` each; all of them end with the test."""
    from helpers import subprocess_environment

    groups: list[Group] = []

    def start(script: str, count: int, devices: int, *arguments: object) -> Group:
        port = _free_port()
        environment = subprocess_environment() | {"JAX_NUM_CPU_DEVICES": str(devices)}
        command = [sys.executable, "-c", _PRELUDE + textwrap.dedent(script), str(port), str(count)]
        group = Group(
            [
                subprocess.Popen(
                    [*command, str(index), *map(str, arguments)],
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
                for index in range(count)
            ]
        )
        groups.append(group)
        return group

    yield start
    for group in groups:
        for process in group.processes:
            process.kill()
            process.wait()
