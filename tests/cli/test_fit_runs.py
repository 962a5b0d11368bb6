"""What `fit` says of runs that one law does not describe: arms, corpora, runs that are left out."""

import json
from pathlib import Path

import numpy as np
import pytest

from helpers.invoke import invoke
from pathways_lite.cli import fit_table
from pathways_lite.cli.fit_runs import arms_note, corpora_notes, finished_runs, left_out_notes
from pathways_lite.cli.fit_table import RowChoice, read_rows
from pathways_lite.errors import UserError
from pathways_lite.scaling.efficiency import fit_efficiency
from pathways_lite.scaling.fit import fit_law
from pathways_lite.scaling.laws.registry import find_law
from pathways_lite.scaling.quality import ARM_OF_ROW, noise_of_runs
from pathways_lite.scaling.table import Table, write_table


def texts(*values: str) -> np.ndarray:
    return np.array(values, dtype=object)


@pytest.fixture
def runs() -> Table:
    """Three arms, each at one budget with two seeds, of which the last read another corpus."""
    return {
        "run": texts(*(f"runs/s/nodes/{i}" for i in range(6))),
        "lineage": texts(*[""] * 6),
        "arm": texts("a", "a", "b", "b", "c", "c"),
        "corpus": texts(*["mine@1"] * 4, *["other@2"] * 2),
        "vocab_size": np.array([1024.0] * 4 + [4096.0] * 2),
        "N": np.array([1e6] * 6),
        "D": np.array([1e7, 1e7, 2e7, 2e7, 4e7, 4e7]),
        "L": np.array([4.0, 4.01, 3.6, 3.61, 3.3, 3.31]),
    }


def test_arms_and_corpora_in_one_fit_are_noted(runs: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_table, "finished_runs", lambda path: runs)
    study = tmp_path / "study.py"

    def left_out(*conditions: str, apart: str | None = None) -> str:
        return " ".join(read_rows(study, [], ["D", "L"], choice=RowChoice(conditions), apart=apart).left_out)

    said = left_out()
    assert "3 arms (a, b, c)" in said
    assert "--each" not in said.partition("corpora")[0], "an arm has one budget"
    two = {name: np.concatenate([column] * 3) for name, column in runs.items()}
    two["D"] = np.repeat([1e7, 2e7, 4e7], 6)
    assert "--each arm, " in " ".join(arms_note(two, study))
    rates = {**two, "arm": np.array([f"arm {i // 2}" for i in range(18)], dtype=object), "lr": np.tile([1e-3, 3e-3], 9)}
    assert "--each lr, " in " ".join(arms_note(rates, study))
    assert "study report STUDY --law auto" in said
    assert "2 corpora (mine@1 in 4, other@2 in 2)" in said
    assert "different tokenizers (1024 and 4096 ids)" in said
    assert "--where 'corpus == \"mine@1\"'" in said
    assert "corpora" not in left_out('corpus == "mine@1"')
    assert not left_out('arm == "a"')
    assert not left_out(apart="arm"), "they are told apart already"
    assert not arms_note(runs, Path("table.csv")), "a table's own column, which may be anything"
    assert not corpora_notes({"corpus": runs["corpus"]}), "not runs of this library"


def test_the_noise_of_a_run_leaves_out_what_arms_differ_by(runs: Table) -> None:
    table = {
        "D": np.repeat([1e7, 2e7, 4e7], 4),
        "L": np.repeat([4.0, 3.6, 3.3], 4) + np.tile([0.0, 0.01, 0.3, 0.31], 3),
    }
    arms = ["a", "a", "b", "b"] * 3
    law = find_law("tokens")
    pooled, apart = (fit_law(law, table, bootstraps=0, origin=origin) for origin in ({}, {ARM_OF_ROW: arms}))
    assert noise_of_runs(pooled)[1] == 9
    noise, repeats = noise_of_runs(apart)
    assert repeats == 6
    assert noise < 0.1 * noise_of_runs(pooled)[0]


