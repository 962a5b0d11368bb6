"""Runs on corpora whose held-out text is unusual: none, one long document, or text that the tokenizer loses."""

import json
import warnings
from io import StringIO
from pathlib import Path

import pytest
import tokenizers as hf
from typer.testing import CliRunner

from pathways_lite.cli.main import app
from pathways_lite.console import Console
from pathways_lite.data.build import build
from pathways_lite.errors import UserError
from pathways_lite.recipe import Recipe, apply_overrides
from pathways_lite.run_directory import RunDirectory
from pathways_lite.tracking.log import read_log
from pathways_lite.tracking.report import write_pages
from pathways_lite.training.run import train_run

TEXT = "the old bridge over the river, and the mill beside it\n"


def train(recipe: Recipe, corpus: Path, out: Path) -> str:
    """Train on a corpus, and return what is printed."""
    printed = StringIO()
    recipe = apply_overrides(recipe, [f"stages.base.data.corpus={corpus}", "stages.base.evaluation.tokens=100"])
    assert train_run(recipe, out, console=Console(file=printed)) == 0
    return printed.getvalue()


def test_without_held_out_text_a_run_says_so_and_shows_no_empty_table(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text(TEXT * 200)
    build([str(tmp_path / "one.txt")], tmp_path / "corpus", tokenizer="bytes", workers=0)
    printed = train(recipe, tmp_path / "corpus", tmp_path / "run")
    assert "Nothing is held out" in printed
    assert "--held-out FILE" in printed
    assert "bits per byte" not in printed
    assert all(row["domains"] == {} for row in read_log(tmp_path / "run/base/log.jsonl") if row["kind"] == "eval")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_pages(tmp_path / "run")
    for command in (["evaluate", str(tmp_path / "run")], ["runs", "compare", "a", "b"]):
        arguments = [str(tmp_path / "run") if word in "ab" else word for word in command]
        done = CliRunner().invoke(app, arguments)
        assert "no held-out documents" in str(done.exception)


def test_an_evaluation_keeps_its_budget(recipe: Recipe, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text(f"{name} {TEXT}" * 100)
    sources = [f"books={tmp_path / name}.txt" for name in ("a", "b", "c")]
    build(sources, tmp_path / "corpus", tokenizer="bytes", workers=0)
    printed = train(recipe, tmp_path / "corpus", tmp_path / "run")
    assert "of the text is held out" in printed
    (result,) = RunDirectory(tmp_path / "run").stage("base").summary["domains"].values()  # type: ignore[index]
    assert (result["tokens"], result["bytes"], result["documents"]) == (100, 100, 1)


def test_an_overlap_is_measured_said_and_compared_only_with_itself(recipe: Recipe, tmp_path: Path) -> None:
    for name in ("trained", "held_out"):
        (tmp_path / f"{name}.txt").write_text(f"{name} {TEXT}" * 200)
    held_out = [f"books={tmp_path / 'held_out.txt'}"]
    build([f"books={tmp_path / 'trained.txt'}"], tmp_path / "corpus", tokenizer="bytes", workers=0, held_out=held_out)
    corpus, seq_len = tmp_path / "corpus", recipe.stages[0].data.seq_len
    train(recipe, corpus, tmp_path / "plain")
    with_context = apply_overrides(recipe, [f"stages.base.evaluation.overlap={seq_len // 2}"])
    assert "Measured with an overlap" in train(with_context, corpus, tmp_path / "run")
    log = [row for row in read_log(tmp_path / "run/base/log.jsonl") if row["kind"] == "eval"]
    assert all(result["overlap"] == seq_len // 2 for row in log for result in row["domains"].values())
    write_pages(tmp_path / "run")
    assert "Measured with an overlap" in (tmp_path / "run/report.html").read_text()

    def evaluate(*arguments: str) -> dict:
        done = CliRunner().invoke(app, ["evaluate", *arguments, "--json"])
        return json.loads(done.stdout) if done.exit_code == 0 else {"error": str(done.exception)}

    from_option = evaluate(str(tmp_path / "plain"), "--overlap", str(seq_len // 2), "--tokens", "100")
    assert from_option["overlap"] == seq_len // 2
    assert list(from_option["domains"].values()) == [pytest.approx(result) for result in log[-1]["domains"].values()]
    assert f"use at most {seq_len - 1}" in evaluate(str(tmp_path / "plain"), "--overlap", str(seq_len))["error"]
    both = [str(tmp_path / "plain"), str(tmp_path / "run")]
    assert "different overlaps" in str(CliRunner().invoke(app, ["runs", "compare", *both]).exception)
    with pytest.raises(UserError, match="leaves no token"):
        apply_overrides(recipe, [f"stages.base.evaluation.overlap={seq_len}"])


def test_bits_per_byte_of_a_lossy_tokenizer_are_marked_and_not_compared(recipe: Recipe, tmp_path: Path) -> None:
    vocabulary = {"the": 0, "river": 1, "bridge": 2, "[UNK]": 3, "[SEP]": 4}
    tokenizer = hf.Tokenizer(hf.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = hf.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "words.json"))
    lines = [json.dumps({"text": f"{i} {TEXT}" * 20, "domain": "tales"}) for i in range(20)]
    (tmp_path / "tales.jsonl").write_text("\n".join(lines))
    build([str(tmp_path / "tales.jsonl")], tmp_path / "corpus", tokenizer=str(tmp_path / "words.json"), workers=0)
    printed = train(recipe, tmp_path / "corpus", tmp_path / "run")
    assert "cannot be restored from their tokens" in printed
    assert "* bits per byte" in printed
    assert "* not a code length" in printed
    summary = RunDirectory(tmp_path / "run").stage("base").summary
    assert summary is not None
    assert summary["domains"]["tales"]["lossy"] is True
    run = str(tmp_path / "run")
    shown = CliRunner().invoke(app, ["evaluate", run]).output + CliRunner().invoke(app, ["runs", run]).output
    assert shown.count("* not a code length") == 2
    done = CliRunner().invoke(app, ["runs", "compare", run, run, "--unit", "bits_per_byte"])
    assert "not a code length" in str(done.exception)


@pytest.mark.parametrize("piece", ["tokens", "starts"])
def test_a_missing_file_of_the_corpus_ends_a_run(recipe: Recipe, tmp_path: Path, piece: str) -> None:
    lines = [json.dumps({"text": f"{i} {TEXT}" * 20, "domain": "tales"}) for i in range(20)]
    (tmp_path / "tales.jsonl").write_text("\n".join(lines))
    build([str(tmp_path / "tales.jsonl")], tmp_path / "corpus", tokenizer="bytes", workers=0)
    split = "train" if piece == "tokens" else "held_out"
    (tmp_path / f"corpus/d0/{split}/{piece}/c/0").unlink()
    with pytest.raises(Exception, match=rf"d0/{split}/{piece}/c/0 is missing"):
        train(recipe, tmp_path / "corpus", tmp_path / "run")
