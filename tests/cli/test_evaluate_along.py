"""`evaluate --along`: every kept checkpoint on the same text, as a table that a law can be fitted to."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers.invoke import invoke
from pathways_lite.errors import UserError
from pathways_lite.evaluation.bits import Evaluator
from pathways_lite.scaling.fit import fit_law
from pathways_lite.scaling.laws.power import POWER
from pathways_lite.scaling.runs_table import runs_table
from pathways_lite.scaling.table import OWN_COLUMNS, read_table
from pathways_lite.training.evaluate_checkpoints import kept_checkpoints


@pytest.fixture(scope="module")
def trained(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 steps with a checkpoint and an evaluation after each three."""
    run = tmp_path_factory.mktemp("along") / "tiny"
    settings = ["stages.base.saving.every=3", "stages.base.evaluation.every=3"]
    assert invoke("train", recipe_file, *settings, "--out", run).exit_code == 0
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_each_checkpoint_has_the_losses_that_training_logged(run: Path) -> None:
    result = json.loads(invoke("evaluate", run, "--along", "--json").stdout)
    logged = runs_table([run])
    table = read_table(run / "along.csv")
    assert table["step"].tolist() == [3, 6, 9, 12] == logged["step"].tolist()
    for name in ("L", "N", "N_non_embedding", "D", "C", "loss_tales", "bits_poems"):
        np.testing.assert_allclose(table[name], logged[name], rtol=1e-6, err_msg=name)
    assert (result["measured"], result["kept"], len(result["rows"])) == (4, 0, 4)
    assert Path(result["picture"]).read_bytes().startswith(b"\x89PNG")


def test_the_table_is_one_that_laws_are_fitted_to(run: Path) -> None:
    invoke("evaluate", run, "--along")
    table = read_table(run / "along.csv")
    assert table.keys() >= OWN_COLUMNS  # so that small models' units are not questioned
    fit = fit_law(POWER, {"x": table["D"], "y": table["L"]})
    assert fit.rows == 4


def test_a_program_is_compiled_once_for_all_checkpoints(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = Evaluator.__init__

    def count(self: Evaluator, *arguments: object, **settings: object) -> None:
        made.append(self)
        original(self, *arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(Evaluator, "__init__", count)
    invoke("evaluate", run, "--along")
    assert [evaluator._token_losses._cache_size() for evaluator in made] == [1]


def test_measured_rows_are_kept_and_only_new_checkpoints_are_measured(run: Path) -> None:
    newest = run / "base" / "checkpoints" / "step_00000012"
    shutil.move(newest, run / "aside")
    first = json.loads(invoke("evaluate", run, "--along", "--json").stdout)
    shutil.rmtree(run / "base" / "checkpoints" / "step_00000003")  # a run keeps its newest
    shutil.move(run / "aside", newest)
    second = json.loads(invoke("evaluate", run, "--along", "--json").stdout)
    assert (first["measured"], second["measured"], second["kept"]) == (3, 1, 3)
    assert [row["step"] for row in second["rows"]] == [3, 6, 9, 12]
    assert json.loads(invoke("evaluate", run, "--along", "--json").stdout)["measured"] == 0


def test_results_on_other_text_are_not_mixed(run: Path) -> None:
    invoke("evaluate", run, "--along")
    with pytest.raises(UserError, match=r"results with text sha256-.* cannot be compared; name another --out"):
        invoke("evaluate", run, "--along", "--tokens", 100)
    with pytest.raises(UserError, match="results with overlap 0, and these would have overlap 4"):
        invoke("evaluate", run, "--along", "--overlap", 4)
    other = json.loads(invoke("evaluate", run, "--along", "--tokens", 100, "--out", run / "o.parquet", "--json").stdout)
    assert len(read_table(run / "o.parquet")["L"]) == other["measured"] == 4


def test_a_damaged_checkpoint_is_left_out_with_a_warning(run: Path) -> None:
    checkpoint = run / "base" / "checkpoints" / "step_00000006"
    victim = max(checkpoint.rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 4
    victim.write_bytes(content)
    result = invoke("evaluate", run, "--along", "--json")
    assert [row["step"] for row in json.loads(result.stdout)["rows"]] == [3, 9, 12]
    assert "step_00000006 is left out" in result.stderr


def test_every_counts_from_the_last_checkpoint(run: Path) -> None:
    steps = [int(path.name[-2:]) for path in kept_checkpoints(run, every=2)]
    assert steps == [6, 12]
    assert [path.name for path in kept_checkpoints(run / "base")] == [f"step_{s:08d}" for s in (3, 6, 9, 12)]


def test_a_checkpoint_that_was_copied_out_has_a_row(run: Path, tmp_path: Path) -> None:
    lone = shutil.copytree(run / "base" / "checkpoints" / "step_00000009", tmp_path / "lone" / "step_00000009")
    out = tmp_path / "lone.csv"
    invoke("evaluate", lone, "--along", "--out", out)
    whole = runs_table([run])
    assert read_table(out)["L"][0] == pytest.approx(whole["L"][2], rel=1e-6)
    assert read_table(out)["N"][0] == whole["N"][2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--along", "--infilling"], "--along writes a table of losses"),
        (["--every", "2"], "--every and --out are for --along"),
        (["--along", "--out", "x.xlsx"], r"x.xlsx ends in neither \.parquet nor \.csv"),
    ],
)
def test_mistakes_are_sentences(run: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        invoke("evaluate", run, *arguments)


def test_a_table_of_something_else_is_not_overwritten(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "runs.csv"
    other.write_text("N,L\n1,2\n")
    with pytest.raises(UserError, match="was not written by `evaluate --along`"):
        invoke("evaluate", run, "--along", "--out", other)
    assert other.read_text() == "N,L\n1,2\n"
