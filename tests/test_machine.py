"""What the machine allows and has: threads, control groups, accelerators."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pathways_lite import accelerators, cgroups, cpu_cores, machine
from pathways_lite.errors import UserError


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of control groups in which this process is in /outer/inner."""
    (tmp_path / "membership").write_text("0::/outer/inner\n4:memory:/m\n1:cpu,cpuacct:/c\n")
    monkeypatch.setattr(cgroups, "ROOT", tmp_path)
    monkeypatch.setattr(cgroups, "MEMBERSHIP", tmp_path / "membership")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_limits_of_control_groups(groups: Path) -> None:
    assert cgroups.cpu_quota() is None
    assert cgroups.memory_limit() is None
    write(groups / "outer/inner/cpu.max", "max 100000\n")
    write(groups / "outer/cpu.max", "150000 100000\n")
    write(groups / "outer/memory.max", str(1 << 20))
    write(groups / "outer/inner/memory.max", "max")
    assert cgroups.cpu_quota() == 1.5  # of the group around this one
    assert cgroups.memory_limit() == cgroups.usable_memory() == 1 << 20


def test_limits_of_version_1(groups: Path) -> None:
    (groups / "membership").write_text("4:memory:/m\n1:cpu:/c\n")
    write(groups / "cpu/c/cpu.cfs_quota_us", "-1")
    write(groups / "cpu/c/cpu.cfs_period_us", "100000")
    assert cgroups.cpu_quota() is None
    write(groups / "cpu/c/cpu.cfs_quota_us", "50000")
    write(groups / "memory/m/memory.limit_in_bytes", str(1 << 21))
    assert cgroups.cpu_quota() == 0.5
    assert cgroups.memory_limit() == 1 << 21
    write(groups / "memory/m/memory.limit_in_bytes", str(1 << 62))  # no limit
    assert cgroups.memory_limit() is None


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_cores, "usable_cores", lambda: list(range(8)))
    for name in ("NPROC", "PJRT_NPROC"):
        monkeypatch.setenv(name, "")


@pytest.mark.usefixtures("eight_cores")
def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_cores, "cpu_quota", lambda: None)
    cpu_cores.set_threads(None)
    assert os.environ["NPROC"] == "", "XLA counts cores itself"
    monkeypatch.setattr(cpu_cores, "cpu_quota", lambda: 2.5)
    cpu_cores.set_threads(None)
    assert os.environ["NPROC"] == os.environ["PJRT_NPROC"] == "3"
    cpu_cores.set_threads(2)
    assert cpu_cores.thread_count() == 2
    cpu_cores.set_threads(None)
    assert cpu_cores.thread_count() == 2, "what was chosen stays, also in child processes"
    with pytest.raises(UserError, match="may use 3 cores at once; use at most 3"):
        cpu_cores.set_threads(4)


def test_programs_of_another_number_of_threads_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = set()
    for threads in ("1", "2"):
        monkeypatch.setenv("PJRT_NPROC", threads)
        keys.add(machine.machine_code_key())
    assert len(keys) == 2


@pytest.mark.slow
def test_xla_makes_as_many_threads_as_it_is_told() -> None:
    program = (
        "import os; from pathlib import Path; from pathways_lite.cpu_cores import set_threads; set_threads(1)\n"
        "import jax.numpy as jnp; jnp.ones(3).block_until_ready()\n"
        "print([p.read_text().strip() for p in Path('/proc/self/task').glob('*/comm')].count('tf_XLAEigen'))"
    )
    if not Path("/proc/self/task").is_dir():
        pytest.skip("needs Linux")
    environment = {name: value for name, value in os.environ.items() if "NPROC" not in name}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "1"


# ---- TPUs that are not there ----


def pci_device(root: Path, name: str, vendor: str, kind: str) -> None:
    write(root / name / "vendor", vendor)
    write(root / name / "class", kind)


def test_google_disks_and_networks_are_no_tpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerators, "PCI_DEVICES", tmp_path)
    pci_device(tmp_path, "0", "0x1ae0\n", "0x020000\n")
    pci_device(tmp_path, "1", "0x1ae0\n", "0x010802\n")
    pci_device(tmp_path, "2", "0x10de\n", "0x120000\n")
    assert not accelerators.tpu_is_attached()
    pci_device(tmp_path, "3", "0x1ae0\n", "0x120000\n")
    assert accelerators.tpu_is_attached()


@pytest.mark.parametrize(
    ("installed", "attached", "given", "platforms", "quiet"),
    [
        (("libtpu",), False, {}, "cpu", False),
        (("libtpu",), True, {}, None, False),
        ((), False, {}, None, False),
        (("libtpu",), False, {"JAX_PLATFORMS": "tpu"}, "tpu", False),
        (("libtpu",), False, {"JAX_FORCE_TPU_INIT": "1"}, None, False),
        (("libtpu", "jax_plugins"), False, {}, None, True),
    ],
)
def test_libtpu_is_left_out_where_there_is_no_tpu(
    installed: tuple[str, ...], attached: bool, given: dict[str, str], platforms: str | None, quiet: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name in installed else None)
    monkeypatch.setattr(accelerators, "tpu_is_attached", lambda: attached)
    environment = dict(given)
    accelerators.leave_out_missing_tpu(environment)
    assert environment.get("JAX_PLATFORMS") == platforms
    assert ("TPU_SKIP_MDS_QUERY" in environment) is quiet


@pytest.mark.libtpu
def test_nothing_is_printed_about_a_tpu_that_is_not_there(tmp_path: Path) -> None:
    if accelerators.tpu_is_attached():
        pytest.skip("there is a TPU")
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    program = "from pathways_lite.accelerators import leave_out_missing_tpu as f; f(); import jax; jax.devices()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stderr == ""
