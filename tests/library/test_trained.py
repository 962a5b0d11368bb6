"""`pl.train` and `pl.load` give what the command line gives, in one object."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

import pathways_lite as pl
from helpers.run_helpers import TOTAL, leaves
from pathways_lite.cli.main import app
from pathways_lite.evaluation.texts import document_losses, encode_documents
from pathways_lite.ledger import Ledger
from pathways_lite.recipe import Model, Recipe


def run(*words: object) -> dict:
    result = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_model_has_its_parts(trained: pl.Trained, recipe: Recipe) -> None:
    assert isinstance(trained.model, Model)
    assert trained.model == recipe.stages[0].model
    assert trained.tokenizer.decode(trained.tokenizer.encode("a river")) == "a river"
    assert trained.recipe.name == "tiny"
    assert trained.stage.name == "base"
    assert isinstance(trained.ledger, Ledger)
    assert trained.ledger.tokens == 32 * (5 * 2 + 7 * 4)
    assert sum(leaf.size for leaf in jax.tree.leaves(trained.params)) > 0
    assert trained.checkpoint.manifest.step == TOTAL
    assert len(repr(trained)) < 300
    assert pl.load(trained.checkpoint.path).checkpoint.manifest.digest == trained.checkpoint.manifest.digest


def test_texts_are_those_of_the_command(trained: pl.Trained) -> None:
    path = trained.checkpoint.path
    expected = run("generate", path, "--prompt", "the tree", "--max-tokens", 8, "--samples", 2, "--seed", 3)
    texts = [row["text"] for row in expected["results"]]
    assert trained.generate(["a", "the tree"], max_tokens=8, samples=2, seed=3)[2:] == texts
    assert trained.generate("the tree", max_tokens=8, seed=3) == texts[0]
    assert trained.generate([]) == []


def test_evaluations_are_those_of_the_command(trained: pl.Trained, corpus: Path) -> None:
    expected = run("evaluate", trained.checkpoint.path)["domains"]
    assert {name: result.to_json() for name, result in trained.evaluate().items()} == expected
    again = trained.evaluate(corpus, tokens=100)
    assert set(again) == set(expected)
    assert again["tales"].tokens < expected["tales"]["tokens"]
    own = trained.evaluate(texts={"mine": "a river in the night"}, seq_len=16)["mine"]
    assert (own.documents, own.bytes) == (1, 20)


def test_logits_and_scores_agree_with_losses_of_documents(trained: pl.Trained) -> None:
    text, following = "the river", " in stone"
    logits = trained.logits(text + following)
    (document,) = encode_documents(trained.tokenizer, [text + following])
    assert logits.shape == (len(document), trained.model.vocab_size)
    np.testing.assert_array_equal(logits, trained.logits(document))
    np.testing.assert_array_equal(logits, trained.logits([text, text + following])[1])
    (losses,) = document_losses(trained.model, trained.params, [document])
    log_probs = np.asarray(jax.nn.log_softmax(logits[:-1]))
    np.testing.assert_allclose(-log_probs[np.arange(len(document) - 1), document[1:]], losses[:-1], rtol=1e-4)
    (whole,), (part,) = trained.score([("", text + following)]), trained.score([(text, following)])
    np.testing.assert_allclose(whole.nll, losses[:-1], rtol=1e-4)
    np.testing.assert_allclose(part.nll, losses[len(text) : -1], rtol=1e-4)
    np.testing.assert_array_equal(whole.likeliest, log_probs.argmax(-1) == document[1:])


def test_other_parameters_can_be_measured_and_saved(trained: pl.Trained, tmp_path: Path) -> None:
    halved = trained.with_params(jax.tree.map(lambda leaf: leaf / 2, trained.params))
    assert halved.evaluate()["tales"].loss != trained.evaluate()["tales"].loss
    with pytest.raises(pl.UserError, match="in no checkpoint yet"):
        halved.to_hf(tmp_path / "hf")
    saved = halved.save(tmp_path / "saved")
    for one, other in zip(leaves(saved.params), leaves(halved.params), strict=True):
        np.testing.assert_array_equal(one, other)
    assert saved.ledger.tokens == trained.ledger.tokens
    assert saved.checkpoint.manifest.meta["lineage"]["parent"] == trained.checkpoint.manifest.digest
    assert saved.evaluate()["tales"].loss == halved.evaluate()["tales"].loss
    with pytest.raises(pl.UserError, match="saved"):
        halved.save(tmp_path / "saved")
    wrong = {**trained.params, "embedding": trained.params["embedding"][:3]}
    with pytest.raises(pl.UserError, match=r"params\['embedding'\] has the shape \[3, 32\]"):
        trained.with_params(wrong)


def test_a_model_goes_to_hugging_face_and_back(trained: pl.Trained, tmp_path: Path) -> None:
    assert trained.to_hf(tmp_path / "hf") == tmp_path / "hf"
    lines: list[str] = []
    back = pl.from_hf(tmp_path / "hf", tmp_path / "back", tokens=1000, report=lines.append)
    assert any(line.startswith("model=") for line in lines)
    for one, other in zip(leaves(back.params), leaves(trained.params), strict=True):
        np.testing.assert_array_equal(one, other)
    assert back.ledger.tokens == 1000
    with pytest.raises(pl.UserError, match="back"):
        pl.from_hf(tmp_path / "hf", tmp_path / "back", report=lines.append)


def test_train_continues_a_run_and_refuses_what_does_not_go_together(
    trained: pl.Trained, recipe_file: Path, tmp_path: Path
) -> None:
    run_directory = trained.checkpoint.path.parents[2]
    assert pl.train(run_directory, track=()).checkpoint.path == trained.checkpoint.path
    with pytest.raises(pl.UserError, match="continues in its own directory"):
        pl.train(run_directory, tmp_path / "other")
    with pytest.raises(pl.UserError, match="begun with another recipe"):
        pl.train(recipe_file, run_directory, overrides=["seed=1"], track=())
    with pytest.raises(pl.UserError, match="no recipe at"):
        pl.train(tmp_path / "none.py")
