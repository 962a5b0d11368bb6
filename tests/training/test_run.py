"""Whole runs: resumed equals uninterrupted bit for bit, spikes, the starts, and what is refused."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

from pathways_lite.batch import Batch
from pathways_lite.checkpoints import Checkpoints, read_manifest, restore
from pathways_lite.errors import UserError
from pathways_lite.ledger import Ledger
from pathways_lite.recipe import Continue, Recipe, Restore, Saving, SpikeGuard, Stage, apply_overrides, load_recipe
from pathways_lite.run_directory import RunDirectory
from pathways_lite.tracking.log import read_log
from pathways_lite.training import summary
from pathways_lite.training.compiling import Interrupted, StepCompiler
from pathways_lite.training.load import load_model
from pathways_lite.training.loop import Trainer
from pathways_lite.training.run import checkpoints_to_keep, describe, train_run
from pathways_lite.training.setup import Setup

TOTAL = 12


def leave_out_what_has_tests_of_its_own(patch: pytest.MonkeyPatch) -> None:
    """Samples, pictures and the machine's peak."""
    patch.setattr(summary, "_sample", lambda setup, params, domain: {"prompt": "", "text": domain})
    patch.setattr("pathways_lite.training.run.measured_peak", lambda dtype: 1e11)
    patch.setattr("pathways_lite.training.run._draw", lambda run: None)


COMPILED: dict[Any, Any] = {}


def compile_once(patch: pytest.MonkeyPatch) -> None:
    """All runs here share what they would otherwise trace and compile again: it is the same."""
    original = Setup.compile_step

    def compile_step(self: Setup, sequences: int) -> Any:
        stage = self.stage
        key = (stage.model, stage.optimizer, stage.objective, stage.budget, stage.batch_size, sequences)
        if key not in COMPILED:
            COMPILED[key] = original(self, sequences)
        return COMPILED[key]

    patch.setattr(Setup, "compile_step", compile_step)
    patch.setattr("pathways_lite.training.run.Setup", lambda *args: COMPILED.setdefault(args, Setup(*args)))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_once(monkeypatch)
    leave_out_what_has_tests_of_its_own(monkeypatch)


@pytest.fixture
def recipe(recipe_file: Path) -> Recipe:
    return load_recipe(recipe_file)


