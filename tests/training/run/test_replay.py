"""A run's batches, steps, logits and losses again, to the bit."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from helpers.run_helpers import TOTAL, Chain, InjectNaN, compile_once, leaves, run, stub_slow_parts
from pathways_lite.batch import Batch
from pathways_lite.checkpoints import CheckpointManager
from pathways_lite.conversion.grow_and_merge import merge_offline
from pathways_lite.data.build import build
from pathways_lite.data.reading import batch_source
from pathways_lite.errors import UserError
from pathways_lite.evaluation.generation import generate
from pathways_lite.evaluation.texts import document_logits, document_losses, encode_documents
from pathways_lite.recipe import Recipe, apply_overrides, load_recipe
from pathways_lite.tracking.log import read_log
from pathways_lite.training.hooks import TrainerHooks
from pathways_lite.training.load import TrainedModel, load_model
from pathways_lite.training.replay import (
    batch_at,
    data_stream,
    find_spikes,
    load_reading,
    restore_state,
    train_step,
)


class RecordBatches(TrainerHooks):
    """Keeps a copy of every batch in the order in which they are trained on."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, Batch]] = []

    def before_step(self, stage: str, step: int, batch: Batch) -> Batch:
        self.batches.append((step, jax.tree.map(np.array, batch)))
        return batch


def assert_equal(a: object, b: object) -> None:
    for x, y in zip(leaves(a), leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def recorded(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, Batch]]]:
    """A run that keeps the checkpoint of every step, and its batches."""
    path, record = tmp_path_factory.mktemp("recorded") / "run", RecordBatches()
    with pytest.MonkeyPatch.context() as patch:
        compile_once(patch)
        stub_slow_parts(patch)
        changes = ["saving.every=1", "saving.keep=99", "log_every=1"]
        recipe = apply_overrides(load_recipe(recipe_file), [f"stages.base.{change}" for change in changes])
        assert run(recipe, path, record) == 0
    return path, record.batches


def at(path: Path, step: int) -> TrainedModel:
    return load_model(CheckpointManager(path / "base" / "checkpoints").path(step))


def test_batch_k_is_the_trainers_batch_k(recorded: tuple[Path, list[tuple[int, Batch]]]) -> None:
    path, batches = recorded
    model = load_model(path)
    assert [step for step, _ in batches] == list(range(TOTAL))
    for step, batch in batches:
        assert_equal(batch_at(model, step), batch)
    with pytest.raises(UserError, match="the steps 0 to 11"):
        batch_at(model, TOTAL)


def test_one_step_from_checkpoint_k_gives_checkpoint_k_plus_1(recorded: tuple[Path, object]) -> None:
    path, _ = recorded
    rows = {row["step"]: row for row in read_log(path / "base" / "log.jsonl") if row["kind"] == "train"}
    for step in (1, 5, TOTAL - 1):
        model = at(path, step)
        state = restore_state(model)
        before = [leaf.copy() for leaf in leaves(state)]
        next_state, metrics = train_step(model, state, batch_at(model, step))
        assert_equal(next_state, restore_state(at(path, step + 1)))
        assert_equal(before, leaves(state))  # it is not consumed
        for name in ("loss", "grad_norm", "learning_rate"):
            assert metrics[name] == np.float32(rows[step + 1][name])


def test_token_losses_are_those_that_the_held_out_evaluation_sums(recorded: tuple[Path, object]) -> None:
    model = load_model(recorded[0])
    evaluator, params = model.evaluator(), model.params()
    for domain, result in evaluator.evaluate(params).items():
        documents = evaluator.documents[domain]
        losses = evaluator.scorer.token_losses(params, documents)
        assert [len(of_document) for of_document in losses] == [document.predictions for document in documents]
        np.testing.assert_allclose(sum(np.sum(x, dtype=np.float64) for x in losses), result.nll, rtol=1e-12)
        # In other batches, of another program, they are the same up to rounding.
        again = document_losses(
            model.stage.model, params, [document.tokens for document in documents], seq_len=model.stage.data.seq_len
        )
        for document, one, other in zip(documents, losses, again, strict=True):
            np.testing.assert_allclose(one, other[: document.predictions], atol=1e-5)


