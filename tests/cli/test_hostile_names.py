"""Names and texts from data that are markup or escape sequences: commands work, and show them as text."""

import json
import re
import shutil
import xml.etree.ElementTree as ET
from html import unescape
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pathways_lite.cli.main import app
from pathways_lite.data.build import build
from pathways_lite.errors import UserError
from pathways_lite.recipe import load_recipe
from pathways_lite.run_lock import FILE_NAME, Owner
from pathways_lite.training.run import train_run

DOMAINS = ["[/b]x", "\x1b]0;title\x07\x1b[2J", "a$\\frac$ <mask> _"]
RECIPE = """
from pathways_lite.recipe import *


def recipe():
    model = Model(d_model=16, n_layers=1, n_heads=1, head_dim=16, d_ff=16, vocab_size=257, dtype="float32")
    stage = Stage(
        model=model, data=Data(corpus={corpus!r}, seq_len=32), optimizer=AdamW(), batch_size=2, budget="2 steps",
        evaluation=Evaluation(every=1, tokens=200), log_every=1,
    )
    return Recipe(name="hostile", stages=(stage,))
"""


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def require_harmless(text: str) -> None:
    """Raise AssertionError if the text could do anything to a terminal."""
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", text), ascii(text)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    text = "[red]words[/] \x1b[31m of a tale <mask> :smile:\x07 " * 8
    records = [{"text": text + str(i), "domain": DOMAINS[i % 3], "id": f"\x1b[2J{i}"} for i in range(60)]
    (root / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    build([str(root / "a.jsonl")], root / "store", tokenizer="bytes", held_out=0.3, workers=0)
    return root / "store"


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "hostile"
    (directory.parent / "hostile.py").write_text(RECIPE.format(corpus=str(corpus)))
    result = invoke("train", directory.parent / "hostile.py", "--out", directory)
    assert result.exit_code == 0
    require_harmless(result.output)
    assert "[/b]x" in result.output
    return directory


@pytest.mark.parametrize("verb", [["evaluate"], ["inspect"], ["fsck"], ["runs"], ["report"]])
def test_every_command_shows_them_as_text(verb: list[str], run: Path) -> None:
    result = invoke(*verb, run)
    assert result.exit_code == 0
    require_harmless(result.output)
    if verb[0] in ("evaluate", "runs"):
        assert "[/b]x" in result.output
        assert r"\x1b]0;title\x07\x1b[2J" in result.output


def test_corpora_and_their_samples_are_shown_as_text(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "half.jsonl"
    for words in (["data", "inspect", corpus], ["data", "select", "random", corpus, out], ["data", "apply", out, "n"]):
        words = [tmp_path / "new" if word == "n" else word for word in words]
        result = invoke(*words)
        assert result.exit_code == 0
        require_harmless(result.output)
        assert "[/b]x" in result.output
    assert "[red]words[/]" in invoke("data", "inspect", corpus).output


def test_pictures_and_pages_are_well_formed(run: Path) -> None:
    ET.parse(run / "loss.svg")
    page = (run / "report.html").read_text(encoding="utf-8")
    require_harmless(page)
    assert r"\x1b]0;title" in unescape(page)
    for code in re.findall(r"base64,([A-Za-z0-9+/=]+)", page):
        import base64

        ET.fromstring(base64.b64decode(code))


@pytest.mark.parametrize("words", [["generate", "--max-tokens", 20, "--prompt", "\x1b[2J[red]"], ["evaluate"]])
def test_json_holds_them_as_they_are(words: list[object], run: Path) -> None:
    plain = invoke(words[0], run, *words[1:])
    assert plain.exit_code == 0
    require_harmless(plain.output)
    line = invoke(words[0], run, *words[1:], "--json").stdout.strip()
    require_harmless(line)
    values = json.loads(line)
    if words[0] == "generate":
        assert values["samples"][0].startswith("\x1b[2J[red]")
    else:
        assert set(values["domains"]) == set(DOMAINS)


def test_a_command_of_another_owner_is_text(run: Path, tmp_path: Path) -> None:
    """A run that died leaves its command line, which may hold anything."""
    copy = shutil.copytree(run, tmp_path / "copy")
    owner = {**vars(Owner.this_process()), "pid": 2**22 + 1, "command": "x [/nothing] \x1b[2J", "started": "1"}
    (copy / FILE_NAME).write_text(json.dumps(owner))
    result = invoke("train", copy / "recipe.json", "--out", copy)
    assert result.exit_code == 0
    require_harmless(result.output)
    assert "[/nothing]" in result.output


# ---- files after a power cut ----


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b'{"name": "ti'])
def test_an_emptied_recipe_is_told_and_had_again(content: bytes, run: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    copy = shutil.copytree(run, tmp_path / "copy")
    shutil.move(copy / "recipe.json", recipe)
    (copy / "recipe.json").write_bytes(content)
    with pytest.raises(UserError, match="as after a power cut"):
        train_run(load_recipe(recipe), copy)
    assert "recipe.json" in invoke("runs", copy).stderr
    (copy / "recipe.json").unlink()
    assert invoke("train", recipe, "--out", copy).exit_code == 0
    assert (copy / "recipe.json").read_bytes() == recipe.read_bytes()


# ---- all results as JSON ----


@pytest.mark.parametrize(
    "words",
    [
        ["fsck", "RUN"],
        ["report", "RUN"],
        ["inspect", "RUN"],
        ["runs", "RUN"],
        ["runs", "table", "RUN", "--out", "TMP/runs.csv"],
        ["merge", "TMP/merged", "RUN", "RUN"],
        ["grow", "RUN", "TMP/grown", "--factor", "2"],
        ["grow", "RUN", "TMP/grown", "--factor", "2", "--dry-run"],
        ["grow", "--advise", "N=7e9", "D=2e12"],
        ["data", "inspect", "CORPUS"],
        ["data", "select", "random", "CORPUS", "TMP/half.jsonl"],
        ["fit", "laws"],
        ["fit", "advise", "N=1e9", "D=1e11"],
    ],
    ids=" ".join,
)
def test_results_are_one_json_object(words: list[str], run: Path, corpus: Path, tmp_path: Path) -> None:
    places = {"RUN": str(run), "CORPUS": str(corpus)}
    result = invoke(*(places.get(word, word.replace("TMP", str(tmp_path))) for word in words), "--json")
    assert result.exit_code == 0
    (line,) = result.stdout.splitlines()
    assert isinstance(json.loads(line), dict)
