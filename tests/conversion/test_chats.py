"""`generate --chat` and `sample --chat` ask an imported model by the chat template that came with it."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from helpers.published_tokenizers import TEMPLATE, published, write_model
from pathways_lite.cli.main import app
from pathways_lite.conversion.hf_import import import_hf
from pathways_lite.errors import UserError
from pathways_lite.sampling import Request, Sampler
from pathways_lite.training.load import load_model

USER = {"role": "user", "content": "Why?"}
TURNS = (
    "{% for m in messages %}{{ '<s>' + m['role'] + ': ' + m['content'] + '<|im_end|>' }}{% endfor %}"
    "{{ strftime_now('%Y') }} assistant:"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("chats")
    source = write_model(place / "hf", published(adds_bos=True, **{"chat_template.jinja": TURNS.encode()}))
    return import_hf(source, place / "ours", None, report=lambda line: None)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Request, tuple[int, ...]]]:
    """The requests of samplers, with the tokens that end every text."""
    found: list[tuple[Request, tuple[int, ...]]] = []
    sample = Sampler.sample

    def record(sampler: Sampler, requests: Any, *rest: Any) -> Any:
        found.extend((request, sampler.ends) for request in requests)
        return sample(sampler, requests, *rest)

    monkeypatch.setattr(Sampler, "sample", record)
    return found


def run(*arguments: object) -> Any:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


def refusal(*arguments: object) -> str:
    with pytest.raises(UserError) as error:
        CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    return str(error.value)


def test_chats_are_read_by_the_template_and_end_at_every_eos(model: Path, asked: list, tmp_path: Path):
    file = tmp_path / "prompts.jsonl"
    messages = [{"role": "system", "content": "Be brief."}, USER]
    file.write_text(json.dumps({"messages": messages}) + "\n")
    given = run("generate", model, "--chat", "--prompt", "Why?", "--system", "Be brief.", "--max-tokens", 2)
    listed = run("generate", model, "--chat", "--prompts", file, "--max-tokens", 2)
    assert given == listed
    assert given["results"][0]["prompt"] == messages
    assert given["samples"] == [given["results"][0]["text"]]  # without the chat
    (request, ends), _ = asked
    tokens = request.prompt.tokens  # the template's own <s>, and no other
    assert (tokens.count(257), tokens.count(258), tokens[0]) == (2, 2, 257)
    assert request.prompt.prefix_length == 0
    assert {256, 258} <= set(ends)

    problems = tmp_path / "problems.jsonl"
    records = [{"id": "a", "messages": messages, "answer": "x"}, {"id": "b", "prompt": "Why?", "answer": "x"}]
    problems.write_text("".join(json.dumps(record) + "\n" for record in records))
    asked.clear()
    run("sample", model, problems, "--out", tmp_path / "out", "--chat", "--samples", 1, "--max-tokens", 2)
    assert [request.prompt.tokens == tokens for request, _ in asked] == [True, False]
    (part,) = (tmp_path / "out").glob("part-*.parquet")
    assert parquet.read_table(part)["problem"].to_pylist() == ["a", "b"]
    said = refusal("sample", model, problems, "--out", tmp_path / "out", "--samples", 1, "--max-tokens", 2)
    assert "problem 'a' has messages and no prompt; ask an instruct model with --chat" in said


def test_samples_that_are_continued_on_another_day_are_told_the_first(model: Path, asked: list, tmp_path: Path):
    problems, out = tmp_path / "problems.jsonl", tmp_path / "out"
    problems.write_text(json.dumps({"id": "a", "prompt": "Why?", "answer": "x"}) + "\n")
    ask = ("sample", model, problems, "--out", out, "--chat", "--max-tokens", 2)
    run(*ask, "--samples", 1)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["date"] == date.today().isoformat()
    (out / "manifest.json").write_text(json.dumps(manifest | {"date": "1987-06-05"}))
    run(*ask, "--samples", 2)
    first, second = (load_model(model).tokenizer().decode(request.prompt.tokens) for request, _ in asked)
    assert second == first.replace(str(date.today().year), "1987") != first


def test_what_cannot_be_a_chat_is_refused_in_a_sentence(model: Path, tmp_path: Path):
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps({"messages": [USER]}) + "\n")
    assert "ask an instruct model with --chat" in refusal("generate", model, "--prompts", file)
    assert "add --chat" in refusal("generate", model, "--prompt", "a", "--system", "b")
    assert "--chat answers messages: it needs --prompt" in refusal("generate", model, "--chat")
    assert "takes no --mode" in refusal("generate", model, "--chat", "--prompt", "a", "--mode", "s2s")
    file.write_text(json.dumps({"messages": [USER, {"role": "assistant", "content": "So."}]}) + "\n")
    assert "the last message of line 1" in refusal("generate", model, "--chat", "--prompts", file)
    files = {name: content for name, content in published().items() if name != "chat_template.jinja"}
    assert TEMPLATE.encode() not in files.values()
    bare = import_hf(write_model(tmp_path / "hf", files), tmp_path / "bare", None, report=lambda line: None)
    assert "has no chat template" in refusal("generate", bare, "--chat", "--prompt", "a")
