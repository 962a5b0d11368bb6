"""A published model whose vocabulary is full gets sentinels, learns UL2R, and is published again."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from helpers.character_tokenizer import BOS, EOS, write_tokenizer
from helpers.hf_goldens import golden, logits_and_greedy, write_published
from helpers.run_helpers import run
from pathways_lite.cli.main import app
from pathways_lite.data.build import build
from pathways_lite.document_frame import DocumentFrame
from pathways_lite.errors import UserError
from pathways_lite.methods.growth import new_ids_share, plan_growth
from pathways_lite.objectives.denoisers import count_needed_sentinels
from pathways_lite.recipe import (
    UL2R,
    AdamW,
    Causal,
    Data,
    Evaluation,
    Grow,
    Model,
    Recipe,
    Restore,
    Stage,
    VocabularyGrowth,
)
from pathways_lite.training.load import load_model
from pathways_lite.training.resolve import resolve_recipe

CASE, V = "llama2", 61
NEEDED = 8 + count_needed_sentinels(UL2R(), 16)


@pytest.fixture(autouse=True)
def _run_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    from helpers.run_helpers import stub_slow_parts

    stub_slow_parts(monkeypatch)


@pytest.fixture
def framed(tmp_path: Path, corpus: Path) -> str:
    tokenizer = str(write_tokenizer(tmp_path / "tokenizer", V))
    source = str(corpus.parent / "corpus.jsonl")
    return build([source], tmp_path / "store", tokenizer=tokenizer, bos=BOS, eos=EOS, held_out=0.1, workers=0).address


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


def imported(tmp_path: Path) -> Path:
    command("convert", write_published(tmp_path / "hf", CASE), tmp_path / "llama", "--from", "hf")
    return tmp_path / "llama"


def ul2r(model: Model, corpus: str, start: Any, name: str = "more") -> Stage:
    return Stage(
        name=name, model=model, data=Data(corpus=corpus, seq_len=16), objective=UL2R(), optimizer=AdamW(),
        batch_size=4, budget="4 steps", start=start, log_every=1, evaluation=Evaluation(every=4, tokens=300),
    )  # fmt: skip


def test_a_full_vocabulary_is_grown_by_sentinels_and_trained_and_exported(framed: str, tmp_path: Path) -> None:
    llama = imported(tmp_path)
    small = load_model(llama)
    recipe = Recipe(name="ul2r", stages=(ul2r(small.stage.model, framed, Restore(path=str(llama))),))
    with pytest.raises(UserError, match=rf"grow CHECKPOINT OUT --operator vocabulary model.vocab_size={V + NEEDED}\."):
        resolve_recipe(recipe)

    dry = command("grow", llama, tmp_path / "x", "--operator", "vocabulary", "--add-tokens", NEEDED, "--dry-run")
    assert f"vocab_size {V} → {V + NEEDED}" in dry.output
    assert "the logits of old ids stay" in dry.output
    result = command("grow", llama, tmp_path / "grown", "--operator", "vocabulary", "--add-tokens", NEEDED)
    assert result.exit_code == 0
    grown = load_model(tmp_path / "grown")
    assert grown.stage.model.vocab_size == V + NEEDED
    logits, _ = logits_and_greedy(CASE, grown.stage.model, grown.params())
    expected = golden(CASE)["logits"]
    assert np.abs(logits[:, :V] - expected).max() <= 1e-5 * np.abs(expected).max()
    share = new_ids_share(plan_growth(Grow(operator=VocabularyGrowth()), small.stage.model, grown.stage.model))
    assert (np.asarray(jax.nn.softmax(logits))[:, V:].sum(axis=1) <= share).all()

    recipe = Recipe(name="ul2r", stages=(ul2r(grown.stage.model, framed, Restore(path=str(tmp_path / "grown"))),))
    assert run(recipe, tmp_path / "run") == 0
    trained = load_model(tmp_path / "run")
    tokens = trained.stage.objective.tokens  # type: ignore[union-attr]
    assert (tokens.s2s, tokens.first_sentinel, tokens.sentinels) == (V, V + NEEDED - 1, NEEDED - 8)
    changed = np.abs(np.asarray(trained.params()["embedding"]) - np.asarray(grown.params()["embedding"])).max(axis=1)
    assert changed[tokens.s2s] > 0
    assert trained.frame() == DocumentFrame(V - 2, V - 1)

    command("convert", tmp_path / "run", tmp_path / "back", "--to", "hf")
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["vocab_size"] == V + NEEDED
    assert (config["bos_token_id"], config["eos_token_id"]) == (V - 2, V - 1)
    stored = {k: v for path in (tmp_path / "back").glob("*.safetensors") for k, v in load_file(path).items()}
    assert stored["model.embed_tokens.weight"].shape == (V + NEEDED, grown.stage.model.d_model)


def test_a_start_that_grows_is_the_growth_of_files(framed: str, tmp_path: Path) -> None:
    """In a recipe the ids of an earlier stage's special tokens keep their meaning in the larger vocabulary."""
    llama = imported(tmp_path)
    model = load_model(llama).stage.model
    larger, largest = (model.model_copy(update={"vocab_size": V + NEEDED + n}) for n in (0, 4))
    base = ul2r(model, framed, Restore(path=str(llama)), "base").model_copy(update={"objective": Causal()})
    grow = Grow(operator=VocabularyGrowth())
    recipe = Recipe(
        name="chain",
        stages=(base, ul2r(larger, framed, grow, "ul2r"), ul2r(largest, framed, grow, "again")),
    )
    resolved = resolve_recipe(recipe)
    first, second = (stage.objective.tokens for stage in resolved.stages[1:])  # type: ignore[union-attr]
    assert first == second
    assert first.first_sentinel == V + NEEDED - 1
    assert run(recipe, tmp_path / "run") == 0
    grown, trained = load_model(tmp_path / "run" / "base"), load_model(tmp_path / "run")
    assert grown.stage.model.vocab_size == V
    assert trained.stage.model.vocab_size == V + NEEDED + 4


