"""Every command of docs/first_run.md works as it stands there, with the recipe of the page, made smaller."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from helpers.run_helpers import compile_once, stub_slow_parts
from pathways_lite.cli import train as train_command
from pathways_lite.cli.main import app

PAGE = (Path(__file__).parents[3] / "docs" / "first_run.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = [line for language, block in BLOCKS if not language for line in block.splitlines()]
SMALLER = {
    "d_model=128, n_layers=4, n_heads=4": "d_model=32, n_layers=1, n_heads=1",
    "d_ff=512": "d_ff=32",
    "seq_len=128": "seq_len=32",
    "200k tokens": "2k tokens",
    "every=100": "every=4, tokens=64",
}


@pytest.mark.slow
def test_every_command_of_the_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    compile_once(monkeypatch)
    stub_slow_parts(monkeypatch)
    monkeypatch.setattr(train_command, "_exit_now", pytest.fail)
    notes = tmp_path / "notes"
    notes.mkdir()
    for number in range(12):
        (notes / f"{number}.txt").write_text(f"The note {number} says what was seen on day {number}. " * 20)
    (recipe,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    for old, new in SMALLER.items():
        assert old in recipe
        recipe = recipe.replace(old, new)
    (tmp_path / "mine.py").write_text(recipe)
    assert len(COMMANDS) == 13
    for command in COMMANDS:
        program, *words = shlex.split(command)
        assert program == "pathways-lite"
        result = CliRunner().invoke(app, words, catch_exceptions=False)
        assert result.exit_code == 0, f"{command}: {result.output}"
        if command == "pathways-lite runs":
            assert "8/8" in result.output
            assert "done" in result.output
