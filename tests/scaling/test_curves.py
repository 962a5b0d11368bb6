"""Laws of loss curves from (step, lr, loss): schedules, recovery, errors by curve, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pathways_lite.cli.main import app
from pathways_lite.errors import UserError
from pathways_lite.scaling.curves import Curve, fit_curves, law_columns, read_curve
from pathways_lite.scaling.laws.annealing import MULTI_POWER, TISSUE
from pathways_lite.scaling.measurements import annealing_area, make_schedule
from pathways_lite.scaling.solver import predict
from pathways_lite.scaling.table import write_table

VALUES = {"L0": 2.6, "A": 0.45, "C": 0.5, "alpha": 0.5}


def curve(shape: str, steps: int = 2000) -> Curve:
    rates = make_schedule(shape, steps, peak=3e-3, end=3e-4, warmup=50, stable=steps * 3 // 4)  # type: ignore[arg-type]
    logged = np.arange(60, steps, 20)
    blank = Curve(shape, logged, np.ones(len(logged)), rates)
    losses = predict(TISSUE, VALUES, law_columns(TISSUE, [blank], None, 0.999))
    return Curve(shape, logged, losses, rates)


def test_the_annealing_law_is_recovered_and_predicts_other_schedules() -> None:
    curves = [curve("constant"), curve("cosine"), curve("wsd")]
    fit = fit_curves(TISSUE, curves, ["wsd"])
    for name, value in VALUES.items():
        assert fit.solution.values[name] == pytest.approx(value, rel=1e-3)
    assert [error.role for error in fit.errors] == ["fit", "fit", "test"]
    assert fit.summary("test")["worst_point"] < 1e-4
    assert fit.notes == ()


def test_errors_are_per_curve_and_pooled() -> None:
    """The mean over curves, which papers report, is not the mean over points of curves of different length."""
    long, short = curve("constant", 4000), curve("cosine", 400)
    shifted = Curve("cosine", short.steps, short.losses * 1.01, short.rates)
    fit = fit_curves(TISSUE, [long, curve("wsd", 4000), shifted])
    assert len(fit.errors) == 3
    summary = fit.summary("fit")
    assert summary["mean_over_curves"] == pytest.approx(np.mean([e.mean for e in fit.errors]))
    points = np.array([e.points for e in fit.errors])
    assert summary["mean_over_points"] == pytest.approx(np.sum(points * [e.mean for e in fit.errors]) / points.sum())
    assert summary["worst_point"] == max(e.worst for e in fit.errors) >= summary["worst_over_curves"]


def test_schedules_come_from_the_log() -> None:
    """Rates between logged steps are linear; before the first one there is a warm-up."""
    steps = np.array([100.0, 200, 300, 400])
    table = {"step": steps, "lr": np.array([1.0, 1, 0.5, 0.1]), "loss": np.array([4.0, 3, np.nan, 2])}
    read, sentences = read_curve("run", table)
    assert read.rates[50] == pytest.approx(0.5)
    assert read.rates[250] == pytest.approx(0.75)
    assert len(read.rates) == 401
    assert read.steps.tolist() == [100, 200, 400], "losses that are missing are not points"
    assert sentences == []
    assert read_curve("run", table, warmup=0)[0].rates[0] == 1
    assert read_curve("run", table, warmup=20)[0].rates[10] == pytest.approx(0.5)
    with pytest.raises(UserError, match="twice"):
        read_curve("run", {**table, "step": np.array([1.0, 1, 2, 3])})
    with pytest.raises(UserError, match="at least three"):
        read_curve("run", table, skip=300)


def test_areas_are_those_of_the_definition() -> None:
    made = curve("cosine", 300)
    columns = law_columns(TISSUE, [made], None, 0.99)
    np.testing.assert_allclose(columns["S1"], np.cumsum(made.rates)[made.steps])
    np.testing.assert_allclose(columns["S2"], annealing_area(made.rates, 0.99)[made.steps])


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = []
    for shape in ("constant", "cosine", "wsd"):
        made = curve(shape, 800)
        write_table(
            {"Step": made.steps.astype(float), "rate": made.rates[made.steps], "L": made.losses},
            tmp_path / f"{shape}.csv",
        )
        paths.append(str(tmp_path / f"{shape}.csv"))
    return paths


def test_the_command_reads_a_file_per_curve(files: list[str], tmp_path: Path) -> None:
    arguments = ["fit", "curves", *files, "--law", "annealing", "--column", "step=Step", "--column", "lr=rate"]
    arguments += ["--test", "w*"]
    output = CliRunner().invoke(app, arguments, catch_exceptions=False).output
    assert "predicted" in output
    assert "means over curves" in output
    content = json.loads((tmp_path / "curves.json").read_text())
    assert content["kind"] == "curves"
    assert [c["role"] for c in content["curves"]] == ["fit", "fit", "test"]
    assert content["curves"][2]["worst"] < 0.01
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="is none of the curves"):
        CliRunner().invoke(app, [*arguments, "--test", "linear"], catch_exceptions=False)


def test_the_command_reads_one_file_of_many_runs(tmp_path: Path) -> None:
    """As W&B exports the chart of a metric of several runs, here with the rate as a second metric."""
    made = [curve("constant", 800), curve("cosine", 800)]
    columns = {"Step": made[0].steps.astype(float)}
    for one in made:
        for metric, values in (("loss", one.losses), ("lr", one.rates[one.steps])):
            columns |= {f"{one.name} - {metric}{suffix}": values for suffix in ("", "__MIN", "__MAX")}
    write_table(columns, tmp_path / "chart.csv")
    arguments = ["fit", "curves", str(tmp_path / "chart.csv"), "--law", "annealing", "--column", "step=Step", "--json"]
    facts = json.loads(CliRunner().invoke(app, arguments, catch_exceptions=False).output)
    assert [c["name"] for c in facts["curves"]] == ["constant", "cosine"]
    assert max(c["worst"] for c in facts["curves"]) < 0.005, "the warm-up that is not logged is guessed"


def test_a_law_of_curves_says_where_to_fit_it(files: list[str]) -> None:
    with pytest.raises(UserError, match="fit curves"):
        CliRunner().invoke(app, ["fit", "multi-power", files[0]], catch_exceptions=False)


@pytest.mark.slow
def test_the_multi_power_law_predicts_the_authors_schedules(measurements: Path) -> None:
    """From the logged rates: the means over unseen curves are below the published 0.2 % and 0.8 %."""
    names = ["cosine_24000", "constant_24000", "wsdcon_9", "cosine_72000", "constant_72000", "wsd_20000_24000",
             "wsdld_20000_24000", "wsdcon_3", "wsdcon_18"]  # fmt: skip
    from pathways_lite.scaling.table import read_table

    folder = measurements / "multi_power_law"
    curves = [read_curve(name, read_table(folder / f"loss_curve_repo__csv_25__{name}.csv"))[0] for name in names]
    fit = fit_curves(MULTI_POWER, curves, names[3:])
    assert fit.summary("test")["mean_over_curves"] < 0.0020
    assert fit.summary("test")["worst_over_curves"] < 0.0080
