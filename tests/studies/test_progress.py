"""The progress of a node, as its log says."""

import json
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest

from pathways_lite.console import Console
from pathways_lite.studies import progress as progress_module
from pathways_lite.studies.progress import NodeProgress, StudyProgress, read_progress


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


def test_a_line_is_printed_when_something_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    steps, store = iter([0, 0, 5, 5, 9]), SimpleNamespace(nodes={"x": SimpleNamespace(label="a/0 base")})
    monkeypatch.setattr(progress_module, "_LINE_INTERVAL", -1.0)
    monkeypatch.setattr(progress_module, "read_progress", lambda *_: NodeProgress(next(steps), 3.5))
    printed, shown_store = StringIO(), store  # type: Any, Any
    display = StudyProgress({"x": 9}, Console(file=printed))
    for _ in range(5):
        display.show(shown_store, ["x"])
    assert printed.getvalue().splitlines() == [
        "a/0 base: preparing", "a/0 base: step 5/9, loss 3.5000", "a/0 base: step 9/9, loss 3.5000"
    ]  # fmt: skip
