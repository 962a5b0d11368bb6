"""Loss curves from the logs of our own runs: one schedule per chain, names of studies, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pathways_lite.cli.main import app
from pathways_lite.errors import UserError
from pathways_lite.scaling.curves import Curve, law_columns
from pathways_lite.scaling.laws.annealing import TISSUE
from pathways_lite.scaling.measurements import make_schedule
from pathways_lite.scaling.run_curves import run_curves
from pathways_lite.scaling.solver import predict

VALUES = {"L0": 2.6, "A": 0.45, "C": 0.5, "alpha": 0.5}


def write_run(
    directory: Path, stages: dict[str, tuple[str, list[tuple[int, float, float]]]], name: str = "tiny"
) -> None:
    """A run whose stages, by name, have a kind of start and train rows (step, learning rate, mean loss)."""
    recipe = {"name": name, "stages": [{"name": s, "start": {"kind": kind}} for s, (kind, _) in stages.items()]}
    directory.mkdir(parents=True)
    (directory / "recipe.json").write_text(json.dumps(recipe))
    for stage, (_, rows) in stages.items():
        (directory / stage).mkdir()
        lines = [
            {"kind": "train", "step": step, "learning_rate": rate, "loss": 99.0, "mean_loss": loss}
            for step, rate, loss in rows
        ]
        (directory / stage / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_trunk_and_its_decay_are_one_curve(tmp_path: Path) -> None:
    trunk = ("scratch", [(10, 1e-3, 4.0), (20, 1e-3, 3.5)])
    write_run(tmp_path / "run", {"base": trunk, "tail": ("continue", [(10, 0.0, 3.0)])})
    curves, notes = run_curves(tmp_path / "run")
    table = curves["tiny"]
    # Means of steps 1 to 10, 11 to 20 and 21 to 30 stand in their middle, the rates where they were logged.
    known = np.isfinite(table["loss"])
    assert table["step"].tolist() == [5, 10, 15, 20, 25, 30]
    assert table["step"][known].tolist() == [5, 15, 25]
    assert table["loss"][known].tolist() == [4.0, 3.5, 3.0]
    np.testing.assert_allclose(table["lr"], [1e-3, 1e-3, 1e-3, 1e-3, 5e-4, 0])
    assert notes == []


def test_a_curve_ends_where_the_model_is_changed(tmp_path: Path) -> None:
    rows = [(1, 1e-3, 4.0), (2, 1e-3, 3.5), (3, 1e-3, 3.4)]
    write_run(tmp_path / "run", {"base": ("scratch", rows), "grown": ("grow", rows)})
    curves, notes = run_curves(tmp_path / "run")
    assert curves["tiny"]["step"].tolist() == [1, 2, 3]
    assert notes == ["tiny: grown left out, as a curve ends where a model is changed or replaced."]
    write_run(tmp_path / "imported", {"tuned": ("restore", rows)})
    with pytest.raises(UserError, match="has a stage that starts from scratch and has logged a loss"):
        run_curves(tmp_path / "imported")


def test_runs_of_a_study_have_their_labels_and_shared_trunks_are_not_curves(tmp_path: Path) -> None:
    rows = [(10, 1e-3, 4.0), (20, 1e-3, 3.5), (30, 1e-3, 3.4)]
    nodes = tmp_path / "nodes"
    write_run(nodes / "aa", {"base": ("scratch", rows)})
    for name in ("bb", "cc"):
        write_run(nodes / name, {"tail": ("continue", rows)})
        recipe = {"name": "tiny", "stages": [{"name": "base", "start": {"kind": "scratch"}}]}
        recipe["stages"].append({"name": "tail", "start": {"kind": "continue"}})  # type: ignore[attr-defined]
        (nodes / name / "recipe.json").write_text(json.dumps(recipe))
        (nodes / name / "base").symlink_to("../aa/base", target_is_directory=True)
    labels = {"aa": {"label": "trunk"}, "bb": {"label": "slow tail"}, "cc": {"label": "fast tail"}}
    (tmp_path / "study.json").write_text(json.dumps({"nodes": labels}))
    curves, _ = run_curves(tmp_path)
    assert sorted(curves) == ["fast tail", "slow tail"]
    (tmp_path / "study.json").unlink()
    assert sorted(run_curves(tmp_path)[0]) == ["tiny (bb)", "tiny (cc)"]


def test_the_command_fits_runs_and_tests_on_one(tmp_path: Path) -> None:
    """Losses of the annealing law at every tenth step; the run `wsd` is predicted."""
    for shape in ("constant", "cosine", "wsd"):
        rates = make_schedule(shape, 801, peak=3e-3, end=3e-4, warmup=50, stable=600)  # type: ignore[arg-type]
        steps = np.arange(5, 801, 5)
        blank = Curve(shape, steps, np.ones(len(steps)), rates)
        losses = predict(TISSUE, VALUES, law_columns(TISSUE, [blank], None, 0.999))
        loss_at = dict(zip(steps.tolist(), losses.tolist(), strict=True))
        # A row's mean is that of the steps before it: about the loss at their middle.
        rows = [(step, float(rates[step]), loss_at[step - 5]) for step in range(10, 801, 10)]
        write_run(tmp_path / shape, {"base": ("scratch", rows)}, name=shape)
    paths = [str(tmp_path / shape) for shape in ("constant", "cosine", "wsd")]
    arguments = ["fit", "curves", *paths, "--law", "annealing", "--skip", "50", "--test", "wsd", "--json"]
    facts = json.loads(CliRunner().invoke(app, arguments, catch_exceptions=False).output)
    assert [(c["name"], c["role"]) for c in facts["curves"]] == [
        ("constant", "fit"),
        ("cosine", "fit"),
        ("wsd", "test"),
    ]
    assert facts["curves"][2]["worst"] < 0.01
    assert (tmp_path / "constant" / "curves.json").is_file()
    together = [*arguments[:2], str(tmp_path), *arguments[5:]]
    again = json.loads(CliRunner().invoke(app, together, catch_exceptions=False).output)
    assert again["values"] == pytest.approx(facts["values"])