def test_logits_losses_and_samples_belong_together(recorded: tuple[Path, object]) -> None:
    model = load_model(recorded[0])
    config, params, tokenizer = model.stage.model, model.params(), model.tokenizer()
    documents = encode_documents(tokenizer, ["the night of light", "", "stone " * 40])
    assert [document[0] for document in documents] == [tokenizer.eod] * 3
    assert document_losses(config, params, []) == []
    together = document_losses(config, params, documents)
    for document, losses in zip(documents, together, strict=True):
        (logits,) = document_logits(config, params, [document])
        assert logits.shape == (len(document), config.vocab_size)
        exact = np.asarray(logits, np.float64)
        targets = np.append(document[1:], tokenizer.eod)
        expected = np.log(np.exp(exact).sum(axis=1)) - exact[np.arange(len(targets)), targets]
        np.testing.assert_allclose(losses, expected, atol=2e-5)
        # What follows has no influence, and a document does not see another one.
        (prefix,) = document_logits(config, params, [document[:2]])
        np.testing.assert_allclose(prefix, logits[:2], atol=1e-5)
        np.testing.assert_allclose(document_losses(config, params, [document])[0], losses, atol=1e-5)
    (logits,) = document_logits(config, params, documents[:1])
    text = generate(config, params, tokenizer, "the night of light", max_tokens=1, temperature=0, key=jax.random.key(0))
    best = int(np.argmax(logits[-1]))
    assert text == (
        "" if best == tokenizer.eod else tokenizer.decode([*documents[0], best])[len("the night of light") :]
    )


def test_a_checkpoint_of_parameters_alone_has_no_state(recorded: tuple[Path, object], tmp_path: Path) -> None:
    path, _ = recorded
    merged = load_model(merge_offline([at(path, 3), at(path, 4)], [1, 1], tmp_path / "merged", lambda line: None))
    with pytest.raises(UserError, match="holds parameters alone"):
        restore_state(merged)
    state = merged.components.state_with(merged.params())
    next_state, metrics = train_step(merged, state, batch_at(merged, 0))
    assert int(next_state.step) == 1
    assert np.isfinite(metrics["loss"])


def test_around_a_rewind_the_batch_of_the_spike_is_the_one_that_was_read_then(recipe: Recipe, tmp_path: Path) -> None:
    changes = ["guard.policy=rewind", "guard.rewind_steps=2", "guard.skip_batches=3"]
    record = RecordBatches()
    rewinding = apply_overrides(recipe, [f"stages.base.{change}" for change in changes])
    assert run(rewinding, tmp_path / "run", Chain(InjectNaN(12), record)) == 0
    model, reading = load_model(tmp_path / "run"), load_reading(tmp_path / "run")
    (spike,) = find_spikes(reading)
    assert (spike.step, spike.skips) == (5, 0)
    first, again = [batch for step, batch in record.batches if step == 5]
    then = batch_source(data_stream(model, skips=spike.skips), 5).batch
    assert_equal(then.sample_id, first.sample_id)
    assert 12 in then.sample_id[:, 1]
    assert_equal(then.tokens, first.tokens)
    assert_equal(batch_at(model, 5), again)


def test_a_dropped_update_is_a_spike_and_otherwise_the_largest_rise(recipe: Recipe, tmp_path: Path) -> None:
    skipping = apply_overrides(recipe, ["stages.base.guard.policy=skip", "stages.base.log_every=1"])
    assert run(skipping, tmp_path / "run", InjectNaN(12)) == 0
    assert [spike.step for spike in find_spikes(load_reading(tmp_path / "run"))] == [5]
    log = tmp_path / "run" / "base" / "log.jsonl"
    lines = [line for line in log.read_text().splitlines() if '"skip"' not in line and "nan" not in line.lower()]
    raised = [line.replace('"loss": ', '"loss": 9') if '"step": 8,' in line else line for line in lines]
    log.write_text("\n".join(raised) + "\n")
    (spike,) = find_spikes(load_reading(tmp_path / "run"))
    assert spike.step == 7
    assert spike.is_rise


def test_another_corpus_is_refused(recorded: tuple[Path, object], tmp_path: Path, corpus: Path) -> None:
    model = load_model(recorded[0])
    moved = shutil.copytree(corpus, tmp_path / "moved")
    assert_equal(batch_at(model, 3, str(moved)), batch_at(model, 3))
    (tmp_path / "text.txt").write_text("the night of light " * 400)
    build([str(tmp_path / "text.txt")], tmp_path / "other", tokenizer=str(corpus), held_out=0.1, workers=0)
    with pytest.raises(UserError, match="is not the corpus"):
        batch_at(model, 3, str(tmp_path / "other"))


def test_stages_are_named(recorded: tuple[Path, object]) -> None:
    assert load_reading(recorded[0], "base").steps == TOTAL
    with pytest.raises(UserError, match=r"no stage 'more'\. There are: base"):
        load_reading(recorded[0], "more")


def test_the_batch_of_a_spike_before_the_first_checkpoint_is_known(recipe: Recipe, tmp_path: Path) -> None:
    early = apply_overrides(recipe, ["stages.base.saving.every=99", "stages.base.evaluation.every=99"])
    record = RecordBatches()
    with pytest.raises(UserError, match="halted at step 6"):
        run(early, tmp_path / "run", Chain(InjectNaN(12), record))
    assert not (tmp_path / "run" / "base" / "checkpoints").is_dir()
    reading = load_reading(tmp_path / "run")
    (spike,) = find_spikes(reading)
    assert spike.step == 5
    assert_equal(data_stream(reading).batch_at(5).tokens, dict(record.batches)[5].tokens)
