"""Corpora that a recipe's file says how to build: built for shipped recipes, otherwise a sentence with the command."""

import subprocess
import sys
from pathlib import Path

import pytest

from helpers.invoke import invoke
from pathways_lite.cli import recipe_corpora
from pathways_lite.cli.recipe_corpora import require_corpora
from pathways_lite.errors import UserError

DEMO = Path(__file__).parents[2] / "configs" / "demo.py"
COMMAND = "pathways-lite data build corpora/python python: --tokenizer sentencepiece:4096 --held-out 0.03"


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that are run, in an empty folder."""
    commands: list[list[str]] = []

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recipe_corpora.subprocess, "run", run)
    return commands


def test_a_shipped_recipes_corpus_is_built(started: list[list[str]], capfd: pytest.CaptureFixture) -> None:
    require_corpora(DEMO, ["corpora/python", "corpora/python"], build=True)
    assert started == [[sys.executable, "-m", "pathways_lite", *COMMAND.split()[1:]]]
    assert f"corpora/python is not there yet, and is built first: {COMMAND}" in capfd.readouterr().err


def test_a_corpus_that_is_there_is_taken(started: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "corpora" / "python").mkdir(parents=True)
    (tmp_path / "corpora" / "python" / "manifest.json").write_text("{}")
    require_corpora(DEMO, ["corpora/python"], build=True)
    assert started == []


def test_a_file_of_ones_own_is_only_quoted(started: list[list[str]], tmp_path: Path) -> None:
    own = tmp_path / "mine.py"
    own.write_bytes(DEMO.read_bytes())
    with pytest.raises(UserError) as error:
        require_corpora(own, ["corpora/python"], build=True)
    assert str(error.value) == f"corpora/python is not a token store yet; build it as mine.py says: {COMMAND}"
    require_corpora(own, ["corpora/other", "gs://bucket/corpus", ""], build=True)  # those who open them tell
    assert started == []


@pytest.mark.parametrize(("name", "corpus"), [("novels", "corpora/novels"), ("smollm2_grow", "corpora/smollm2")])
def test_what_needs_more_than_python_is_not_begun(started: list[list[str]], name: str, corpus: str) -> None:
    with pytest.raises(UserError, match=f"build it as {name}.py says: pathways-lite data build {corpus}"):
        require_corpora(DEMO.with_name(f"{name}.py"), [corpus], build=True)
    assert started == []


def test_dry_runs_and_plans_build_nothing(started: list[list[str]]) -> None:
    for words in (["train", "demo", "--dry-run"], ["study", "plan", "studies/ul2r"]):
        with pytest.raises(UserError, match=r"build it as \w+.py says: pathways-lite data build"):
            invoke(*words)
    assert started == []
