"""JAX's private symbols are used in one file, and are what that file takes them for."""

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

from pathways_lite.distributed.private_jax import coordination_client, detect_cluster

ROOT = Path(__file__).parents[2]

USED = {
    "src/pathways_lite/distributed/private_jax.py": {"jax._src.distributed", "jax._src.clusters.ClusterEnv"},
    "tools/measure_device.py": {"jax._src.lib.cuda_versions"},  # which works without it
}


def private_symbols(path: Path) -> set[str]:
    """Names in JAX that begin with an underscore, and those in jaxlib, which the file imports or writes out."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            names.add(ast.unparse(node))
    return {name for name in names if re.match(r"jax\._[a-z]|jaxlib\.|jax\.interpreters", name)}


def test_private_symbols_are_in_one_file() -> None:
    files = [path for folder in ("src", "kernels", "tools") for path in sorted((ROOT / folder).rglob("*.py"))]
    used = {path.relative_to(ROOT).as_posix(): symbols for path in files if (symbols := private_symbols(path))}
    assert used == USED


def test_private_symbols_are_found_however_they_are_written(tmp_path: Path) -> None:
    file = tmp_path / "file.py"
    file.write_text("import jax\nfrom jax._src import core\nimport jaxlib.xla\nx = jax._src.distributed.state\n")
    assert {"jax._src.core", "jaxlib.xla", "jax._src.distributed.state"} <= private_symbols(file)


def test_they_exist_with_the_expected_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in USED["src/pathways_lite/distributed/private_jax.py"]:
        module, _, attribute = name.rpartition(".")
        assert hasattr(import_module(module), attribute), f"{name} is gone: see private_jax.py and raise JAX's bound"
    detect = import_module("jax._src.clusters").ClusterEnv.auto_detect_unset_distributed_params
    names = ["coordinator_address", "num_processes", "process_id", "local_device_ids", "cluster_detection_method"]
    assert list(inspect.signature(detect).parameters) == [*names, "initialization_timeout"]
    assert coordination_client() is None, "nothing is initialized"
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert detect_cluster(1) == (None, None, None, None)
