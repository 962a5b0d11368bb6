"""What a run was started with is recorded, and two starts are compared by it."""

import subprocess
from pathlib import Path

import pytest

from pathways_lite import provenance
from pathways_lite.provenance import describe_provenance, gather_provenance, provenance_differences

DEVICE = {"platform": "cpu", "kind": "cpu", "count": 8, "processes": 2}


def git(directory: Path, *arguments: str) -> str:
    settings = ["-c", "user.name=n", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    command = ["git", *settings, "-C", str(directory), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with a recipe, one commit."""
    root = tmp_path / "work"
    root.mkdir()
    git(root, "init", "-q")
    (root / "recipe.py").write_text("budget = 1\n")
    git(root, "add", "recipe.py")
    git(root, "commit", "-q", "-m", "first")
    return root


def test_commit_and_changes_of_the_users_repository(repository: Path) -> None:
    clean = gather_provenance(repository, DEVICE)["git"]
    assert clean == {"root": str(repository), "commit": git(repository, "rev-parse", "HEAD"), "dirty": False}
    (repository / "notes.txt").write_text("not tracked\n")
    assert gather_provenance(repository, DEVICE)["git"] == clean
    changes = []
    for text in ("budget = 2\n", "budget = 3\n", "budget = 2\n"):
        (repository / "recipe.py").write_text(text)
        changed = gather_provenance(repository, DEVICE)["git"]
        assert (changed["commit"], changed["dirty"], changed["changed_files"]) == (clean["commit"], True, ["recipe.py"])
        changes.append(changed["changes"])
    assert changes[0] == changes[2] != changes[1]


def test_a_recipe_that_git_does_not_track_is_named_with_its_digest(repository: Path) -> None:
    tracked = gather_provenance(repository / "recipe.py", DEVICE)["recipe_file"]
    assert tracked["tracked"] is True
    (repository / "mine.py").write_text("budget = 1\n")
    mine = gather_provenance(repository / "mine.py", DEVICE)
    assert mine["recipe_file"] == {"path": str(repository / "mine.py"), "digest": tracked["digest"], "tracked": False}
    (repository / "mine.py").write_text("budget = 2\n")
    assert gather_provenance(repository / "mine.py", DEVICE)["recipe_file"]["digest"] != tracked["digest"]
    lines = dict(describe_provenance(mine))
    assert lines["recipe file"] == f"{repository}/mine.py, which git does not track (digest {tracked['digest']})"
    assert "recipe_file" not in gather_provenance(repository, DEVICE)


def test_outside_of_a_repository_there_is_no_commit(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The working directory stands in for a recipe that is in none, as the recipes of a study's nodes may be."""
    outside = tmp_path / "outside"
    outside.mkdir()
    monkeypatch.chdir(outside)
    assert "git" not in gather_provenance(outside, DEVICE)
    monkeypatch.chdir(repository)
    assert gather_provenance(outside, DEVICE)["git"]["root"] == str(repository)
    monkeypatch.setenv("PATH", "")
    assert "git" not in gather_provenance(repository, DEVICE)


def test_a_package_inside_of_a_users_repository_is_not_a_checkout(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment in the user's directory is not what the user's commit holds."""
    installed = repository / ".venv" / "provenance.py"
    installed.parent.mkdir()
    installed.write_text("")
    monkeypatch.setattr(provenance, "__file__", str(installed))
    assert set(gather_provenance(repository, DEVICE)["package"]) == {"version"}
    git(repository, "add", "-f", ".venv")
    git(repository, "commit", "-q", "-m", "second")
    assert gather_provenance(repository, DEVICE)["package"]["dirty"] is False


def test_environment_command_host_and_device_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["pathways-lite", "train", "my recipe.py"])
    gathered = gather_provenance(tmp_path, DEVICE)
    assert gathered["command"] == "pathways-lite train 'my recipe.py'"
    assert gathered["device"] == DEVICE
    assert {"digest", "packages", "python", "jax", "jaxlib", "optax"} <= set(gathered["environment"])
    text = dict(describe_provenance(gathered))
    assert text["device"] == "8 x cpu (cpu) in 2 processes"
    assert gathered["host"] in text["host"]
    assert f"digest {gathered['environment']['digest']}" in text["environment"]


def test_another_version_of_any_package_is_another_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = []
    for version in ("1.0", "1.1", "1.0"):
        monkeypatch.setattr(provenance, "_versions", lambda version=version: {"something": version})
        digests.append(gather_provenance(tmp_path, DEVICE)["environment"]["digest"])
    assert digests[0] == digests[2] != digests[1]


def test_differences_leave_out_what_differs_between_any_two_starts() -> None:
    one = {"time": "1", "command": "a", "host": "x", "git": {"commit": "c", "root": "/a"}, "environment": {"jax": "1"}}
    other = {
        "time": "2",
        "command": "b",
        "host": "y",
        "git": {"commit": "c", "root": "/b"},
        "environment": {"jax": "2"},
    }
    assert provenance_differences([one, other]) == {"host": ["x", "y"], "environment.jax": ["1", "2"]}
    assert provenance_differences([one, one]) == {}
    assert provenance_differences([one, {}])["host"] == ["x", None]


def test_what_is_not_recorded_is_not_described() -> None:
    assert describe_provenance({}) == []
