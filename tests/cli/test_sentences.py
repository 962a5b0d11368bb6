"""Sentences for commands that cannot work say what to type instead."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from helpers.invoke import invoke
from pathways_lite.cli import argument_order, common
from pathways_lite.cli.argument_order import require_order
from pathways_lite.cli.main import app
from pathways_lite.data.build import build
from pathways_lite.errors import UserError
from pathways_lite.tasks import problem_file

RECIPE = """
from pathways_lite.recipe import *
def recipe(NAMES):
    model = Model(d_model=8, n_layers=1, n_heads=1, head_dim=8, d_ff=8, vocab_size=257)
    data = Data(corpus="corpora/two", seq_len=8)
    return Recipe(name="tiny", stages=(Stage(name="base", model=model, data=data, optimizer=AdamW(), batch_size=8,
                                             budget="3 steps"),))
"""
STUDY = RECIPE.replace("NAMES", "arm, seed") + "\ndef study():\n    return None\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Has a corpus, a directory of texts, problems, a recipe, a study and what looks like a run."""
    place = tmp_path_factory.mktemp("place")
    (place / "texts").mkdir()
    (place / "texts" / "peps-0009.txt").write_text("a text\n" * 20)
    (place / "texts" / "other.txt").write_text("another text\n" * 20)
    build([str(place / "texts")], place / "corpora" / "two", tokenizer="bytes", workers=0)
    (place / "tasks" / "sum").mkdir(parents=True)
    (place / "tasks" / "sum" / "problems.jsonl").write_text('{"id": "a", "prompt": "1+1=", "answer": "2"}\n')
    (place / "tiny.py").write_text(RECIPE.replace("NAMES", ""))
    (place / "astudy.py").write_text(STUDY)
    (place / "run").mkdir()
    (place / "run" / "recipe.json").write_text("{}")
    (place / "table.csv").write_text("N,D,L\n1e6,2e7,4.1\n2e6,4e7,3.8\n4e6,8e7,3.5\n")
    return place


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("train tiny.py a=b --dry-run", "has no field 'a'. There are: name, seed, stages. Those of a stage"),
        ("train tiny.py a=b --dry-run", "e.g. stages.base."),
        ("train tiny.py stages.base.batch_size=8k", "a whole number or Ramp {\"steps\": [[0, 512], [50000, 1024]]}"),
        ("train tiny.py stages.base.batch_size=8k", "not '8k'; write 8192, or 8000"),
        ("train astudy.py", "astudy.py is a study, not a recipe; train it by: pathways-lite study run astudy.py"),
        ("study run tiny.py", "tiny.py is a recipe, not a study; train it by: pathways-lite train tiny.py"),
        ("evaluate tiny.py", "tiny.py is a Python file, and a run is wanted"),
        ("generate tiny.py", "that `pathways-lite train tiny.py` makes"),
        ("inspect astudy.py", "that `pathways-lite study run astudy.py` makes"),
        ("data inspect corpora/tow", "Did you mean 'corpora/two'?"),
        ("data build corpora/x texts --tokenizer corpora/tow", "Did you mean 'corpora/two'?"),
        ("data build corpora/x texts --tokenizer sentencepeice:1024", "Did you mean 'sentencepiece:1024'?"),
        ("data build corpora/x texts --tokenizer byts", "Did you mean 'bytes'?"),
        ("sample run tasks --out samples", "there is no problems.jsonl in tasks; .* Did you mean 'tasks/sum'?"),
        ("tasks check taks/sum", "there is no file of problems taks/sum; .* Did you mean 'tasks/sum'?"),
        ("data build corpora textz", "textz: no such file or directory; .* Did you mean 'texts'?"),
        ("data build corpora/twos corpora/two", "corpora/two is a token store, not text"),
        ("fit chinchila table.csv", "there is no law 'chinchila'. Did you mean 'chinchilla'?"),
        ("fit tokens table.csv L=l", "table.csv has no column 'l'. Did you mean 'L'? There are: D, L, N"),
    ],
)  # fmt: skip
def test_what_to_type_instead(command: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        invoke(*command.split())
    assert re.search(re.escape(sentence).replace(r"\.\*", ".*"), str(caught.value))


@pytest.mark.parametrize(
    ("command", "right"),
    [
        ("data build texts corpora/two --tokenizer bytes", "data build corpora/two texts --tokenizer bytes"),
        ("data build texts corpora/new", "data build corpora/new texts"),
        ("data who-read other.txt ./run --tokens 0:3", "data who-read ./run other.txt --tokens 0:3"),
        ("convert out run --to hf", "convert run out --to hf"),
        ("sample tasks/sum run --out samples", "sample run tasks/sum --out samples"),
        ("grow grown run --operator stack", "grow run grown --operator stack"),
        ("merge run merged", "merge merged run"),
        ("tasks make out/sums sum", "tasks make sum out/sums"),
        ("fit table.csv tokens", "fit tokens table.csv"),
    ],
)
def test_swapped_arguments_are_put_right(command: str, right: str) -> None:
    with pytest.raises(UserError) as caught:
        invoke(*command.split())
    assert str(caught.value).endswith(f"the order of the two seems to be swapped. Write: pathways-lite {right}")


def test_arguments_in_order_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(argument_order, "_words", ["a", "b"])
    for first, second in (("run", "run"), ("run", "out"), ("out", "other")):
        require_order(first, second, "a run", argument_order.is_run)


def test_the_names_of_a_choice_and_of_an_option_are_suggested() -> None:
    def output(*words: str) -> str:
        result = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
        assert result.exit_code == 2
        return re.sub(r"[│\s]+", " ", result.output)

    wrong = output("convert", "run", "out", "--quantize", "gtpq")
    assert "'gtpq' is not one of 'nearest', 'gptq'. Did you mean 'gptq'?" in wrong
    assert "Value error" not in wrong
    assert "Invalid value for '--rows': a whole number is expected, e.g. 16" in output(
        "data", "batch", "run", "--step", "1", "--rows", "many"
    )
    assert "'--temperature': a number is expected, e.g. 0.5" in output("generate", "run", "--temperature", "warm")


GENERATE = "pathways-lite generate run"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["generate", "run", "def", "f("],
            f"is left over. Did you mean --prompt? .* Write: {GENERATE} --prompt 'def f('",
        ),
        (["generate", "run", "nlg"], f"Did you mean --mode? Write: {GENERATE} --mode nlg"),
        (["generate", "run", "64", "--max-tokens", "9"], f"Also .* Write: {GENERATE} --max-tokens 9 --temperature 64"),
        (
            ["data", "batch", "run", "30"],
            "data batch takes PATH alone, and '30' is left over. Did you mean --step? Also",
        ),
        (["data", "batch", "run", "30"], "Write: pathways-lite data batch run --step 30"),
        (["sample", "run", "tasks/sum", "here"], "needs --out: directory for the samples. Did you mean --out? Write: "),
        (["sample", "run", "tasks/sum", "here"], "Write: pathways-lite sample run tasks/sum --out here"),
        (["sample", "run"], "needs PROBLEMS: a file of problems, .* Write: pathways-lite sample run PROBLEMS"),
        (
            ["fsck", "run", "other"],
            "takes PATH alone, and 'other' is left over. pathways-lite fsck --help lists its options",
        ),
        (["generate", "run", "--promt", "x"], "pathways-lite generate has no option --promt. Did you mean '--prompt'?"),
        (["generate", "run", "--nothing"], "has no option --nothing. There are: --prompt, --prompts, "),
        (["train", "tiny.py", "--dry-rnu"], "Did you mean '--dry-run'?"),
        (["train", "tiny.py", "--set", "a=b"], "given without an option, e.g. stages.base.batch_size=32"),
        (["trian", "tiny.py"], "pathways-lite has no command 'trian'. Did you mean 'train'? There are: train, "),
        (["batch", "run"], "has no command 'batch'. Did you mean 'pathways-lite data batch'?"),
        (["runs", "delte", "run"], "pathways-lite runs has no command 'delte'. Did you mean 'delete'?"),
        (["--verison"], "pathways-lite has no option --verison. Did you mean '--version'?"),
    ],
)
def test_what_the_parser_refuses_is_put_right(words: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        invoke(*words)
    assert re.search(re.escape(sentence).replace(r"\.\*", ".*"), str(caught.value))


def test_the_same_line_of_progress_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([100.0, 106.0, 112.0, 118.0, 124.0])
    monkeypatch.setattr(common.time, "monotonic", lambda: next(clock))
    with common.count_progress("evaluating", 64, "items") as advance:
        for count in (0, 0, 0, 32):
            advance(count)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["evaluating: 0 of 64 items", "evaluating: 32 of 64 items"]


def test_documents_that_a_name_may_mean_are_named(place: Path) -> None:
    from pathways_lite.data.reading import find_document
    from pathways_lite.data.store import open_store

    store = open_store(str(place / "corpora" / "two"))
    ids = store.document_ids("texts")
    with pytest.raises(UserError, match=rf"has no document 'PEPS'.* Alike are: .*peps-0009|Ids are such as: {ids[0]}"):
        find_document(store, "PEPS")
    with pytest.raises(UserError, match=r"has no document 'text#0'.* Did you mean 'texts#0'\? There are: texts#0"):
        find_document(store, "text#0")


def test_a_directory_of_problems_is_a_file_of_problems(place: Path) -> None:
    assert problem_file(Path("tasks/sum")) == problem_file(Path("tasks/sum/problems.jsonl"))


@pytest.mark.parametrize(
    "words", [["chinchila", "table.csv"], ["chinchilla", "table.csv"], ["tokens", "table.csv", "L=loss"]]
)
def test_fits_are_refused_before_what_takes_long_is_imported(place: Path, words: list[str]) -> None:
    program = (
        "import sys\n"
        "from pathways_lite.cli.main import app\n"
        "from pathways_lite.errors import UserError\n"
        "try:\n"
        f"    app(['fit', *{words!r}])\n"
        "except UserError as error:\n"
        "    print(sorted({'scipy.stats', 'scipy.optimize', 'matplotlib'} & sys.modules.keys()))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=place, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("times", "lines"),
    [
        ([100.0, 103.0, 106.0, 110.0], ["sampling: 40 samples", "sampling: 8 of 40 samples, about 24 s left"]),
        # What comes before the first samples, as compiling, tells nothing about the others.
        (
            [100.0, 120.0, 126.0, 127.0],
            ["sampling: 40 samples", "sampling: 4 of 40 samples", "sampling: 8 of 40 samples, about 48 s left"],
        ),
    ],
)
def test_progress_says_how_long_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], times: list[float], lines: list[str]
) -> None:
    clock = iter(times)
    monkeypatch.setattr(common.time, "monotonic", lambda: next(clock))
    with common.count_progress("sampling", 40, "samples", since=90.0) as advance:
        for _ in range(3):
            advance(4)
    assert capsys.readouterr().err.splitlines() == lines
