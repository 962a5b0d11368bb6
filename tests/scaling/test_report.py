"""The commands and the page of a fit."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pathways_lite.cli.main import app
from pathways_lite.errors import UserError
from pathways_lite.scaling.table import write_table


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, rungs: dict[str, np.ndarray]) -> Path:
    """A fit of a table with other people's column names, made by the command."""
    folder = tmp_path_factory.mktemp("fit")
    run = np.array([f"<b>{i % 5}" for i in range(15)], dtype=object)
    theirs = {"size_M": rungs["N"] / 1e6, "tokens": rungs["D"], "final loss": rungs["L"], "run": run}
    write_table(theirs, folder / "theirs.csv")
    columns = ["N=size_M*1e6", "D=tokens", "L=final loss"]
    invoke("fit", "chinchilla", str(folder / "theirs.csv"), *columns, "--bootstraps", "30", "--report", "--by", "run")
    return folder


def test_the_fit_says_what_it_was_made_of(folder: Path) -> None:
    fit = json.loads((folder / "chinchilla.json").read_text())
    assert fit["origin"]["columns"]["N"] == "size_M*1e6"
    assert fit["origin"]["resampled"] == "run"
    assert fit["rows"] == 15
    assert fit["bootstraps"] == 30
    assert fit["reached"] == fit["starts"] == 20


def test_predictions_and_optima_have_intervals(folder: Path) -> None:
    fit = str(folder / "chinchilla.json")
    number = r"([0-9.e+]+)"
    found = re.search(rf"L {number} \({number} to {number}\)", invoke("fit", "predict", fit, "N=2e9", "D=4e10"))
    assert found is not None
    value, low, high = map(float, found.groups())
    assert low < value < high
    assert value == pytest.approx(1.8 + 480 / 2e9**0.35 + 2000 / 4e10**0.37, rel=5e-3)
    lines = invoke("fit", "optimal", fit, "C=1e20").splitlines()
    N, D = (float(line.split()[1]) for line in lines[:2])
    assert pytest.approx(1e20, rel=1e-3) == 6 * N * D
    assert "extrapolated" in invoke("fit", "predict", fit, "N=1e15", "D=4e10")


def test_extrapolation_is_said_with_its_factor(folder: Path) -> None:
    """The data have N from 1e7 to 1e9 and C up to 6 * 1e9 * 8e10 = 4.8e20."""
    fit = str(folder / "chinchilla.json")
    said = invoke("fit", "predict", fit, "N=2e9", "D=4e10")
    assert "N=2e+09 is a factor of 2 above the largest N of the data (1e+09): extrapolated." in said
    assert "below the smallest" in invoke("fit", "predict", fit, "N=1e6", "D=4e10")
    assert "a factor of 2.08e+09 above the largest C" in invoke("fit", "optimal", fit, "C=1e30")
    assert "extrapolated" not in invoke("fit", "predict", fit, "N=5e8", "D=1e10")
    assert "extrapolated" not in invoke("fit", "optimal", fit, "C=1e20")
    assert json.loads(invoke("fit", "optimal", fit, "C=1e30", "--json"))["warnings"]


def test_predictions_have_three_intervals(folder: Path) -> None:
    said = json.loads(invoke("fit", "predict", str(folder / "chinchilla.json"), "N=2e9", "D=4e10", "--json"))
    assert said["forecast"]["low"] <= said["run"]["low"] < said["low"] < said["value"]
    assert said["value"] < said["high"] < said["run"]["high"] <= said["forecast"]["high"]
    lines = invoke("fit", "predict", str(folder / "chinchilla.json"), "N=2e9", "D=4e10").splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["L", "run", "forecast"]


def test_lists_of_inputs_have_three_intervals_each(folder: Path) -> None:
    arguments = ("fit", "predict", str(folder / "chinchilla.json"), "N=5e8,2e9", "D=4e10")
    points = json.loads(invoke(*arguments, "--json"))["points"]
    alone = json.loads(invoke(*arguments[:3], "N=2e9", "D=4e10", "--json"))
    assert [point["N"] for point in points] == [5e8, 2e9]
    for kind in ("run", "forecast"):
        assert points[1][kind] == pytest.approx(alone[kind])
    header, *rows = (line.split() for line in invoke(*arguments).splitlines() if line[:1] in "┃│")
    assert [word for word in header if word != "┃"] == ["N", "D", "L", "law", "run", "forecast"]
    assert [row.count("to") for row in rows] == [3, 3]


