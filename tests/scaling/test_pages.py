"""The verbs and the page of a fit."""

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
from pathways_lite.scaling.runs_table import runs_table
from pathways_lite.scaling.table import read_table, write_table


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fit of a table with other people's column names, made by the verb."""
    folder = tmp_path_factory.mktemp("fit")
    N, M = (axis.ravel() for axis in np.meshgrid([1e7, 3e7, 1e8, 3e8, 1e9], [5, 20, 80], indexing="ij"))
    noise = np.exp(1e-3 * np.random.default_rng(0).normal(size=15))
    loss = (1.8 + 480 / N**0.35 + 2000 / (N * M) ** 0.37) * noise
    run = np.array([f"<b>{i % 5}" for i in range(15)], dtype=object)
    write_table({"size_M": N / 1e6, "tokens": N * M, "final loss": loss, "run": run}, folder / "theirs.csv")
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


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("predict", "FIT", "N=1e9"), "needs D=…"),
        (("predict", "FIT", "N=1e9", "D=x"), "no number"),
        (("predict", "FIT", "N=-1", "D=1e9"), "positive"),
        (("optimal", "FIT", "N=1e9"), "compute alone"),
        (("chinchila", "TABLE"), "no law 'chinchila'"),
        (("chinchilla", "TABLE", "N=size_M", "D=tokens", "L=final loss"), "other units"),
        (("chinchilla", "TABLE"), "no column N"),
        (("advise", "N=1e9"), "N=1e9 D=1e11"),
        (("law", "chinchilla", "nowhere.csv"), "there is no table"),
        (("law", "chinchilla", "TABLE", "N=nothing"), "no column 'nothing'"),
        (("law", "chinchilla", "TABLE", "--loss", "mean"), "not known"),
    ],
)
def test_mistakes_are_told_in_a_sentence(folder: Path, arguments: tuple[str, ...], sentence: str) -> None:
    places = {"FIT": str(folder / "chinchilla.json"), "TABLE": str(folder / "theirs.csv")}
    with pytest.raises(UserError, match=re.escape(sentence)) as caught:
        invoke("fit", *(places.get(argument, argument) for argument in arguments))
    assert "\n" not in str(caught.value)


def test_advice() -> None:
    advice = invoke("fit", "advise", "N=1e9", "D=1e11")
    assert "0.001632" in advice
    assert "541 sequences" in advice


def test_the_page_has_its_parts_and_escapes_them(folder: Path) -> None:
    text = (folder / "chinchilla.html").read_text()
    for part in (
        "Parameters",
        "How well it fits",
        "What is left over",
        "Compute-optimal",
        "How to repeat it",
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


def make_run(directory: Path) -> None:
    model = {"vocab_size": 100, "d_model": 8, "tie_embeddings": True}
    stage = {"model": model, "optimizer": {"kind": "adamw", "learning_rate": 1e-3, "schedule": {"kind": "cosine"}}}
    stages = [
        {"name": name, **stage, "data": {"seq_len": 16}, "batch_size": 4, "start": {"kind": start}}
        for name, start in (("base", "scratch"), ("grown", "grow"))
    ]
    (directory / "base").mkdir(parents=True)
    (directory / "grown").mkdir()
    (directory / "recipe.json").write_text(json.dumps({"name": "r", "seed": 3, "stages": stages}))
    for name, N, before in (("base", 1000, 0), ("grown", 4000, 640)):
        D = 640
        counts = {"tokens": D, "flops": 6 * N * D, "active_parameter_tokens": N * D, "total_tokens": D + before}
        rows = [
            {"kind": "train", "step": 10, **counts, "loss": 3.0},
            {
                "kind": "eval", "step": 10, **counts, "total_flops": 6 * N * D + 6 * 1000 * before,
                "domains": {"a": {"loss": 2.0, "bits_per_byte": 1.0, "nll": 20.0, "tokens": 10, "bytes": 20},
                            "b": {"loss": 4.0, "bits_per_byte": 2.0, "nll": 120.0, "tokens": 30, "bytes": 60}},
            },
        ]  # fmt: skip
        (directory / name / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_runs_become_a_table(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "r")
    table = runs_table([tmp_path / "runs"])
    assert list(table["stage"]) == ["base", "grown"]
    assert list(table["lineage"]) == ["", "base"]
    np.testing.assert_allclose(table["L"], [3.5, 3.5])
    np.testing.assert_allclose(table["D"], [640, 1280])
    np.testing.assert_allclose(table["C"], [6 * 1000 * 640, 6 * 5000 * 640])
    np.testing.assert_allclose(table["N"], [1000, 4000])
    np.testing.assert_allclose(table["N_average"], [1000, 2500])
    np.testing.assert_allclose(table["N_non_embedding"], [200, 3200])
    np.testing.assert_allclose(table["B"], 64)
    invoke("runs", "table", str(tmp_path / "runs"), "--out", str(tmp_path / "t.parquet"))
    np.testing.assert_allclose(read_table(tmp_path / "t.parquet")["loss_b"], [4, 4])
    with pytest.raises(UserError, match="no run"):
        runs_table([tmp_path / "nothing"])
