"""Arguments of a build: shares of domains, replacing a store, and mistakes, told before there is a workspace."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pathways_lite.cli import data_build_display as display
from pathways_lite.cli.data import _parse_shares
from pathways_lite.cli.main import app
from pathways_lite.data.build import Progress, build
from pathways_lite.data.records import Fields
from pathways_lite.data.shards import HeldOutShares, ShardCounts
from pathways_lite.data.sources import Source
from pathways_lite.data.store import open_store
from pathways_lite.errors import UserError


def test_single_domains_have_shares_of_their_own(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"text {i}", "domain": "ab"[i % 2], "id": f"{i}"}) for i in range(400)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))

    def held(name: str, shares: HeldOutShares) -> list[int]:
        store = build([str(tmp_path / "in.jsonl")], tmp_path / name, tokenizer="bytes", held_out=shares, workers=0)
        return [store.counts(domain, "held_out").documents for domain in ("a", "b")]

    few, both, more, none = (
        held("few", HeldOutShares(0.05)),
        held("both", HeldOutShares(0.5)),
        held("more", HeldOutShares(0.05, {"b": 0.5})),
        held("none", HeldOutShares(0.0, {"b": 0.5})),
    )
    assert more == [few[0], both[1]]
    assert none == [0, both[1]]
    with pytest.raises(UserError, match=r"held_out=b=1\.0 must be at least 0 and below 1"):
        HeldOutShares(0.05, {"b": 1.0})
    with pytest.raises(UserError, match=r"names the domain c, of which there is no document\. There are: a, b"):
        held("typo", HeldOutShares(0.05, {"c": 0.5}))
    assert held("typo", HeldOutShares(0.05, {"b": 0.5})) == more
    assert not (tmp_path / "typo.building").exists()


@pytest.mark.parametrize("dry_run", [["--dry-run"], ["--dry-run", "--json"], []])
def test_a_dry_run_refuses_what_the_build_refuses_before_it_tokenizes(tmp_path: Path, dry_run: list[str]) -> None:
    poems, empty, out = tmp_path / "poems.txt", tmp_path / "empty.jsonl", tmp_path / "out"
    poems.write_text("a poem")
    empty.write_text('{"words": "no text"}\n')

    def refusal(*arguments: object) -> str:
        command = ["data", "build", str(out), *map(str, arguments), "--tokenizer", "bytes", *dry_run]
        result = CliRunner().invoke(app, command)
        assert isinstance(result.exception, UserError)
        assert not (tmp_path / "out.building").exists()
        return str(result.exception)

    assert "names the domain poem, of which there is no document. Did you mean 'poems'? There are" in refusal(
        poems, "--held-out", "poem=0.1"
    )
    assert "empty.jsonl" in refusal(empty)
    assert "is in the sources to train on" in refusal(poems, "--held-out", poems)


@pytest.mark.parametrize(
    ("texts", "shares"),
    [
        (["1%"], HeldOutShares(0.01)),
        (["2.5 %", "wiki=5%"], HeldOutShares(0.025, {"wiki": 0.05})),
        (["0.5"], HeldOutShares(0.5)),
        (["100%.txt"], None),
    ],
)
def test_shares_may_be_per_cent(texts: list[str], shares: HeldOutShares | None) -> None:
    assert _parse_shares(texts) == shares


def test_another_share_is_named_in_words(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a text")
    build([str(tmp_path / "a.txt")], tmp_path / "out", tokenizer="bytes", workers=0)
    shares = HeldOutShares(0.02, {"a": 0.5})
    with pytest.raises(UserError, match="1 % held out instead of 2 %, 50 % of a;"):
        build([str(tmp_path / "a.txt")], tmp_path / "out", tokenizer="bytes", workers=0, held_out=shares)


def test_an_old_corpus_is_replaced_when_the_new_one_is_complete(tmp_path: Path) -> None:
    def source(text: str) -> list[str]:
        (tmp_path / "in.jsonl").write_text("\n".join(json.dumps({"text": f"{text} {i}"}) for i in range(9)))
        return [str(tmp_path / "in.jsonl")]

    out = tmp_path / "out"
    first = build(source("one"), out, tokenizer="bytes", workers=0).fingerprint
    with pytest.raises(UserError, match="--replace"):
        build(source("other"), out, tokenizer="bytes", workers=0)
    with pytest.raises(UserError, match="no such file"):
        build(["nowhere.jsonl"], out, tokenizer="bytes", workers=0, replace_store=True)
    assert open_store(str(out)).fingerprint == first
    second = build(source("other"), out, tokenizer="bytes", workers=0, replace_store=True).fingerprint
    assert open_store(str(out)).fingerprint == second != first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out"]
    with pytest.raises(UserError, match="not a token store"):
        build(source("other"), tmp_path, tokenizer="bytes", workers=0, replace_store=True)


@pytest.mark.parametrize(
    ("fields", "arguments", "sentence"),
    [
        (Fields(), {}, r"no field 'text' \(fields: body, id\); name it with --text-field"),
        (Fields(text_field="body", domain_field="lang"), {}, "no field 'lang' .* --domain-field"),
        (Fields(text_field="body", id_field="uuid"), {}, "no field 'uuid' .* --id-field"),
        (Fields(text_field="body"), {"tokenizer": "sentencepiece:many"}, "'many' is not a number of tokens"),
        (Fields(text_field="body"), {"tokenizer": "no.model"}, "no such file"),
        (Fields(text_field="body"), {"held_out": 2.0}, "below 1"),
        (Fields(text_field="body"), {"workers": -1}, "workers=-1 must be at least 0"),
    ],
)
def test_wrong_arguments_are_told_before_there_is_a_workspace(
    fields: Fields, arguments: dict[str, Any], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a workspace was begun")

    monkeypatch.setattr("pathways_lite.data.build.lock_store", never)
    (tmp_path / "in.jsonl").write_text('{"body": "hello", "id": "a"}\n{"body": "other", "id": "b"}\n')
    source = Source(str(tmp_path / "in.jsonl"), fields)
    with pytest.raises(UserError, match=sentence):
        build([source], tmp_path / "out", **{"tokenizer": "bytes", "workers": 0} | arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_workspace_without_anything_finished_removes_itself(
    tmp_path: Path, jsonl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pathways_lite.data.build._make_shards", crash)
    with pytest.raises(KeyboardInterrupt):
        build([str(jsonl)], tmp_path / "out", tokenizer="bytes", workers=0)
    assert not (tmp_path / "out.building").exists()


def test_a_speed_is_shown_when_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(display.time, "monotonic", lambda: now)
    speed, shown = display._Speed(), []
    for seconds, n_bytes in ((0.0, 5_000_000), (0.1, 6_000_000), (1.0, 5_000_000), (2.0, 5_040_000)):
        now = 100.0 + seconds
        counts = ShardCounts(documents=7, tokens=8, text_bytes=n_bytes)
        shown.append(display._detail(Progress("tokenise", 10_000_000, counts), speed))
    assert shown == ["7 documents, 8 tokens"] * 3 + ["20 kB/s, 7 documents, 8 tokens"]


@pytest.mark.parametrize(
    ("texts", "shares"),
    [
        (["0.02"], HeldOutShares(0.02)),
        (["0.01", "code=0.05"], HeldOutShares(0.01, {"code": 0.05})),
        (["code=0.05"], HeldOutShares(0.01, {"code": 0.05})),
        (["test.jsonl", "wiki=w.jsonl"], None),
    ],
)
def test_shares_as_they_are_written(texts: list[str], shares: HeldOutShares | None) -> None:
    assert _parse_shares(texts) == shares


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        (["0.01", "test.jsonl"], "fractions or sources, not both: test.jsonl is a source"),
        (["0.01", "0.02"], "one fraction, and one for each domain"),
        (["a=0.1", "a=0.2"], "one fraction, and one for each domain"),
        (["2"], "--held-out 2 must be a fraction"),
    ],
)
def test_shares_that_contradict_each_other(texts: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        _parse_shares(texts)