@pytest.fixture(scope="module")
def uninterrupted(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that all others must equal."""
    path = tmp_path_factory.mktemp("run") / "uninterrupted"
    with pytest.MonkeyPatch.context() as patch:
        compile_once(patch)
        leave_out_what_has_tests_of_its_own(patch)
        assert run(load_recipe(recipe_file), path) == 0
    return path


def run(recipe: Recipe, path: Path) -> int:
    return train_run(recipe, path, console=Console(file=io.StringIO()))


def digest(path: Path, stage: str = "base", step: int = TOTAL) -> str:
    """Of everything the final checkpoint holds: parameters, optimizer, key, step."""
    return read_manifest(Checkpoints(path / stage / "checkpoints").path(step)).digest


def leaves(tree: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def log_of(path: Path, stage: str = "base") -> bytes:
    return (path / stage / "log.jsonl").read_bytes()


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """SIGTERM arrives while `step` is being taken; each call replaces the one before."""
    original = Trainer._take_step

    def take_step(self: Trainer, batch: Batch) -> Any:
        result = original(self, batch)
        if self.step == step:
            monkeypatch.setattr(type(self.stop), "requested", property(lambda _: 15))
        return result

    monkeypatch.setattr(Trainer, "_take_step", take_step)


# ---- resuming ----


@pytest.mark.parametrize("step", range(1, TOTAL + 1))
def test_a_run_stopped_at_any_step_resumes_bit_for_bit(
    step: int, recipe: Recipe, uninterrupted: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, step)
        assert run(recipe, path) == 128 + 15
    assert Checkpoints(path / "base" / "checkpoints").newest == step
    assert run(recipe, path) == 0
    assert log_of(path) == log_of(uninterrupted)
    assert digest(path) == digest(uninterrupted)


@pytest.mark.parametrize(("method", "step"), [("_evaluate", 6), ("_take_step", 7), ("_save", 8)])
def test_a_run_that_dies_at_a_bad_moment_resumes_bit_for_bit(
    method: str, step: int, recipe: Recipe, uninterrupted: Path, tmp_path: Path
) -> None:
    """Died without saying so: rows beyond the newest checkpoint are there and must be forgotten."""

    class Died(BaseException):
        pass

    def dies_at(step: int, method: str) -> Callable[..., Any]:
        original = getattr(Trainer, method)

        def wrapped(self: Trainer, *args: Any) -> Any:
            result = original(self, *args)
            if self.step >= step:
                raise Died
            return result

        return wrapped

    path = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, method, dies_at(step, method))
        with pytest.raises(Died):
            run(recipe, path)
    assert run(recipe, path) == 0
    assert log_of(path) == log_of(uninterrupted)
    assert digest(path) == digest(uninterrupted)


def test_a_signal_while_a_later_batch_size_compiles_loses_no_step(
    recipe: Recipe, uninterrupted: Path, tmp_path: Path
) -> None:
    original = StepCompiler.get

    def get(self: StepCompiler, sequences: int, stopped: Callable[[], object]) -> Any:
        if sequences == 4:  # the ramp's second size, from step 5 on
            raise Interrupted
        return original(self, sequences, stopped)

    path = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepCompiler, "get", get)
        patch.setattr(StepCompiler, "ready", lambda self, sequences: False)
        run(recipe, path)
    assert Checkpoints(path / "base" / "checkpoints").newest == 5
    assert run(recipe, path) == 0
    assert log_of(path) == log_of(uninterrupted)
    assert digest(path) == digest(uninterrupted)


def test_an_evaluation_on_resuming_may_be_interrupted_again(
    recipe: Recipe, uninterrupted: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 6)
        run(recipe, path)
        # Still asked to stop: the evaluation that is due comes first, and is cut short again.
        assert run(recipe, path) == 128 + 15
    assert Checkpoints(path / "base" / "checkpoints").newest == 6
    assert run(recipe, path) == 0
    assert log_of(path) == log_of(uninterrupted)
    assert digest(path) == digest(uninterrupted)


def test_a_damaged_newest_checkpoint_is_passed_over(recipe: Recipe, uninterrupted: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 9)
        run(recipe, path)
    newest = Checkpoints(path / "base" / "checkpoints").path(9)
    array = max((file for file in newest.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    content = bytearray(array.read_bytes())
    content[len(content) // 2] ^= 1
    array.write_bytes(content)
    assert run(recipe, path) == 0
    assert log_of(path) == log_of(uninterrupted)
    assert digest(path) == digest(uninterrupted)


def test_a_finished_run_is_left_alone(recipe: Recipe, uninterrupted: Path) -> None:
    before = log_of(uninterrupted), digest(uninterrupted)
    assert run(recipe, uninterrupted) == 0
    assert (log_of(uninterrupted), digest(uninterrupted)) == before


# ---- what a run leaves ----


def test_the_log_and_the_ledger_agree_with_the_course(uninterrupted: Path, recipe: Recipe) -> None:
    rows = read_log(uninterrupted / "base" / "log.jsonl")
    course = load_model(uninterrupted).setup.course
    train = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in train] == list(range(1, TOTAL + 1))
    assert [row["tokens"] for row in train] == [course.tokens_before(step) for step in range(1, TOTAL + 1)]
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [6, 12]
    accounts = RunDirectory(uninterrupted).stage("base").ledger
    assert accounts is not None
    ledger = Ledger.from_json(accounts["stage"])
    assert ledger.counts() == Ledger().after(course, TOTAL).counts()
    assert 0 < ledger.seconds.train < ledger.seconds.total
    assert train[-1]["loss"] < train[0]["loss"]


def test_the_resolved_recipe_says_all_that_determines_the_result(uninterrupted: Path, recipe: Recipe) -> None:
    resolved = RunDirectory(uninterrupted).recipe()
    assert resolved.stages[0].data.fingerprint
    without = apply_overrides(resolved, ["stages.base.data.fingerprint=none"])
    assert without == recipe


def test_describe_counts_epochs(recipe: Recipe) -> None:
    line = describe(recipe)
    assert "12 steps" in line
    assert "epochs" in line


# ---- spikes ----


def poison(monkeypatch: pytest.MonkeyPatch, sample: int, value: float, seen: list[int] | None = None) -> None:
    """Whenever example `sample` is in a batch, its loss becomes `value` times as large."""
    original = Trainer._train_step

    def train_step(self: Trainer, batch: Batch) -> Any:
        compiled = original(self, batch)

        def poisoned(state: Any, batch: Batch, clock: Any) -> Any:
            ids = batch.sample_id[:, 1]
            if seen is not None:
                seen.extend(ids.tolist())
            factor = np.where(ids == sample, value, 1.0).astype(np.float32)[:, None]
            return compiled(state, batch._replace(loss_weights=batch.loss_weights * factor), clock)

        return poisoned

    monkeypatch.setattr(Trainer, "_train_step", train_step)


def with_guard(recipe: Recipe, policy: str, *more: str) -> Recipe:
    return apply_overrides(recipe, [f"stages.base.guard.policy={policy}", *(f"stages.base.guard.{m}" for m in more)])


def finite_params(path: Path) -> bool:
    loaded = load_model(path)
    return all(np.isfinite(leaf).all() for leaf in leaves(loaded.params()))


POISONED = 12  # in the batch of step 5, whose examples are 10 to 13


def test_halt_stops_with_a_sentence_and_good_parameters(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, POISONED, np.nan)
    with pytest.raises(UserError, match=r"halted at step 6.*nan.*checkpoint is of step 4"):
        run(recipe, tmp_path)
    assert finite_params(tmp_path)


def test_skip_drops_the_update_and_goes_on(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, POISONED, np.nan)
    assert run(with_guard(recipe, "skip"), tmp_path) == 0
    events = [row for row in read_log(tmp_path / "base" / "log.jsonl") if row["kind"] == "event"]
    assert [(row["event"], row["step"]) for row in events] == [("skip", 6)]
    assert finite_params(tmp_path)


@pytest.mark.parametrize("stopped_at", [None, 5, 8])
def test_rewind_passes_over_the_batches_and_survives_a_stop(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_at: int | None
) -> None:
    """PaLM section 5.1. The result must not depend on being stopped after the rewind."""
    rewinding = with_guard(recipe, "rewind", "rewind_steps=2", "skip_batches=3")
    seen: list[int] = []
    poison(monkeypatch, POISONED, np.nan, seen)
    if stopped_at is not None:
        with pytest.MonkeyPatch.context() as patch:
            stop_after(patch, stopped_at)
            run(rewinding, tmp_path)
    assert run(rewinding, tmp_path) == 0

    # The spike is in batch 5 (0-based): back to step 3. Passed over are the batches of steps 3, 4 and 5: 2 + 2 + 4.
    cursor = read_manifest(Checkpoints(tmp_path / "base" / "checkpoints").path(TOTAL)).meta["cursor"]
    assert cursor == {"first_sequence": 0, "skips": [[3, 8]]}
    assert finite_params(tmp_path)
    assert seen.count(POISONED) == 1
    events = [row for row in read_log(tmp_path / "base" / "log.jsonl") if row["kind"] == "event"]
    assert [row["event"] for row in events] == ["rewind"]

    reference = tmp_path / "reference"
    assert run(rewinding, reference) == 0
    assert log_of(tmp_path) == log_of(reference)
    assert digest(tmp_path) == digest(reference)


def test_rewinds_reach_back_far_enough() -> None:
    guard, saving = SpikeGuard(policy="rewind", rewind_steps=100), Saving(every=30, keep=1)
    stage = Stage.model_construct(guard=guard, saving=saving)
    kept = checkpoints_to_keep(stage)
    # Seen one step late, just before a save: the oldest kept must still lie 100 steps before the spike.
    assert (kept - 1) * 30 >= 101


# ---- starts ----


def chain(recipe: Recipe, *changes: str, start: Any = None) -> Recipe:
    """`recipe` with a second stage `more` after it."""
    base = recipe.stages[0]
    more = base.model_copy(update={"name": "more", "start": start or Continue()})
    return apply_overrides(recipe.model_copy(update={"stages": (base, more)}), changes)


def params_at(path: Path, stage: str, step: int) -> Any:
    checkpoint = Checkpoints(path / stage / "checkpoints").path(step)
    return restore(checkpoint, load_model(checkpoint).setup.abstract_state.params, "params").arrays


def test_a_continued_stage_goes_on_with_parameters_data_and_ledger(
    recipe: Recipe, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    poison(monkeypatch, -1, 1.0, seen)
    assert run(chain(recipe, "stages.more.budget=4 steps"), tmp_path) == 0
    assert digest(tmp_path) == digest(uninterrupted)  # a shared first stage computes the same
    manifest = read_manifest(Checkpoints(tmp_path / "more" / "checkpoints").path(4))
    assert manifest.meta["lineage"]["parent"] == digest(tmp_path)
    assert manifest.meta["cursor"]["first_sequence"] == 10 + 7 * 4  # 5 steps of 2 and 7 of 4 before
    assert seen == list(range(10 + 7 * 4 + 8))  # no sequence twice, none left out
    total = Ledger.from_json(manifest.meta["ledger"]["total"])
    assert total.steps == 16
    row = read_log(tmp_path / "more" / "log.jsonl")[-1]
    assert row["total_tokens"] == total.tokens == row["tokens"] + 38 * 32


@pytest.mark.parametrize("start", [Continue(optimizer="keep"), Continue(optimizer="reset")])
def test_the_optimizer_is_kept_or_reset(recipe: Recipe, tmp_path: Path, start: Continue) -> None:
    """With a learning rate of nearly nothing the first update shows which moments were there."""
    two = chain(recipe, "stages.more.budget=1 steps", "stages.more.optimizer.learning_rate=1e-30", start=start)
    assert run(two, tmp_path) == 0
    state = load_model(tmp_path / "more").setup.abstract_state
    path = Checkpoints(tmp_path / "more" / "checkpoints").path(1)
    counts = [leaf for leaf in leaves(restore(path, state.opt_state, "opt_state").arrays) if leaf.ndim == 0]
    assert {int(count) for count in counts} == {TOTAL + 1 if start.optimizer == "keep" else 1}


def test_restore_starts_from_any_run(recipe: Recipe, uninterrupted: Path, tmp_path: Path) -> None:
    base = recipe.stages[0].model_copy(update={"start": Restore(path=str(uninterrupted))})
    restored = recipe.model_copy(update={"stages": (base,)})
    assert run(apply_overrides(restored, ["stages.base.budget=1 steps"]), tmp_path) == 0
    manifest = read_manifest(Checkpoints(tmp_path / "base" / "checkpoints").path(1))
    assert manifest.meta["lineage"]["parent"] == digest(uninterrupted)
    assert RunDirectory(tmp_path).recipe().stages[0].start.digest == digest(uninterrupted)  # type: ignore[union-attr]


def test_a_checkpoint_of_another_shape_is_refused_with_the_difference(
    recipe: Recipe, uninterrupted: Path, tmp_path: Path
) -> None:
    base = recipe.stages[0].model_copy(update={"start": Restore(path=str(uninterrupted))})
    wider = apply_overrides(recipe.model_copy(update={"stages": (base,)}), ["stages.base.model.d_ff=96"])
    with pytest.raises(UserError, match=r"64.*96"):
        run(wider, tmp_path)


@pytest.mark.parametrize("start", ["grow", "merge"])
def test_starts_to_come_are_refused(recipe: Recipe, tmp_path: Path, start: str) -> None:
    with pytest.raises(UserError, match="not yet"):
        run(chain(recipe, f"stages.more.start={start}"), tmp_path)


# ---- what is refused ----


def test_another_recipe_in_the_same_directory_is_refused(recipe: Recipe, uninterrupted: Path) -> None:
    other = apply_overrides(recipe, ["stages.base.optimizer.learning_rate=1e-4"])
    with pytest.raises(UserError, match=r"optimizer\.learning_rate: 0\.003 there, 0\.0001 now"):
        run(other, uninterrupted)


def test_a_missing_corpus_is_a_sentence(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="data build"):
        run(apply_overrides(recipe, [f"stages.base.data.corpus={tmp_path / 'nothing'}"]), tmp_path / "run")


def test_a_vocabulary_too_small_is_a_sentence(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="vocab_size"):
        run(apply_overrides(recipe, ["stages.base.model.vocab_size=100"]), tmp_path)


def test_logs_are_json(uninterrupted: Path) -> None:
    for name in ("log.jsonl", "timings.jsonl"):
        assert all(json.loads(line)["kind"] for line in (uninterrupted / "base" / name).read_text().splitlines())
