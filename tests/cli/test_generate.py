"""`pathways-lite generate`: many prompts and samples, stop strings, log probabilities, text while it is written."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pathways_lite.cli.main import app
from pathways_lite.errors import UserError
from pathways_lite.training.load import TrainedModel


def invoke(run: Path, *words: Any) -> str:
    return CliRunner().invoke(app, ["generate", str(run), *map(str, words)], catch_exceptions=False).stdout


@pytest.fixture(scope="module")
def run(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "tiny"
    assert CliRunner().invoke(app, ["train", str(recipe_file), "--out", str(directory)]).exit_code == 0
    return directory


ASK = ("--max-tokens", 12, "--temperature", 2)


def results(run: Path, *words: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(invoke(run, *words, *ASK, "--json"))["results"]
    return rows


def test_samples_do_not_depend_on_their_batch(run: Path, tmp_path: Path):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "the ", "id": 3}\n\n{"prompt": "a\\nb"}\n')
    together = results(run, "--prompts", tmp_path / "prompts.jsonl", "--samples", 3)
    assert [(row["prompt"], row["sample"]) for row in together] == [(p, i) for p in ("the ", "a\nb") for i in range(3)]
    alone = [*results(run, "--prompt", "the ", "--samples", 2, "--batch", 1), *results(run, "--prompt", "a\nb")]
    assert [row["text"] for row in alone] == [together[i]["text"] for i in (0, 1, 3)]
    assert len({row["text"] for row in together}) == 6
    text = invoke(run, "--prompt", "the ", "--samples", 2, *ASK)
    assert text.startswith("--- sample 1 of 2 ---\nthe ")
    both = invoke(run, "--prompt", "the ", "--prompt", "of", *ASK)
    assert "--- prompt 2 of 2, sample 1 of 1 ---\nof" in both


def test_every_run_of_a_directory_is_sampled(run: Path, tmp_path: Path):
    for name in ("one", "two"):
        shutil.copytree(run, tmp_path / "runs" / name)
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"id": "1", "prompt": "the ", "answer": "end"}\n')
    out = tmp_path / "samples"
    words = ["sample", tmp_path / "runs", problems, "--out", out, "--samples", 2, "--max-tokens", 4, "--each"]
    result = CliRunner().invoke(app, [*map(str, words), "--json"], catch_exceptions=False)
    found = json.loads(result.stdout)["runs"]
    assert [each["samples"] for each in found] == [str(out / name) for name in ("one", "two")]
    alone = [str(word) for word in words[:-1]]
    alone[1], alone[4] = str(run), str(tmp_path / "alone")
    CliRunner().invoke(app, alone, catch_exceptions=False)
    (part,) = (tmp_path / "alone").glob("part-*")
    assert all((out / name / part.name).read_bytes() == part.read_bytes() for name in ("one", "two"))
    with pytest.raises(UserError, match="there is no run at or below"):
        CliRunner().invoke(app, ["sample", str(out), *map(str, words[2:])], catch_exceptions=False)


def test_the_commands_of_the_day_after_a_run_work(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    section = (Path(__file__).parents[2] / "README.md").read_text().split("## The day after a run\n")[1]
    fewer = section.split("```")[1].replace("--problems 256", "--problems 3").replace("--samples 64", "--samples 2")
    fewer = fewer.replace(" --shots 2", " --limit 3")  # the run's sequences are of 32 bytes
    for line in fewer.replace("RUN", str(run)).strip().splitlines():
        program, *words = shlex.split(line)
        assert program == "pathways-lite"
        result = CliRunner().invoke(app, words, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert (tmp_path / "samples" / "sum" / "judge.html").is_file()
    assert (tmp_path / "along.csv").is_file()


def test_log_probabilities_are_told_by_token(run: Path):
    (row,) = results(run, "--prompt", "the ", "--logprobs")
    assert row["finish"] in ("length", "end")
    assert len(row["tokens"]) == len(row["logp_model"]) == len(row["logp_drawn"]) > 0
    assert all(value < 0 for value in row["logp_model"])
    assert "tokens" not in results(run, "--prompt", "the ")[0]
    lines = invoke(run, "--prompt", "the ", "--logprobs", *ASK).splitlines()
    assert len([line for line in lines if line.endswith('"')]) >= len(row["tokens"]) - 1


def test_a_text_ends_before_a_stop_string(run: Path):
    (free,) = results(run, "--prompt", "the ")
    stop = next(c for c in free["text"][2:] if c.isascii() and c.isprintable())
    (cut,) = results(run, "--prompt", "the ", "--stop", stop, "--stop", "unheard of")
    assert cut["finish"] == "stop"
    assert cut["text"] == free["text"].partition(stop)[0]


def test_a_text_may_be_read_while_it_is_written(run: Path):
    ask = ("--prompt", "the ", "--max-tokens", 30, "--temperature", 0.5)
    assert invoke(run, *ask, "--stream") == invoke(run, *ask)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stop", ""], "a stop string is empty"),
        (["--stream", "--samples", 2], "--stream shows one text"),
        (["--min-p", 2], "min_p=2.0 must be between 0 and 1"),
        (["--prompts", "nothing.txt"], "No such file"),
        (["--infill", "a <mask>", "--stop", "b"], "--stop is for continuations"),
    ],
)
def test_what_cannot_be_is_refused(run: Path, words: list[Any], message: str):
    with pytest.raises(UserError, match=message):
        invoke(run, *words)


def test_a_text_beyond_the_trained_length_is_warned_of(run: Path):
    def warning(*words: Any) -> str:
        result = CliRunner().invoke(app, ["generate", str(run), *map(str, words)], catch_exceptions=False)
        return result.stderr

    # EOD and 4 bytes, of sequences of 32.
    assert "warning: the prompt has 5 tokens and up to 29 follow" in warning("--prompt", "the ", "--max-tokens", 29)
    assert "use --max-tokens 28 or fewer" in warning("--prompt", "the ", "--max-tokens", 29)
    assert not warning("--prompt", "the ", "--max-tokens", 28)
    assert not warning("--prompt", "the ")


@pytest.mark.parametrize("words", [["--prompt", "a", "--chat"], ["--infill", "a <mask>"], ["--stop", ""]])
def test_what_cannot_be_asked_is_refused_before_parameters_are_read(
    run: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
):
    monkeypatch.setattr(TrainedModel, "params", lambda self: pytest.fail("parameters were read"))
    with pytest.raises(UserError):
        invoke(run, *words)


def test_problems_that_do_not_fit_are_refused_before_anything_is_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(TrainedModel, "params", lambda self: pytest.fail("parameters were read"))
    (tmp_path / "long.jsonl").write_text(json.dumps({"id": "a", "prompt": "x" * 40, "answer": "b"}))
    words = ["sample", str(run), str(tmp_path / "long.jsonl"), "--out", str(tmp_path / "samples")]
    with pytest.raises(UserError, match="the prompt of problem 'a' has 41 tokens"):
        CliRunner().invoke(app, words, catch_exceptions=False)
    assert not (tmp_path / "samples").exists()


def test_sample_says_what_it_draws(run: Path, tmp_path: Path):
    (tmp_path / "two.jsonl").write_text("".join(f'{{"id": "{i}", "prompt": "x", "answer": "b"}}\n' for i in range(2)))
    words = ["sample", str(run), str(tmp_path), "--out", str(tmp_path / "samples"), "--samples", "3"]
    words[2] += "/two.jsonl"
    result = CliRunner().invoke(app, [*words, "--max-tokens", "4"], catch_exceptions=False)
    assert "6 samples to draw, for 2 problems, of at most 4 tokens each: 24 tokens at most" in result.stderr


def test_files_of_prompts_are_checked(run: Path, tmp_path: Path):
    file = tmp_path / "prompts"
    for content, message in (("\n \n", "has no prompt"), ('{"text": "a"}', "it has text"), ("a\n{b", "line 2 of")):
        file.write_text(content)
        with pytest.raises(UserError, match=message):
            invoke(run, "--prompts", file)
