"""The commands that show what a run has read: their rows are those that were trained on."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from helpers.run_helpers import TOTAL, InjectNaN, run
from pathways_lite.cli.main import app
from pathways_lite.data.batch_view import view_rows
from pathways_lite.data.pipeline import DataStream
from pathways_lite.data.reading import batch_source
from pathways_lite.data.store import open_store
from pathways_lite.errors import UserError
from pathways_lite.recipe import UL2R, Recipe, SpecialTokens, apply_overrides
from pathways_lite.tracking.report import write_report
from pathways_lite.tracking.token_page import PAGE_NAME
from pathways_lite.training.load import load_model
from pathways_lite.training.replay import batch_at, data_stream
from pathways_lite.training.token_losses import score_samples


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


def output(*arguments: object) -> Any:
    result = command(*arguments, "--json")
    assert result.exit_code == 0
    return json.loads(result.stdout)


def test_data_batch_shows_the_rows_that_were_trained_on(uninterrupted: Path) -> None:
    model = load_model(uninterrupted)
    for step in (0, 7, TOTAL - 1):
        (shown,) = output("data", "batch", uninterrupted, "--step", step, "--rows", 99)["batches"]
        batch = batch_at(model, step)
        assert shown["sequences"] == len(shown["rows"]) == len(batch.tokens)
        for number, row in enumerate(shown["rows"]):
            np.testing.assert_array_equal(row["tokens"], batch.tokens[number])
            np.testing.assert_array_equal(row["targets"], batch.targets[number])
            np.testing.assert_array_equal(row["loss_weights"], batch.loss_weights[number])
            np.testing.assert_array_equal(row["span_start"], batch.spans.start[number])
            assert row["example"] == batch.sample_id[number, 1]
            assert sum(part["stop"] - part["start"] for part in row["documents"]) == len(row["tokens"]) + 1
    text = command(
        "data", "batch", uninterrupted, "--step", 3, "--rows", 1, "--first-row", 1, "--characters", 20
    ).stdout
    assert "row 1" in text
    assert "row 0" not in text
    assert "…" in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "--step, or ask for the last loss spike"),
        (["--step", 3, "--spike"], "--step, or ask for the last loss spike"),
        (["--step", TOTAL], "there is no step 12"),
        (["--step", 3, "--first-row", 99], "there is no 99"),
        (["--step", 3, "--stage", "other"], "no stage 'other'"),
    ],
)
def test_mistakes_are_said(uninterrupted: Path, arguments: list[object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        command("data", "batch", uninterrupted, *arguments)


def test_the_stretches_of_a_row_are_its_text_and_what_is_predicted(corpus: Path, uninterrupted: Path) -> None:
    ids = {name: 600 + i for i, name in enumerate(n for n in SpecialTokens.model_fields if "sentinel" not in n)}
    model, store = load_model(uninterrupted), open_store(str(corpus))
    objective = UL2R(tokens=SpecialTokens(**ids, first_sentinel=699, sentinels=60))
    plain = data_stream(model)
    stream = DataStream(store, plain.data, plain.timeline, objective, plain.cursor)
    names = {"s2s", "nlu", "nlg"}
    modes = set()
    for step in range(4):
        source = batch_source(stream, step)
        for row in view_rows(stream, source, range(len(source.rows.domain))):
            predicted = "".join(stretch.text for stretch in row.stretches if stretch.role == "predicted")
            inputs = "".join(stretch.text for stretch in row.stretches if stretch.role == "input")
            modes |= {name for name in names if f"⟨{name}⟩" in inputs}
            assert not any(f"⟨{name}⟩" in predicted for name in names)  # a mode is given
            assert predicted.count("⟨sentinel") == inputs.count("⟨sentinel")
            with_loss = np.array(row.loss_weights) > 0
            tokens = [token for token in np.array(row.targets)[with_loss] if token < store.vocab_size]
            assert store.tokenizer().decode([t for t in tokens if t != store.frame.opens]).strip()[:3] in predicted
    assert modes == names


def test_who_read_lists_the_rows_that_data_batch_shows(uninterrupted: Path) -> None:
    (row,) = output("data", "batch", uninterrupted, "--step", 5, "--rows", 1)["batches"][0]["rows"]
    document = row["documents"][0]
    name = f"{document['domain']}#{document['document']}"
    for query in (name, document["id"]):
        (stage,) = output("data", "who-read", uninterrupted, query)["stages"]
        reads = {(read["step"], read["row"]): read for read in stage["reads"]}
        assert (reads[5, 0]["start"], reads[5, 0]["stop"]) == (document["start"], document["stop"])
    part = output("data", "who-read", uninterrupted, name, "--tokens", f"{document['start']}:{document['start'] + 1}")
    assert (5, 0) in {(read["step"], read["row"]) for read in part["stages"][0]["reads"]}
    assert name in command("data", "who-read", uninterrupted, name).stdout
    with pytest.raises(UserError, match="is no slice"):
        command("data", "who-read", uninterrupted, name, "--tokens", "9:3")


def test_the_batches_around_a_spike_are_those_read_before_the_rewind(recipe: Recipe, tmp_path: Path) -> None:
    changes = ["guard.policy=rewind", "guard.rewind_steps=2", "guard.skip_batches=3"]
    rewinding = apply_overrides(recipe, [f"stages.base.{change}" for change in changes])
    assert run(rewinding, tmp_path / "run", InjectNaN(12)) == 0
    batches = output("data", "batch", tmp_path / "run", "--spike", "--before", 2, "--rows", 9)["batches"]
    assert [shown["step"] for shown in batches] == [3, 4, 5]
    assert [shown["spike"] is not None for shown in batches] == [False, False, True]
    examples = [row["example"] for shown in batches for row in shown["rows"]]
    assert 12 in examples
    assert examples == list(range(examples[0], examples[0] + len(examples)))


def test_inspect_shows_the_tokens_of_its_samples(corpus: Path) -> None:
    tokenizer = open_store(str(corpus)).tokenizer()
    for sample in output("data", "inspect", corpus, "--samples", 1, "--tokens")["samples"]:
        ids, texts = zip(*((token["id"], token["text"]) for token in sample["tokens"]), strict=True)
        assert tokenizer.decode(list(ids)).startswith(sample["text"][:300])
        assert "".join(texts).startswith(sample["text"])
    assert "|" in command("data", "inspect", corpus, "--samples", 1, "--tokens").stdout
    assert all(sample["tokens"] is None for sample in output("data", "inspect", corpus)["samples"])


def test_the_page_of_a_stage_has_the_losses_of_its_evaluation(uninterrupted: Path, tmp_path: Path) -> None:
    stage_page = uninterrupted / "base" / PAGE_NAME
    assert stage_page.is_file()
    report = write_report(uninterrupted, tmp_path / "report.html").read_text()
    assert 'href="base/tokens.html"' in report
    model = load_model(uninterrupted)
    evaluator, params = model.evaluator(), model.params()
    texts = score_samples(evaluator, params)
    results = evaluator.evaluate(params)
    for domain, result in results.items():
        of_domain = [text for text in texts if text.domain == domain]
        assert sum(len(text.tokens) for text in of_domain) == result.tokens
        assert sum(text.nats for text in of_domain) == pytest.approx(result.nll, rel=1e-9)
    short = score_samples(evaluator, params, tokens=200)
    assert 0 < sum(len(text.tokens) for text in short) <= 200
    written = tmp_path / "page.html"
    values = output("evaluate", uninterrupted, "--page", written)
    assert values["page"] == str(written)
    assert written.read_text() == stage_page.read_text()
    with pytest.raises(UserError, match="there is no directory"):
        command("evaluate", uninterrupted, "--page", tmp_path / "none" / "page.html")


def test_the_commands_of_the_page_run(uninterrupted: Path, corpus: Path, tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "looking_at_data.md").read_text()
    lines = re.findall(r"^pathways-lite ([^#\n]*(?:#\d+)?[^#\n]*)", page, re.MULTILINE)
    assert len(lines) >= 7
    places = {
        "runs/demo": str(uninterrupted),
        "corpora/python": str(corpus),
        "code#12": "tales#2",
        "--tokens 100:120": "--tokens 10:20",
        "--step 100": "--step 10",
        "tokens.html": str(tmp_path / "tokens.html"),
    }
    for line in lines:
        for name, place in places.items():
            line = line.replace(name, place)
        assert command(*shlex.split(line)).exit_code == 0, line
