"""Sentences about paths that do not exist name the one that was meant."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pathways_lite.cli.main import app
from pathways_lite.errors import UserError, closest_names, did_you_mean, explain_system_error, similar_path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for directory in ("runs/mine", "corpora/mine", "samples/sums", "tasks/sums", "two"):
        (tmp_path / directory).mkdir(parents=True)
    for file in ("mine.py", "study.py", "table.csv", "tasks/sums/problems.jsonl", "model.gguf"):
        (tmp_path / file).write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("runs/mien", "runs/mine"),
        ("run/mine", "runs/mine"),
        ("tow", "two"),
        ("tasks/sum/problems.jsonl", "tasks/sums/problems.jsonl"),
    ],
)
def test_one_name_of_a_path_may_be_wrong(place: Path, written: str, meant: str) -> None:
    assert similar_path(written) == f". Did you mean {meant!r}?"
    assert similar_path(place / written) == f". Did you mean {str(place / meant)!r}?"


@pytest.mark.parametrize("path", ["runs/mine", "runs/other_thing", "run/mine/base", "gs://bucket/mine"])
def test_otherwise_nothing_is_suggested(place: Path, path: str) -> None:
    assert not similar_path(path)


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        ("data inspect corpora/mien", "corpora/mine"),
        ("data build out mine.pyy --tokenizer bytes", "mine.py"),
        ("evaluate runs/mien", "runs/mine"),
        ("fsck runs/mien", "runs/mine"),
        ("report runs/mien", "runs/mine"),
        ("runs runs/mien", "runs/mine"),
        ("runs compare runs/mien runs/mien", "runs/mine"),
        ("runs delete runs/mien", "runs/mine"),
        ("runs table runs/mien", "runs/mine"),
        ("train runs/mien", "runs/mine"),
        ("train mien.py", "mine.py"),
        ("study plan studdy.py", "study.py"),
        ("fit chinchilla tabel.csv", "table.csv"),
        ("judge samples/sum", "samples/sums"),
        ("tasks check tasks/sumss/problems.jsonl", "tasks/sums/problems.jsonl"),
        ("convert modell.gguf out --from gguf", "model.gguf"),
    ],
)
def test_every_kind_of_path(place: Path, command: str, meant: str) -> None:
    error = CliRunner().invoke(app, command.split()).exception
    assert isinstance(error, UserError)
    assert f"Did you mean {meant!r}?" in str(error)
    assert explain_system_error(error) is error


def test_a_similar_name_and_all_names_are_told() -> None:
    names = ["adamw", "lion", "SGD"]
    assert did_you_mean("adamm", names) == " Did you mean 'adamw'? There are: adamw, lion, SGD"
    assert did_you_mean("sgd", names, listed=False) == " Did you mean 'SGD'?"
    assert did_you_mean("zzz", names) == " There are: adamw, lion, SGD"
    assert did_you_mean("zzz", names, listed=False) == did_you_mean("zzz", []) == ""
    assert did_you_mean("lr", names, meant="learning_rate", listed=False) == " Did you mean 'learning_rate'?"


def test_the_most_similar_names_come_first() -> None:
    assert closest_names("two letters", ["tow leters", "two letter", "other"], 3) == ["two letter", "tow leters"]
