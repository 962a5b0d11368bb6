"""Corpora, selections, studies, tables and fits of v0.1 are read, and say what they said."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import run, succeed
from frozen import V0_1, differences, load, numbers, workplace

CORPUS = load("corpus.json")


def read_csv(path: Path) -> list[dict[str, Any]]:
    """The rows of a table; numbers are numbers."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: number_or_text(cell) for name, cell in row.items()} for row in csv.DictReader(file)]


def number_or_text(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell


# ---- corpora and selections ----


def test_a_corpus_is_built_of_the_same_tokens(tmp_path: Path) -> None:
    directory = workplace(tmp_path)
    succeed(*CORPUS["build"], directory=directory)
    built = json.loads((directory / "corpus" / "manifest.json").read_text())
    built["plan"]["files"] = CORPUS["corpus"]["plan"]["files"]  # the files' times are in it
    assert differences(CORPUS["corpus"], built, tolerance=0, more=True) == []


def test_a_corpus_opens(tmp_path: Path) -> None:
    directory = workplace(tmp_path, "corpus")
    shown = succeed("data", "inspect", "corpus", "--samples", "2", directory=directory)
    assert CORPUS["corpus"]["fingerprint"] in shown
    for domain in CORPUS["corpus"]["counts"]:
        for count in domain.values():
            assert f"{count['tokens']:,}" in shown


def test_a_selection_is_made_and_applied(tmp_path: Path) -> None:
    directory = workplace(tmp_path, "corpus")
    succeed("data", "select", "random", "corpus", "again.jsonl", "--keep", "0.5", directory=directory)
    assert (directory / "again.jsonl").read_bytes() == (V0_1 / "half.jsonl").read_bytes()
    shutil.copy(V0_1 / "half.jsonl", directory)
    assert CORPUS["half"]["fingerprint"] in succeed("data", "apply", "half.jsonl", "half", directory=directory)
    applied = json.loads((directory / "half" / "manifest.json").read_text())
    assert differences(CORPUS["half"], applied, tolerance=0, more=True) == []


# ---- studies ----


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A user's directory with the frozen study, finished, without its checkpoints."""
    return workplace(tmp_path, "corpus", "study")


def test_status_of_a_study(study: Path) -> None:
    """Nodes are found by their identities; nothing is left to train."""
    shown = succeed("study", "status", "study.py", directory=study)
    rows = {cells[2]: cells for cells in map(table_cells, shown.splitlines()) if len(cells) > 5}
    for line in (V0_1 / "study" / "status.txt").read_text().splitlines():
        cells = table_cells(line)
        if len(cells) > 5 and "/" in cells[4]:
            assert rows[cells[2]] == cells
    assert len(rows) >= 6
    assert succeed("study", "export", "study.py", directory=study) == ""


def table_cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.replace("┃", "│").split("│")]


def test_report_of_a_study(study: Path) -> None:
    outcome = run("study", "report", "study.py", directory=study)
    assert outcome.status == 0, outcome.stderr
    verdict = (V0_1 / "study" / "verdict.txt").read_text()
    assert len(numbers(verdict)) >= 4
    said = "\n".join(line for line in outcome.stderr.splitlines() if "interval" in line)
    assert differences(numbers(verdict), numbers(said)) == []
    out = study / "runs" / "rates"
    frozen, results = read_csv(V0_1 / "study" / "results.csv"), read_csv(out / "results.csv")
    # Brackets of two or three runs were bootstraps, too narrow by a factor of four; now they are Student's t.
    for row in frozen:
        for name in ("speedup_low", "speedup_high", "area_low", "area_high"):
            row.pop(name)
    assert differences(frozen, results, tolerance=1e-6, more=True) == []
    assert "<html" in (out / "report.html").read_text()


def test_table_of_runs(study: Path) -> None:
    succeed("runs", "table", "runs/rates", "--final", "--out", "table.csv", directory=study)
    frozen = read_csv(V0_1 / "study" / "table.csv")
    assert len(frozen) >= 4
    assert differences(frozen, read_csv(study / "table.csv"), tolerance=1e-9, more=True) == []


# ---- fits ----


@pytest.fixture
def fits(tmp_path: Path) -> Path:
    shutil.copytree(V0_1 / "fit", tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.mark.parametrize("said", load("fit/predictions.json"), ids=lambda said: " ".join(said["words"][:2]))
def test_saved_fits_predict(said: dict[str, Any], fits: Path) -> None:
    stdout = succeed("fit", *said["words"], directory=fits)
    # The intervals of a run follow on lines of their own since then.
    first_lines = "\n".join(stdout.splitlines()[: len(said["stdout"].splitlines())])
    assert [line.split()[0] for line in first_lines.splitlines()] == [
        line.split()[0] for line in said["stdout"].splitlines()
    ]
    assert numbers(said["stdout"])
    assert differences(numbers(said["stdout"]), numbers(first_lines)) == []


@pytest.mark.parametrize("law", ["chinchilla", "mixing:web,code"])
def test_tables_are_fitted_again(law: str, fits: Path) -> None:
    name = law.partition(":")[0]
    options = ["--starts", "5", "--bootstraps", "0", "--out", "again.json"]
    succeed("fit", law, f"{name}.csv", *options, directory=fits)
    frozen, again = (json.loads((fits / file).read_text()) for file in (f"{name}.json", "again.json"))
    assert frozen.keys() - again.keys() == set()
    assert [p["name"] for p in frozen["parameters"]] == [p["name"] for p in again["parameters"]]
    said = next(said for said in load("fit/predictions.json") if said["words"][1] == f"{name}.json")
    predicted = succeed("fit", "predict", "again.json", *said["words"][2:], directory=fits)
    assert differences(numbers(said["stdout"])[:1], numbers(predicted)[:1], tolerance=1e-3) == []


def test_a_table_of_runs_is_read_by_a_fit(fits: Path) -> None:
    shutil.copy(V0_1 / "study" / "table.csv", fits)
    succeed("fit", "power", "table.csv", "x=C", "y=L", "--starts", "2", "--bootstraps", "0", directory=fits)
    assert (fits / "power.json").is_file()