def test_settings_are_no_repeats(tmp_path: Path) -> None:
    """Learning rates of one budget are said to be pooled, and what they differ by is not the noise of a run."""
    rates, seeds = np.tile([1e-3, 3e-3], 6), np.tile([0, 0, 1, 1], 3)
    table = {
        "C": np.repeat([1e17, 2e17, 4e17], 4),
        "L": np.repeat([4.0, 3.6, 3.3], 4) + 0.3 * (rates > 2e-3) + 0.01 * seeds,
        "lr": rates,
        "seed": seeds,
    }
    write_table(table, tmp_path / "runs.csv")
    result = invoke("fit", "kaplan-c", tmp_path / "runs.csv", "--bootstraps", "0", "--json")
    said = " ".join(json.loads(result.output)["notes"])
    assert "Rows with equal C_pf_days differ in lr (2 values): this fit pools them" in said
    assert "fit them apart with --each lr, or choose some with --where 'lr == 0.001'." in said
    assert json.loads(result.output)["quality"]["repeats"] == 6
    assert json.loads(result.output)["quality"]["noise_of_a_run"] < 0.01
    one = invoke("fit", "kaplan-c", tmp_path / "runs.csv", "--bootstraps", "0", "--where", "lr == 0.001", "--json")
    assert "pools" not in " ".join(json.loads(one.output)["notes"])
    apart = invoke("fit", "kaplan-c", tmp_path / "runs.csv", "--bootstraps", "0", "--each", "lr")
    assert "pools" not in apart.output


def test_arms_are_told_the_option_of_a_smaller_law() -> None:
    table = {"C": np.tile([1e17, 2e17, 4e17], 2), "N": np.full(6, 1e6), "D": np.tile([1e9, 2e9, 4e9], 2)}
    table["L"] = np.tile([4.0, 3.6, 3.3], 2) - np.repeat([0.0, 0.1], 3)
    with pytest.raises(UserError, match=r"which these rows determine: --law compute, --law tokens$"):
        fit_efficiency(table, texts(*"aaabbb"), baseline="a")


def test_runs_of_this_library_are_never_swapped(runs: Table) -> None:
    few = {**runs, "N": np.array([1e8, 1e8, 1e8, 2e8, 2e8, 2e8]), "D": np.array([1, 2, 4, 1, 2, 4]) * 1e7}
    notes = [fit_law(find_law("chinchilla"), table, bootstraps=0).notes for table in (few, _without_lineage(few))]
    assert ["swapped" in " ".join(sentences) for sentences in notes] == [False, True]
    assert all("fewer tokens than parameters" in " ".join(sentences) for sentences in notes)


def _without_lineage(table: Table) -> Table:
    return {name: column for name, column in table.items() if name != "lineage"}


def test_what_is_left_out_of_a_directory_is_told(tmp_path: Path) -> None:
    for run in ("done", "stopped", "law/nodes/1", "law/nodes/2"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "recipe.json").write_text(json.dumps({"name": "r", "stages": []}))
    said = " ".join(left_out_notes(tmp_path, [str(tmp_path / "done")]))
    assert "1 run left out, not finished: stopped." in said
    assert f"2 nodes of a study left out (law): fit a study by itself, as in {tmp_path / 'law'}." in said
    assert not left_out_notes(tmp_path / "table.csv", [])


def test_runs_of_a_study_know_their_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = {"x": {"label": "a/0 base", "arms": ["a", "b"]}}
    (tmp_path / "study.json").write_text(json.dumps({"nodes": nodes}))
    table = {"run": texts(str(tmp_path / "nodes" / "x"), str(tmp_path / "nodes" / "y")), "L": np.ones(2)}
    monkeypatch.setattr("pathways_lite.scaling.runs_table.runs_table", lambda paths, final: table)
    assert finished_runs(tmp_path)["arm"].tolist() == ["a", ""]
