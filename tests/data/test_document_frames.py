"""Corpora whose documents BOS opens and EOS closes: what is stored, what is read, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from helpers.character_tokenizer import BOS, EOS, write_tokenizer
from helpers.published_tokenizers import as_json, published
from pathways_lite.cli.main import app
from pathways_lite.data.build import build
from pathways_lite.data.fsck import fsck
from pathways_lite.data.held_out_text import HeldOutText
from pathways_lite.data.inspect import describe
from pathways_lite.data.reading import documents_between
from pathways_lite.data.selection import Origin, Selection, apply_selection, training_documents
from pathways_lite.data.store import SPLITS, Store, open_store, store_fingerprint
from pathways_lite.data.tokenizer_files import load_tokenizer
from pathways_lite.document_frame import DocumentFrame
from pathways_lite.errors import UserError

FRAME = DocumentFrame(59, 60)


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    return str(write_tokenizer(tmp_path / "published"))


@pytest.fixture
def framed(tmp_path: Path, jsonl: Path, tokenizer: str) -> Store:
    return build_framed(tmp_path / "framed", jsonl, tokenizer)


def build_framed(out: Path, jsonl: Path, tokenizer: str, **names: str | None) -> Store:
    return build([str(jsonl)], out, tokenizer=tokenizer, held_out=0.1, workers=0, **{"bos": BOS, "eos": EOS} | names)


def test_every_document_stands_between_the_two_tokens(framed: Store, jsonl: Path) -> None:
    assert framed.frame == FRAME
    texts = {record["id"]: record["text"] for record in map(json.loads, jsonl.read_text().splitlines())}
    for domain in framed.domains:
        for split in SPLITS:
            starts = framed.document_starts(domain, split).tolist()
            for number, document in enumerate(framed.documents(domain, split)):
                stored = framed.read(domain, split, starts[number], starts[number + 1]).tolist()
                text = framed.tokenizer().encode(texts.pop(framed.document_id(domain, split, number)))
                assert stored == [59, *text, 60]
                assert document.tolist() == [59, *text]
    assert not texts
    assert fsck(framed.address) == []


def test_the_corpus_says_how_it_is_framed_and_others_are_as_they_were(
    framed: Store, store: Store, tmp_path: Path, jsonl: Path, tokenizer: str
) -> None:
    stored = json.loads((Path(framed.address) / "manifest.json").read_text())
    assert (stored["eod"], stored["closes"]) == (59, 60)
    assert "closes" not in json.loads((Path(store.address) / "manifest.json").read_text())
    assert "frame" not in store.manifest.plan
    unframed = build([str(jsonl)], tmp_path / "eod", tokenizer=tokenizer, held_out=0.1, workers=0)
    assert unframed.frame == DocumentFrame(60)
    assert unframed.eod == 60
    opened = build_framed(tmp_path / "opened", jsonl, tokenizer, eos=None)
    assert opened.frame == DocumentFrame(59)
    assert len({one.fingerprint for one in (framed, unframed, opened)}) == 3
    assert len({store_fingerprint(["a"], "t", frame, {}) for frame in (FRAME, unframed.frame, opened.frame)}) == 3
    facts = "\n".join(describe(framed).notes)
    assert "opened by BOS, id 59, and closed by EOS, id 60" in facts
    per_token = [row.bytes_per_token for one in (framed, unframed) for row in describe(one).rows]
    np.testing.assert_array_equal(per_token[:4], per_token[4:])


def test_an_older_version_refuses_it(framed: Store) -> None:
    """It would take EOS for text. It knows no `closes`, and refuses a manifest with a field that it does not know."""
    path = Path(framed.address) / "manifest.json"
    changed = json.loads(path.read_text()) | {"a field of the future": 1}
    changed.pop("digest")
    changed["pieces"] = None
    path.write_text(json.dumps(changed))
    with pytest.raises(UserError, match="unexpected keyword argument"):
        open_store(framed.address)


def test_held_out_documents_are_the_same_from_the_corpus_and_from_a_checkpoint(framed: Store) -> None:
    total = framed.tokens("tales", "held_out")
    for asked in (1, 60, 200, total - 1, total, 10**9):
        carried = HeldOutText.of_store(framed, asked)
        text = HeldOutText.from_bytes(carried.to_bytes(), framed.tokenizer(), FRAME, "here")
        ends = np.cumsum([len(document.tokens) + 1 for document in framed.held_out("tales", asked)])
        for fewer in (asked, asked // 2, *(int(end) + more for end in ends for more in (-1, 0, 1))):
            if fewer > asked:
                continue
            for domain in framed.domains:
                expected = list(framed.held_out(domain, fewer))
                assert sum(len(d.tokens) + d.is_whole for d in expected) <= fewer + 1
                for a, b in zip(text.held_out(domain, fewer), expected, strict=True):
                    assert (a.id, a.tokens.tolist(), a.text_bytes, a.is_whole) == (
                        b.id, b.tokens.tolist(), b.text_bytes, b.is_whole
                    )  # fmt: skip
                    assert 60 not in a.tokens


def test_a_selection_keeps_the_frame(framed: Store, tmp_path: Path) -> None:
    documents = training_documents(framed)
    names = [framed.domains[d] if i % 2 else None for i, d in enumerate(documents.domain.tolist())]
    path = tmp_path / "chosen.jsonl"
    Selection(Origin(framed.address, framed.fingerprint, "by_hand"), np.zeros(len(names)), names).write(path, framed)
    selected = apply_selection(path, framed, str(tmp_path / "selected"))
    assert selected.frame == FRAME
    kept = [tokens.tolist() for domain in framed.domains for tokens in framed.documents(domain)][1::2]
    assert [tokens.tolist() for domain in selected.domains for tokens in selected.documents(domain)] == kept
    parts = list(documents_between(selected, "tales", 0, selected.tokens("tales")))
    assert [part.stop - part.start - 2 for part in parts] == [len(d) - 1 for d in selected.documents("tales")]


def test_text_that_encodes_to_either_token_is_skipped(tmp_path: Path) -> None:
    """Where a tokenizer takes the name in a text for the token itself."""
    directory = write_tokenizer(tmp_path / "published")
    raw = json.loads((directory / "tokenizer.json").read_text())
    for added in raw["added_tokens"]:
        added["special"] = False
    (directory / "tokenizer.json").write_text(json.dumps(raw))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in ("one", "two " + EOS, BOS, "x")))
    framed = build_framed(tmp_path / "out", tmp_path / "a.jsonl", str(directory))
    assert framed.manifest.skipped == 2
    assert "token that opens or closes documents, id 60" in (Path(framed.address) / "skipped.txt").read_text()


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ({"bos": EOS}, r"--bos and --eos are the same token, id 60; .* name it with --eod alone"),
        ({"eos": "</s>"}, r"--eos </s>: the tokenizer has no such token"),
    ],
)
def test_tokens_that_do_not_frame_are_refused(
    names: dict, sentence: str, tmp_path: Path, jsonl: Path, tokenizer: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        build_framed(tmp_path / "out", jsonl, tokenizer, **names)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.building").exists()


def test_a_tokenizer_without_names_for_them(tmp_path: Path, jsonl: Path) -> None:
    with pytest.raises(UserError, match=r"--bos auto: neither the tokenizer nor a file beside it"):
        build_framed(tmp_path / "out", jsonl, "bytes", bos="auto", eos="auto")


def test_a_corpus_of_another_frame_is_another_corpus(framed: Store, jsonl: Path, tokenizer: str) -> None:
    again = build_framed(Path(framed.address), jsonl, tokenizer)
    assert again.fingerprint == framed.fingerprint
    with pytest.raises(UserError, match=r"built from --bos <\|begin\|> --eos <\|end\|> instead of neither"):
        build_framed(Path(framed.address), jsonl, tokenizer, bos=None, eos=None)


def test_the_command_suggests_the_frame_and_builds_it(tmp_path: Path, jsonl: Path, tokenizer: str) -> None:
    def command(out: str, *more: str) -> str:
        arguments = [
            "data",
            "build",
            str(tmp_path / out),
            str(jsonl),
            "--tokenizer",
            tokenizer,
            "--workers",
            "0",
            *more,
        ]
        result = CliRunner().invoke(app, arguments, catch_exceptions=not more)
        assert result.exit_code == 0, result.output
        return " ".join(result.output.split())

    assert f"names {BOS} and {EOS}: a model trained with them" in command("plain")
    assert open_store(str(tmp_path / "plain")).frame == DocumentFrame(60)
    assert "models trained" not in command("auto", "--bos", "auto", "--eos", "auto")
    assert open_store(str(tmp_path / "auto")).frame == FRAME
    with pytest.raises(UserError, match="give it, or --bos and --eos, not both"):
        command("both", "--eod", EOS, "--bos", BOS)


def test_auto_closes_documents_with_eod_and_not_with_the_mark_of_a_turn(tmp_path: Path, jsonl: Path) -> None:
    place = tmp_path / "chat"
    place.mkdir()
    for name, content in published(**{"generation_config.json": as_json(eos_token_id=258)}).items():
        (place / name).write_bytes(content)
    assert (load_tokenizer(place).eod, load_tokenizer(place).control.eos) == (256, (258,))
    assert build_framed(tmp_path / "auto", jsonl, str(place), bos="auto", eos="auto").frame == DocumentFrame(257, 256)
    arguments = ["data", "build", str(tmp_path / "plain"), str(jsonl), "--tokenizer", str(place), "--workers", "0"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "--bos" not in result.output, "a chat's marks are not around documents"


def test_a_tokenizer_names_its_tokens(tokenizer: str) -> None:
    loaded = load_tokenizer(tokenizer)
    assert [loaded.token_id(name) for name in (BOS, EOS, "a", "no such token")] == [59, 60, 1, None]
    assert [loaded.token_name(token) for token in (59, 60, 1, 61)] == [BOS, EOS, "a", None]


def test_the_same_text_has_the_same_documents_in_both_forms(framed: Store, tmp_path: Path, jsonl: Path) -> None:
    unframed = build([str(jsonl)], tmp_path / "eod", tokenizer=framed.address, held_out=0.1, workers=0)
    for domain in framed.domains:
        for a, b in zip(framed.documents(domain), unframed.documents(domain), strict=True):
            assert a[1:].tolist() == b[1:].tolist()
        assert framed.tokens(domain) - unframed.tokens(domain) == framed.counts(domain).documents
    assert replace(framed.manifest, closes=None).to_json() != framed.manifest.to_json()
