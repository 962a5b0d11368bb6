"""Every command on a tiny run; a user's mistake is a sentence and exit status 2."""

import json
import re
import sys
from pathlib import Path

import pytest

from helpers.invoke import invoke
from pathways_lite.cli import main as command_line
from pathways_lite.data.store import open_store
from pathways_lite.errors import UserError

ROOT = Path(__file__).parent.parent.parent
COMMANDS = ["train", "plan", "evaluate", "generate", "runs", "tasks", "study", "fit", "inspect", "fsck", "report"]

METHODS = ["prototypes", "perplexity", "rds", "clusters", "near-duplicates", "random"]
DATA_COMMANDS = [["data", command] for command in ("build", "inspect", "apply")] + [
    ["data", "select", m] for m in METHODS
]


@pytest.fixture(scope="module")
def runs_directory(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds one finished run, `tiny`."""
    directory = tmp_path_factory.mktemp("runs")
    assert invoke("train", recipe_file, "--out", directory / "tiny").exit_code == 0
    return directory


# ---- help ----


@pytest.mark.parametrize("words", [[], *([command] for command in COMMANDS), *DATA_COMMANDS])
def test_help_teaches(words: list[str]) -> None:
    result = invoke(*words, "--help")
    assert result.exit_code == 0
    assert not words or "pathways-lite " in result.output  # an example


def test_help_needs_no_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    """Help and completion must be fast."""
    loaded = [name for name in sys.modules if name == "jax" or name.startswith("jax.")]
    for name in loaded:
        monkeypatch.delitem(sys.modules, name)
    invoke("--help")
    assert "jax" not in sys.modules


# ---- commands ----


def test_train_leaves_a_run_with_page_and_pictures(runs_directory: Path) -> None:
    run = runs_directory / "tiny"
    assert "<html" in (run / "report.html").read_text()
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert list((run / "base" / "tensorboard").iterdir())
    assert json.loads((run / "base" / "summary.json").read_text())["samples"][0]["text"]


def test_train_dry_run_touches_nothing(recipe_file: Path, tmp_path: Path) -> None:
    result = invoke("train", recipe_file, "stages.base.budget=7 steps", "--dry-run", "--out", tmp_path / "run")
    assert "7 steps" in result.output
    assert not (tmp_path / "run").exists()


def test_runs_lists_state(runs_directory: Path) -> None:
    result = invoke("runs", runs_directory)
    assert "tiny" in result.output
    assert "done" in result.output
    row = json.loads(invoke("runs", runs_directory, "--json").output)
    assert (row["stage"], row["step"], row["total_steps"], row["state"]) == ("base", 12, 12, "done")
    assert set(row["bits_per_byte"]) == {"poems", "tales"}


def test_without_runs_the_list_says_how_to_make_one(tmp_path: Path) -> None:
    assert "pathways-lite train" in invoke("runs", tmp_path).output


def test_evaluate_gives_what_training_logged(runs_directory: Path) -> None:
    run = runs_directory / "tiny"
    result = json.loads(invoke("evaluate", run, "--json").stdout)
    logged = json.loads((run / "base" / "summary.json").read_text())["domains"]
    for domain, values in logged.items():
        assert result["domains"][domain]["nll"] == pytest.approx(values["nll"], rel=1e-6)
        assert result["compressors"][domain]["xz -9"] > 0
    assert "bits/byte" in invoke("evaluate", run).stdout


def test_generate_is_deterministic(runs_directory: Path) -> None:
    arguments = ("generate", runs_directory / "tiny", "--prompt", "the ", "--max-tokens", "8")
    first = invoke(*arguments).stdout
    assert first.startswith("the ")
    assert invoke(*arguments).stdout == first
    assert invoke(*arguments, "--seed", "1").stdout != first


def test_inspect_shows_arrays_ledger_and_lineage(runs_directory: Path) -> None:
    output = invoke("inspect", runs_directory / "tiny").stdout
    for text in ("step 12 of 12", "embedding", "float32[257,32]", "goodput", "identity", "sequence 0"):
        assert text in output
    manifest = json.loads(invoke("inspect", runs_directory / "tiny", "--json").stdout)
    assert manifest["arrays"]["params.embedding"]["shape"] == [257, 32]


def test_fsck_finds_a_flipped_bit(runs_directory: Path, tmp_path: Path) -> None:
    import shutil

    run = shutil.copytree(runs_directory / "tiny", tmp_path / "run")
    assert invoke("fsck", run).exit_code == 0
    victim = max((run / "base" / "checkpoints").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    content = bytearray(victim.read_bytes())
    content[7] ^= 4
    victim.write_bytes(content)
    result = invoke("fsck", run)
    assert result.exit_code == 1
    assert "1 damaged" in result.output


def test_report_can_be_written_again(runs_directory: Path) -> None:
    page = runs_directory / "tiny" / "report.html"
    page.unlink()
    assert str(page) in invoke("report", runs_directory / "tiny").output.replace("\n", "")
    assert page.is_file()


def test_data_build_and_inspect(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for i in range(30):
        (tmp_path / "texts" / f"{i}.txt").write_text(f"Text {i} of the collection.\n" * 5)
    (tmp_path / "texts" / "bad.txt").write_bytes(b"\xff\xfe\xff")
    arguments = ("data", "build", tmp_path / "store", f"mine={tmp_path / 'texts'}", "--tokenizer", "bytes")
    assert "mine" in invoke(*arguments, "--workers", "0").output
    output = invoke("data", "inspect", tmp_path / "store", "--samples", "1").output
    assert "of the collection" in output
    assert "bad.txt" in (tmp_path / "store" / "skipped.txt").read_text()


# ---- mistakes ----


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "options"),
    [
        pytest.param("prototypes", ["--k", 4, "--keep", 0.5], marks=pytest.mark.selection),
        ("perplexity", ["--which", "bottom", "--floor", 1, "--keep", 0.5]),
        ("rds", ["--target", "held-out:poems", "--target", "TEXT", "--keep", 0.5]),
        pytest.param("clusters", ["--k", 2], marks=pytest.mark.selection),
    ],
)
def test_data_select_by_a_model(
    method: str, options: list[object], runs_directory: Path, corpus: Path, tmp_path: Path
) -> None:
    """Documents are selected, described, and built into a corpus."""
    (tmp_path / "like.txt").write_text("the river of stone")
    options = [str(tmp_path / "like.txt") if option == "TEXT" else option for option in options]
    out = tmp_path / "chosen.jsonl"
    result = invoke("data", "select", method, corpus, out, "--model", runs_directory / "tiny", *options)
    assert all(text in result.output for text in (method, "FLOPs, to be counted in comparisons", "data apply", "poems"))
    assert (tmp_path / "chosen.png").read_bytes().startswith(b"\x89PNG")
    origin, *lines = map(json.loads, out.read_text().splitlines())
    assert origin["model"]["digest"]
    assert origin["model"]["flops"] > 0
    result = invoke("data", "apply", out, tmp_path / "new")
    assert f"selected by {method}" in result.output
    new, old = open_store(str(tmp_path / "new")), open_store(str(corpus))
    read = sum(new.tokens(domain) for domain in new.domains) / sum(old.tokens(domain) for domain in old.domains)
    assert read == pytest.approx(1 if method == "clusters" else 0.5, abs=0.02)
    assert len(lines) == sum(old.counts(domain).documents for domain in old.domains)
    if method == "clusters":
        assert new.domains == ["poems", "poems.0", "poems.1", "tales", "tales.0", "tales.1"]


@pytest.mark.selection
def test_data_select_without_a_model(corpus: Path, tmp_path: Path) -> None:
    repeated = [
        {"text": text, "id": str(i)} for i, text in enumerate(["the stone in the river " * 9, "night " * 20] * 3)
    ]
    (tmp_path / "repeated.jsonl").write_text("".join(json.dumps(record) + "\n" for record in repeated))
    invoke("data", "build", tmp_path / "old", tmp_path / "repeated.jsonl", "--tokenizer", "bytes", "--held-out", "0")
    distinct, random, again = (tmp_path / f"{name}.jsonl" for name in ("distinct", "random", "again"))
    invoke("data", "select", "near-duplicates", tmp_path / "old", distinct)
    invoke("data", "apply", distinct, tmp_path / "new")
    assert open_store(str(tmp_path / "new")).document_ids("repeated") == ["0", "1"]
    for out in (random, again):
        invoke("data", "select", "random", tmp_path / "old", out)
    assert random.read_bytes() == again.read_bytes()
    for keep in ("0", "1e-7"):
        with pytest.raises(UserError, match="nothing would be kept; use --keep 0"):
            invoke("data", "select", "random", tmp_path / "old", tmp_path / "none.jsonl", "--keep", keep)
    with pytest.raises(UserError, match="nothing would be kept"):  # before the model is looked for
        invoke("data", "select", "perplexity", tmp_path / "old", tmp_path / "none.jsonl", "--model", "x", "--keep", "0")
    assert not (tmp_path / "none.jsonl").exists()
    with pytest.raises(UserError, match="name the right corpus"):
        invoke("data", "apply", random, tmp_path / "other", "--corpus", corpus)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nothing.py"], "no recipe at nothing.py"),
        (["evaluate", "nothing"], "no checkpoint in nothing"),
        (["generate", "nothing"], "no checkpoint in nothing"),
        (["generate", "nothing", "--prompt", "a", "--infill", "b <mask>"], "leave out --prompt"),
        (["inspect", "nothing"], "no checkpoint in nothing"),
        (["fsck", "nothing"], "no checkpoint in nothing"),
        (["report", "nothing"], "is not a run directory"),
        (["data", "inspect", "nothing"], "not a token store"),
        (["data", "build", "out", "nothing"], "no such file or directory"),
        (["train", str(ROOT / "configs" / "demo.py"), "stages.base.modle.d_model=3"], "Did you mean 'model'"),
    ],
)
def test_a_mistake_is_a_sentence_and_status_2(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pathways-lite", *arguments])
    with pytest.raises(SystemExit) as exit_:
        command_line.main()
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert message in error.replace("\n", " ")
    assert "Traceback" not in error


def test_brackets_in_messages_are_not_markup(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def fail() -> None:
        raise UserError("stages[0] is [bold]wrong[/bold]")

    monkeypatch.setattr(command_line, "app", fail)
    with pytest.raises(SystemExit):
        command_line.main()
    assert "stages[0] is [bold]wrong[/bold]" in capsys.readouterr().err


# ---- the README ----


def test_the_readme_names_every_verb_and_its_recipe_is_valid(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    named = set(re.findall(r"`pathways-lite (data [\w-]+|\w+)", readme))
    assert named >= {*COMMANDS, "data build", "data inspect"}
    for command in named:
        assert invoke(*command.split(), "--help").exit_code == 0
    for code in re.findall(r"```python\n(.*?)```", readme, re.DOTALL):
        scope: dict = {}
        exec(code, scope)
        assert scope["recipe"]().stages
    for target in re.findall(r"(?<!tasks )\bmake ([\w-]+)", readme):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text()
