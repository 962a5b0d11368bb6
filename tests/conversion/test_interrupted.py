"""A conversion that is killed leaves nothing that looks whole, and the same command then does it again."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.hf_goldens import write_published
from pathways_lite.conversion.hf_export import export_hf
from pathways_lite.conversion.hf_import import import_hf
from pathways_lite.errors import UserError
from pathways_lite.training.load import load_model

KILLED = """
import os, signal, sys
from pathlib import Path
from pathways_lite.conversion.hf_export import export_hf
from pathways_lite.conversion.hf_import import import_hf
from pathways_lite.training.load import load_model

source, out, after = Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
def report(line):
    if after in line:
        os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "import":
    import_hf(source, out, None, report)
else:
    export_hf(load_model(source), out, dtype="float32", shard_bytes=20_000, report=report)
"""


def kill(direction: str, source: Path, out: Path, after: str) -> None:
    command = [sys.executable, "-c", KILLED, direction, str(source), str(out), after]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL


@pytest.mark.slow
def test_an_import_that_is_killed_between_arrays(tmp_path: Path) -> None:
    source, out = write_published(tmp_path / "hf", "llama2"), tmp_path / "ours"
    kill("import", source, out, "params.layers.mlp.up")
    assert any(path.is_file() for path in out.rglob("*")), "it was under way"
    assert not list(out.glob("step*"))
    with pytest.raises(UserError):
        load_model(out)
    again = load_model(import_hf(source, out, None, lambda line: None))
    assert again.manifest.digest == load_model(out).manifest.digest
    assert sorted(path.name for path in out.iterdir() if not path.name.endswith(".lock")) == ["step_00000000"]


@pytest.mark.slow
def test_an_export_that_is_killed_between_files(tmp_path: Path) -> None:
    ours = load_model(import_hf(write_published(tmp_path / "hf", "llama2"), tmp_path / "ours", None, lambda line: None))
    kill("export", tmp_path / "ours", tmp_path / "back", "model-00002-of")
    assert not (tmp_path / "back").exists()
    export_hf(ours, tmp_path / "back", dtype="float32", shard_bytes=20_000, report=lambda line: None)
    whole = load_model(import_hf(tmp_path / "back", tmp_path / "again", None, lambda line: None))
    assert whole.manifest.digest == ours.manifest.digest


def test_an_import_that_fails_leaves_nothing(tmp_path: Path) -> None:
    source, out = write_published(tmp_path / "hf", "llama2"), tmp_path / "ours"

    def report(line: str) -> None:
        if "params.layers.mlp.up" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_hf(source, out, None, report)
    assert not list(out.iterdir())
