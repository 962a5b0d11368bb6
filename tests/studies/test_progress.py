"""The progress of a node, as its log says."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from pathways_lite.studies.progress import read_progress


@pytest.mark.parametrize("domains", [1, 10, 500])
def test_a_long_evaluation_does_not_hide_the_step(tmp_path: Path, domains: int) -> None:
    store = SimpleNamespace(stage_directory=lambda identity: SimpleNamespace(path=tmp_path))
    assert read_progress(store, "x").step == 0  # type: ignore[arg-type]
    rows = [{"kind": "train", "step": step, "loss": 3.5} for step in (1, 2)]
    rows.append(
        {"kind": "eval", "step": 2, "domains": {f"domain_{i}": {"loss": 1.0, "nll": 2.0} for i in range(domains)}}
    )
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    progress = read_progress(store, "x")  # type: ignore[arg-type]
    assert (progress.step, progress.loss) == (2, 3.5)