def test_a_tokenizer_with_more_tokens_takes_the_place_of_the_models(framed: str, tmp_path: Path, corpus: Path) -> None:
    recipe = Recipe(
        name="base",
        stages=(
            Stage(
                name="base", model=Model(d_model=8, n_layers=1, n_heads=1, head_dim=8, d_ff=8, vocab_size=V),
                data=Data(corpus=framed, seq_len=16), optimizer=AdamW(), batch_size=2, budget="1 steps",
            ),
        ),
    )  # fmt: skip
    assert run(recipe, tmp_path / "run") == 0
    longer = write_tokenizer(tmp_path / "longer", V + 2, (BOS, EOS, "<new>", "<newer>"))
    options = ("--operator", "vocabulary", "--tokenizer", longer)
    result = command("grow", tmp_path / "run", tmp_path / "grown", *options, "--pad-to", 32)
    assert result.exit_code == 0
    grown = load_model(tmp_path / "grown")
    assert (grown.stage.model.vocab_size, grown.tokenizer().vocab_size) == (64, V + 2)
    assert grown.frame() == DocumentFrame(V - 2, V - 1)
    command("grow", tmp_path / "grown", tmp_path / "again", "--operator", "vocabulary", "--add-tokens", 1)
    assert load_model(tmp_path / "again").tokenizer().fingerprint == grown.tokenizer().fingerprint
    again = build([str(corpus.parent / "corpus.jsonl")], tmp_path / "new", tokenizer=str(grown.path), workers=0)
    assert grown.open_corpus(again.address).vocab_size == V + 2
    with pytest.raises(UserError, match="in the new tokenizer and"):
        command("grow", tmp_path / "grown", tmp_path / "y", *options[:3], write_tokenizer(tmp_path / "z", V + 2))
    with pytest.raises(UserError, match="so that all 63 tokens of the extended tokenizer have a row already"):
        command("grow", tmp_path / "grown", tmp_path / "y", *options)
    with pytest.raises(UserError, match="they go with --operator vocabulary"):
        command("grow", tmp_path / "run", tmp_path / "y", "--add-tokens", 3)
    with pytest.raises(UserError, match="adds ids, not layers"):
        command("grow", tmp_path / "run", tmp_path / "y", "--operator", "vocabulary", "--factor", 2)
