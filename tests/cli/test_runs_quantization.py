"""`runs quantization`: paired rises of all kept checkpoints, resumable, as a table for the law."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers.invoke import invoke
from pathways_lite.errors import UserError
from pathways_lite.evaluation.bits import Evaluator
from pathways_lite.scaling.fit import fit_law
from pathways_lite.scaling.laws.registry import find_law
from pathways_lite.scaling.table import read_table, write_table


@pytest.fixture(scope="module")
def run(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rises") / "tiny"
    assert invoke("train", recipe_file, "stages.base.saving.every=6", "--out", path).exit_code == 0
    return path


@pytest.fixture(scope="module")
def table(run: Path) -> Path:
    out = run.parent / "quantized.csv"
    invoke("runs", "quantization", run, "--bits", "2,8", "--calibration-tokens", 2000, "--out", out)
    return out


def test_a_row_per_checkpoint_method_and_bits(run: Path, table: Path) -> None:
    rows = read_table(table)
    assert sorted(zip(rows["step"], rows["quantization"], rows["P"], strict=True)) == [
        (step, method, bits) for step in (6, 12) for method in ("gptq", "nearest") for bits in (2, 8)
    ]
    np.testing.assert_allclose(rows["L"] - rows["L_before"], rows["rise"], atol=1e-9)
    assert (rows["rise"][rows["P"] == 2] > 50 * np.abs(rows["rise"][rows["P"] == 8]).max()).all()
    assert len(set(rows["text"])) == len(set(rows["trunk"])) == 1


def test_rises_are_those_of_copies_in_files(run: Path, table: Path, tmp_path: Path) -> None:
    arguments = ("--quantize", "gptq", "--bits", 2, "--calibration-tokens", 2000)
    invoke("convert", run, tmp_path / "copy", *arguments)
    losses = []
    for path in (run, tmp_path / "copy"):
        domains = json.loads(invoke("evaluate", path, "--json").stdout)["domains"].values()
        losses.append(sum(domain["nll"] for domain in domains) / sum(domain["tokens"] for domain in domains))
    rows = read_table(table)
    chosen = (rows["step"] == 12) & (rows["quantization"] == "gptq") & (rows["P"] == 2)
    assert rows["rise"][chosen][0] == pytest.approx(losses[1] - losses[0], abs=1e-6)


def test_what_is_measured_is_not_measured_again(run: Path, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = table.read_text().splitlines()
    table.write_text("\n".join(whole[:-2]) + "\n")  # of a command that was killed
    arguments = ("runs", "quantization", run, "--bits", "2,8", "--calibration-tokens", 2000, "--out", table, "--json")
    result = json.loads(invoke(*arguments).stdout)
    assert (result["measured"], result["kept"]) == (2, 6)
    assert sorted(table.read_text().splitlines()) == sorted(whole)
    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "token_losses", None)
        assert json.loads(invoke(*arguments).stdout)["measured"] == 0


def test_the_law_fits_such_a_table() -> None:
    """Rows with the columns of the table; the published exponents come back."""
    law = find_law("quantization")
    assert find_law("quantisation") is law  # as earlier versions spell it
    grid = np.array([(n, d, p) for n in (1e5, 1e6) for d in (1e6, 1e7, 1e8) for p in (2, 3, 4)]).T
    N, D, P = grid
    fit = fit_law(law, {"N": N, "D": D, "P": P, "rise": 0.017 * D**0.5251 / (N**0.2261 * P**5.4967)}, bootstraps=0)
    assert fit.values["beta"] == pytest.approx(0.5251, rel=1e-3)
    assert fit.values["gamma"] == pytest.approx(5.4967, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bits", "two"], "not a list of numbers"),
        (["--bits", "1,2"], "from 2 to 8"),
        (["--methods", "awq"], "There are: nearest, gptq"),
        (["--out", "table.txt"], "neither .parquet nor .csv"),
    ],
)
def test_mistakes(run: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        invoke("runs", "quantization", run, *arguments)


def page_commands() -> list[list[str]]:
    """The commands of docs/quantization.md, without the name of the program."""
    page = (Path(__file__).parent.parent.parent / "docs" / "quantization.md").read_text(encoding="utf-8")
    lines = page.splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("pathways-lite ")]


def test_the_commands_of_the_page_work(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commands = page_commands()
    assert [words[0] for words in commands] == ["convert", "evaluate", "convert", "runs", "runs", "fit"]
    shutil.copytree(run, tmp_path / "runs" / "demo")
    monkeypatch.chdir(tmp_path)
    for words in commands[:-1]:
        assert invoke(*words).exit_code == 0, words
    assert read_table("demo.csv")["P"].tolist()[-2:] == [3, 4]
    rows = read_table("quantized.csv")
    n, d = np.tile([1e5, 1e6, 1e7], 8), np.repeat([1e6, 1e7], 12)  # the table of models of three sizes
    rows = {name: np.resize(column, 24) for name, column in rows.items()}
    rows["N_non_embedding"], rows["D"] = n, d
    rows["trunk"] = np.array([f"{number:.0f}" for number in n], object)
    rows["rise"] = 0.017 * d**0.5251 / (n**0.2261 * rows["P"] ** 5.4967)
    write_table(rows, "quantized.csv")
    assert invoke(*commands[-1], "--bootstraps", 0).exit_code == 0
    fitted = json.loads(Path("quantization.json").read_text(encoding="utf-8"))
    assert fitted["law"] == "quantization"