def test_the_terminal_says_how_good_a_fit_is(folder: Path, tmp_path: Path, rungs: dict[str, np.ndarray]) -> None:
    out = ["--out", str(tmp_path / "again.json"), "--bootstraps", "20"]
    table = {**rungs, "run": np.array([f"run-{i}" for i in range(15)], object)}
    table["L"] = np.where(np.arange(15) == 4, 9.8, rungs["L"])
    write_table(table, tmp_path / "runs.csv")
    said = " ".join(invoke("fit", "chinchilla", str(tmp_path / "runs.csv"), *out).split())
    for part in ("relative error: mean", "R² of log L", "noise of a run", "farthest from the law: run-4 (row 5) 9.8"):
        assert part in said
    assert "Outliers" in said
    assert "the delta method" in said
    told = json.loads(invoke("fit", "chinchilla", str(tmp_path / "runs.csv"), *out, "--json"))
    assert told["worst_rows"][0]["name"] == "run-4 (row 5)"
    assert told["quality"]["worst_relative_error"] > 0.5
    assert told["intervals"] == "delta"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("predict", "FIT", "N=1e9"), "needs D=…"),
        (("predict", "FIT", "N=1e9", "D=x"), "is not a number"),
        (("predict", "FIT", "N=-1", "D=1e9"), "positive"),
        (("optimal", "FIT", "N=1e9"), "give only the compute"),
        (("chinchila", "TABLE"), "no law 'chinchila'"),
        (("chinchilla", "TABLE", "N=size_M", "D=tokens", "L=final loss"), "in other units"),
        (("chinchilla", "TABLE"), "no column N"),
        (("advise", "N=1e9"), "N=1e9 D=1e11"),
        (("law", "chinchilla", "nowhere.csv"), "there is no table"),
        (("law", "chinchilla", "TABLE", "N=nothing"), "no column 'nothing'"),
        (("law", "chinchilla", "TABLE", "--loss", "mean"), "there is no loss"),
    ],
)
def test_mistakes_are_reported_in_one_sentence(folder: Path, arguments: tuple[str, ...], sentence: str) -> None:
    paths = {"FIT": str(folder / "chinchilla.json"), "TABLE": str(folder / "theirs.csv")}
    with pytest.raises(UserError, match=re.escape(sentence)) as caught:
        invoke("fit", *(paths.get(argument, argument) for argument in arguments))
    assert "\n" not in str(caught.value)


def test_advice() -> None:
    advice = invoke("fit", "advise", "N=1e9", "D=1e11")
    assert "0.001632" in advice
    assert "541 sequences" in advice
    assert "10.9 G tokens for the base (Du et al. 2024)" in advice
    assert "20 M tokens for the base (Du et al. 2024; a fifth of D" in invoke("fit", "advise", "N=1e6", "D=1e8")


def test_the_page_has_its_parts_and_escapes_them(folder: Path) -> None:
    text = (folder / "chinchilla.html").read_text()
    for part in (
        "Parameters",
        "How well it fits",
        "Residuals",
        "Compute-optimal",
        "How to reproduce it",
        "whole runs",
    ):
        assert part in text
    assert "<script" not in text
    assert "://" not in re.sub(r"http://www\.w3\.org\S*", "", re.sub(r"base64,\S+", "", text))


def test_a_browser_shows_the_page(folder: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    picture = tmp_path / "page.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'user'}"]
    page = (folder / "chinchilla.html").as_uri()
    command = [browser, *flags, "--window-size=400,3000", f"--screenshot={picture}", page]
    subprocess.run(command, check=True, capture_output=True, timeout=180)
    assert picture.read_bytes().startswith(b"\x89PNG")
