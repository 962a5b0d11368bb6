"""Run directories as training leaves them, made by hand: no test here trains."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

MakeRun = Callable[..., Path]


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeRun:
    """A function that makes `runs/NAME` below the working directory, with one stage and checkpoints of 5 bytes."""
    monkeypatch.chdir(tmp_path)

    def make(
        name: str,
        *,
        steps: Sequence[int] = (10, 20, 30),
        losses: dict[int, float] | None = None,
        start: dict[str, Any] | None = None,
        finished: bool = True,
        logged: int | None = None,
        history: Sequence[dict[str, Any]] = (),
    ) -> Path:
        run = Path("runs") / name
        stage = run / "base"
        stage.mkdir(parents=True)
        recipe = {"name": name, "seed": 7, "stages": [{"name": "base", "start": start or {"kind": "scratch"}}]}
        (run / "recipe.json").write_text(json.dumps(recipe))
        for step in steps:
            checkpoint = stage / "checkpoints" / f"step_{step:08d}"
            checkpoint.mkdir(parents=True)
            (checkpoint / "manifest.json").write_text("12345")
        counts = {"tokens": 1, "flops": 1, "total_tokens": 1, "total_flops": 1}
        rows = [
            {"kind": "eval", "step": step, **counts, "domains": {"d": held_out(loss)}}
            for step, loss in (losses or {}).items()
        ]
        if logged is not None:
            rows.append({"kind": "train", "step": logged, **counts, "loss": 4.0, "mean_loss": 4.5})
        write_rows(stage / "log.jsonl", rows)
        ledger = {"stage": {"steps": max(steps, default=0)}, "total": {"tokens": 99, "flops": 999}}
        (stage / "ledger.json").write_text(json.dumps({"total_steps": 30, **ledger}))
        if finished:
            (stage / "summary.json").write_text(json.dumps({"step": 30}))
        if history:
            write_rows(run / "history.jsonl", history)
        return run

    return make


def held_out(loss: float) -> dict[str, float]:
    return {"loss": loss, "bits_per_byte": loss, "nll": loss * 10, "tokens": 10, "bytes": 10}
