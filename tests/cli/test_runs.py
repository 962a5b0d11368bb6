"""`runs`: every command of docs/runs.md works as it stands there; what is asked, refused and printed."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from helpers.run_helpers import compile_once, run, stub_slow_parts
from pathways_lite.cli.main import app
from pathways_lite.errors import UserError
from pathways_lite.recipe import apply_overrides, load_recipe

PAGE = (Path(__file__).parents[2] / "docs" / "runs.md").read_text()
BLOCKS = re.findall(r"^```\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]


def invoke(*arguments: object, answer: str | None = None) -> Result:
    words = [str(argument) for argument in arguments]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "200"}, input=answer)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def trained(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs of other seeds."""
    directory = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        compile_once(patch)
        stub_slow_parts(patch)
        for name, seed in (("demo", 0), ("other", 1)):
            assert run(apply_overrides(load_recipe(recipe_file), [f"seed={seed}"]), directory / name) == 0
    return directory


@pytest.fixture
def workplace(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with `runs/demo`, `runs/other` and the study `runs/my_study`."""
    shutil.copytree(trained, tmp_path / "runs")
    # The repository of these tests may have changed between the two runs.
    shutil.copy(tmp_path / "runs/demo/history.jsonl", tmp_path / "runs/other/history.jsonl")
    node = tmp_path / "runs" / "my_study" / "nodes" / "aaa"
    shutil.copytree(trained / "demo", node)
    (tmp_path / "runs" / "my_study" / "study.json").write_text(json.dumps({"nodes": {"aaa": {"arms": ["adamw"]}}}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_has_commands() -> None:
    assert len(COMMANDS) > 8


def test_the_commands_of_the_page_work(workplace: Path) -> None:
    for command in COMMANDS:
        program, *words = shlex.split(command)
        assert program == "pathways-lite"
        expected = 1 if words[:2] == ["recipe", "diff"] else 0  # as the page says
        assert invoke(*words).exit_code == expected, command
    assert sorted(path.name for path in Path("runs").iterdir()) == ["demo", "my_study"]


def test_the_list_shows_arm_seed_size_and_age(workplace: Path) -> None:
    output = invoke("runs").stdout
    for text in ("arm", "seed", "adamw", "size", "age", "< 1 min", "done", "the mean since the log row before"):
        assert text in output
    row = json.loads(invoke("runs", "runs/my_study", "--json").stdout)
    assert (row["arm"], row["seed"], row["state"]) == ("adamw", 0, "done")
    assert row["bytes"] > 100_000


def test_comparing_says_what_differs(workplace: Path) -> None:
    output = invoke("runs", "compare", "runs/demo", "runs/other").stdout
    assert re.search(r"seed +│ 0 +│ 1", output)
    assert "provenance: nothing differs" in output
    compared = json.loads(invoke("runs", "compare", "runs/demo", "runs/other", "--json").stdout)
    assert compared["recipe_differences"] == {"seed": [0, 1]}
    assert compared["provenance_differences"] == {}
    history = Path("runs/other/history.jsonl")
    history.write_text(history.read_text().replace('"kind": "cpu"', '"kind": "TPU v9"'))
    assert "TPU v9" in invoke("runs", "compare", "runs/demo", "runs/other").stdout
    history.unlink()
    assert "provenance: not recorded for all runs" in invoke("runs", "compare", "runs/demo", "runs/other").stdout


def test_inspect_and_the_page_show_provenance(workplace: Path) -> None:
    shown = invoke("inspect", "runs/demo").stdout
    for text in ("command", "host", "jaxlib", "packages, digest", "x cpu (cpu)"):
        assert text in shown
    invoke("report", "runs/demo")
    assert "packages, digest" in Path("runs/demo/report.html").read_text()


def test_without_yes_deleting_asks_and_only_yes_deletes(workplace: Path) -> None:
    checkpoints = Path("runs/other/base/checkpoints")
    for answer in ("n\n", "\n", "what?\n"):
        result = invoke("runs", "delete", "runs/other", answer=answer)
        assert result.exit_code == 1
        assert "nothing was deleted" in result.stdout
    with pytest.raises(UserError, match="nobody to ask; add --yes"):
        invoke("runs", "prune", "runs/other", "--keep", "newest 1", answer="")
    with pytest.raises(UserError, match="--json asks no question"):
        invoke("runs", "delete", "runs/other", "--json")
    assert len(list(checkpoints.iterdir())) == 3
    pruned = json.loads(invoke("runs", "prune", "runs/other", "--keep", "newest 1", "--json", "--yes").stdout)
    assert [Path(row["path"]).name for row in pruned["deleted"]] == ["step_00000004", "step_00000008"]
    assert pruned["bytes"] == sum(row["bytes"] for row in pruned["deleted"]) > 0
    assert len(list(checkpoints.iterdir())) == 1
    assert invoke("runs", "prune", "runs/other", "--keep", "newest 1").stdout == "nothing to delete\n"
    assert "1 directory" in invoke("runs", "delete", "runs/other", answer="y\n").stdout
    assert not Path("runs/other").exists()


def test_a_pruned_run_is_still_finished_and_evaluated(workplace: Path) -> None:
    assert invoke("runs", "prune", "runs/demo", "--keep", "newest 1", "--yes").exit_code == 0
    assert invoke("fsck", "runs/demo").exit_code == 0
    assert "done" in invoke("runs", "runs/demo").stdout
