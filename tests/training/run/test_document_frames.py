"""Runs on a corpus whose documents BOS opens and EOS closes: training, evaluation, generation and what shows them."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

from helpers.character_tokenizer import BOS, EOS, write_tokenizer
from helpers.run_helpers import StopAfter, compile_once, digest, log_bytes, run, stub_slow_parts
from pathways_lite.cli.main import app
from pathways_lite.data.build import build
from pathways_lite.data.store import Store, open_store
from pathways_lite.document_frame import DocumentFrame
from pathways_lite.evaluation.texts import document_losses, encode_documents
from pathways_lite.objectives.causal import causal
from pathways_lite.recipe import UL2R, Recipe, Reweighting, apply_overrides, load_recipe
from pathways_lite.sampling import GREEDY, Request, Sampler
from pathways_lite.training.load import load_model
from pathways_lite.training.replay import batch_at

FRAME = DocumentFrame(59, 60)


@pytest.fixture(scope="module")
def framed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    directory = tmp_path_factory.mktemp("framed")
    tokenizer = write_tokenizer(directory / "tokenizer")
    source = str(corpus.parent / "corpus.jsonl")
    return build(
        [source], directory / "store", tokenizer=str(tokenizer), bos=BOS, eos=EOS, held_out=0.1, workers=0
    )  # fmt: skip


def output(*arguments: object) -> Any:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    return json.loads(result.stdout)


def on(recipe: Recipe, store: Store, **fields: Any) -> Recipe:
    recipe = apply_overrides(recipe, [f"stages.*.data.corpus={store.address}", "stages.*.model.dropout=0"])
    stages = tuple(stage.model_copy(update=fields) for stage in recipe.stages)
    return recipe.model_copy(update={"stages": stages})


@pytest.fixture(scope="module")
def trained(recipe_file: Path, framed: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run"
    reweighting = Reweighting(sample="document")
    with pytest.MonkeyPatch.context() as patch:
        compile_once(patch)
        stub_slow_parts(patch)
        assert run(on(load_recipe(recipe_file), framed, reweighting=reweighting), path) == 0
    return path


def test_what_is_trained_on_is_shown_and_bos_is_never_predicted(trained: Path, framed: Store) -> None:
    model = load_model(trained)
    batch = batch_at(model, 3)
    np.testing.assert_array_equal(batch.loss_weights > 0, np.asarray(batch.targets) != 59)
    (shown,) = output("data", "batch", trained, "--step", 3, "--rows", 99)["batches"]
    predicted = "".join(s["text"] for row in shown["rows"] for s in row["stretches"] if s["role"] == "predicted")
    given = "".join(s["text"] for row in shown["rows"] for s in row["stretches"] if s["role"] == "input")
    assert predicted.count("⟨eos⟩") == (np.asarray(batch.targets) == 60).sum() > 0
    assert "⟨bos⟩" in given
    assert "⟨bos⟩" not in predicted
    (part, *_) = shown["rows"][0]["documents"]
    (who,) = output("data", "who-read", trained, f"{part['domain']}#{part['document']}")["stages"]
    assert who["stop"] == np.diff(framed.document_starts(part["domain"]))[part["document"]]
    assert 3 in {read["step"] for read in who["reads"]}


def test_held_out_losses_are_those_of_training_batches_and_count_eos(trained: Path, framed: Store) -> None:
    model = load_model(trained)
    params, config = model.params(), model.stage.model
    (document, *_) = framed.held_out("tales", 10**6)
    (nats,) = document_losses(config, params, [document.tokens], frame=FRAME)
    assert len(nats) == len(document.tokens)
    stream = FRAME.to_stream(document.tokens)
    batch = causal(stream[None], FRAME, "document", np.zeros(1), np.zeros(1))
    assert (batch.targets[0, -1], batch.loss_weights.sum()) == (60, len(nats))
    evaluator = model.evaluator()
    (again,) = evaluator.scorer.token_losses(params, evaluator.documents["tales"][:1])
    if len(nats) <= model.stage.data.seq_len:
        np.testing.assert_allclose(again, nats, rtol=1e-4)
    results = evaluator.evaluate(params)
    held_out = [*framed.held_out("tales", model.stage.evaluation.tokens)]
    assert results["tales"].tokens == sum(len(d.tokens) - (not d.is_whole) for d in held_out)
    assert results["tales"].bytes == sum(d.text_bytes for d in held_out)
    text = framed.tokenizer().decode(document.tokens[1:].tolist())
    (encoded,) = encode_documents(framed.tokenizer(), [text], frame=FRAME)
    np.testing.assert_array_equal(encoded, document.tokens)


def test_a_checkpoint_carries_the_frame(trained: Path, framed: Store, tmp_path: Path) -> None:
    before = output("evaluate", trained)["domains"]
    Path(framed.address).rename(tmp_path / "moved")
    try:
        model = load_model(trained)
        assert model.frame() == FRAME
        assert output("evaluate", trained)["domains"] == before
        assert open_store(str(tmp_path / "moved")).frame == FRAME
    finally:
        (tmp_path / "moved").rename(framed.address)


def test_a_prompt_opens_with_bos_and_the_answer_stops_at_eos(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    sample = Sampler.sample

    def record(sampler: Sampler, requests: Any, *rest: Any) -> Any:
        asked.extend(request.prompt for request in requests)
        return sample(sampler, requests, *rest)

    monkeypatch.setattr(Sampler, "sample", record)
    (text,) = output("generate", trained, "--prompt", "the tree", "--max-tokens", 12, "--temperature", 0)["samples"]
    assert text.startswith("the tree")
    model = load_model(trained)
    assert asked[0].tokens == [59, *model.tokenizer().encode("the tree")]
    assert asked[0].end == 60
    params = model.params()
    sure = params | {"final_norm": jax.tree.map(lambda x: x * 0, params["final_norm"])}  # all logits are equal
    for frame, length in ((DocumentFrame(59, 0), 0), (FRAME, 4)):  # the likeliest id is then 0
        sampler = Sampler.of_params(model.stage.model, sure, frame.ids, rows=1)
        (drawn,) = sample(sampler, [Request(asked[0], GREEDY, 4)])
        assert len(drawn.answer) == length


def test_ul2r_on_it_is_the_same_after_an_interruption(recipe: Recipe, framed: Store, tmp_path: Path) -> None:
    ul2r = on(apply_overrides(recipe, ["stages.*.model.vocab_size=128"]), framed, objective=UL2R())
    assert run(ul2r, tmp_path / "whole") == 0
    assert run(ul2r, tmp_path / "resumed", StopAfter(7)) == 128 + 15
    assert run(ul2r, tmp_path / "resumed") == 0
    assert digest(tmp_path / "whole") == digest(tmp_path / "resumed")
    assert log_bytes(tmp_path / "whole") == log_bytes(tmp_path / "resumed")
    summary = json.loads((tmp_path / "whole" / "base" / "summary.json").read_text())
    assert all(result["loss"] > 0 for result in summary["denoisers"].values())
    openers = output("evaluate", tmp_path / "whole", "--infilling")["openers"]
    assert list(openers) == ["bos", "s2s", "best"]
    batch = batch_at(load_model(tmp_path / "whole"), 2)
    assert not (np.asarray(batch.targets)[np.asarray(batch.loss_weights) > 0] == 59).any()
