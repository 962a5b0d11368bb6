"""Speeds of stages: measured by runs, kept by shape, and what estimates make of them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pathways_lite.cpu_cores import usable_cores
from pathways_lite.evaluation.compressors import FILE as COMPRESSED
from pathways_lite.ledger import Seconds
from pathways_lite.recipe import Continue, Recipe, apply_overrides, load_recipe
from pathways_lite.studies.probe import KnownSpeeds, SpeedProbe
from pathways_lite.studies.study import Node
from pathways_lite.training import estimate as estimate_module
from pathways_lite.training import speed as speed_module
from pathways_lite.training.calibrate import calibrate_stage
from pathways_lite.training.ending import (
    COMPRESSING,
    PAGES,
    SAMPLING,
    estimate_ending,
    held_out_bytes,
    keep_ending,
)
from pathways_lite.training.estimate import estimate_recipe, estimate_stage, held_out_tokens, times_due
from pathways_lite.training.process_overhead import keep_process_overhead, process_overhead
from pathways_lite.training.resolve import resolve_recipe
from pathways_lite.training.speed import (
    Speed,
    combine,
    is_compiled,
    keep_speed,
    known_speed,
    measure_speed,
    parse_speed,
    scaled,
    speed_on_cores,
    speeds_directory,
    stage_family,
    stage_shape,
)
from pathways_lite.training.stage import StageSpec

SPEED = Speed(token=1e-3, evaluated_token=2e-4, save=0.5, compile=7.0, fixed=3.0, memory=1 << 30)


@pytest.fixture
def recipe(recipe_file: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """The tiny recipe on a corpus of its own: other tests' runs keep their compressors' results in the shared one."""
    own = shutil.copytree(corpus, tmp_path_factory.mktemp("own") / "store", ignore=shutil.ignore_patterns(COMPRESSED))
    return apply_overrides(load_recipe(recipe_file), [f"stages.base.data.corpus={own}"])


@pytest.fixture
def spec(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StageSpec:
    """The tiny recipe's stage, with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return StageSpec(resolve_recipe(recipe), 0)


def test_what_does_not_change_the_time_of_a_step_does_not_change_the_shape(recipe: Recipe) -> None:
    def shape(*changes: str) -> str:
        return stage_shape(apply_overrides(recipe, changes).stages[0])

    same = (
        "stages.base.name=other",
        'stages.base.budget="7 steps"',
        "stages.base.optimizer.learning_rate=1e-5",
        "stages.base.data.shuffle_seed=3",
        "stages.base.evaluation.every=2",
        "stages.base.saving.every=2",
    )
    assert {shape(change) for change in same} == {shape()}
    others = (
        "stages.base.model.n_layers=4",
        "stages.base.data.seq_len=16",
        "stages.base.batch_size=8",
        "stages.base.microbatch=1",
    )
    assert len({shape(), *(shape(change) for change in others)}) == 1 + len(others)


def test_a_family_is_a_shape_without_its_sizes(recipe: Recipe) -> None:
    def family(*changes: str) -> str:
        return stage_family(apply_overrides(recipe, changes).stages[0])

    sizes = ("model.n_layers=4", "model.d_ff=96", "batch_size=8", "data.seq_len=16")
    assert {family(f"stages.base.{size}") for size in sizes} == {family()}
    assert family("stages.base.optimizer=muon") != family()
    unrolled = "stages.base.model.scan_layers=false"
    assert family(unrolled, "stages.base.model.n_layers=4") != family(unrolled), "more blocks are compiled"


@pytest.mark.parametrize(("every", "first", "total", "times"), [(5, 0, 10, 2), (5, 0, 11, 3), (5, 4, 10, 2),
    (5, 5, 10, 1), (3, 0, 2, 1), (3, 10, 10, 0), (1, 7, 9, 2)])  # fmt: skip
def test_how_often_something_is_due(every: int, first: int, total: int, times: int) -> None:
    assert times_due(every, first, total) == times
    due = [step for step in range(first + 1, total + 1) if step % every == 0 or step == total]
    assert len(due) == times


def test_a_run_is_measured_by_its_activities() -> None:
    seconds = Seconds(train=8.0, compile=3.0, save=1.0, evaluate=4.0, other=2.0)
    speed = measure_speed(seconds, 20.0, 1.5, tokens=1000, evaluated_tokens=200, saves=2, steps=50)
    assert speed is not None
    assert (speed.token, speed.evaluated_token, speed.save, speed.compile) == (8e-3, 2e-2, 0.5, 3.0)
    assert speed.fixed == 20.0 - 16.0 + 1.5
    assert speed.seconds(1000, 200, 2).total == pytest.approx(21.5), "the same work again takes what it took"
    assert measure_speed(seconds, 20.0, 1.5, tokens=1000, evaluated_tokens=0, saves=0, steps=1) is None
    assert parse_speed(json.loads(json.dumps(vars(speed)))) == speed
    assert parse_speed({"token": 1}) is None
    assert parse_speed(None) is None


def test_repeated_measurements() -> None:
    speeds = [replace(SPEED, token=token, compile=token) for token in (1.0, 9.0, 2.0)]
    assert combine(speeds).token == 2.0, "a run beside other programs does not count"
    assert combine(speeds).compile == 2.0
    assert SPEED.seconds(0, 0, 0, cached=True).compile == 7.0, "unknown"
    assert scaled(SPEED, 2.0).seconds(1000, 0, 0).train == 2.0


def test_an_estimate_says_where_it_comes_from(spec: StageSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate_module, "machine_peak", lambda dtype: 1e9)
    assert estimate_stage(spec).source.startswith("assumed: 30% of this machine's peak")
    keep_speed(spec.stage, replace(SPEED, token=5.0, calibrated=True))
    assert known_speed(spec.stage) is not None
    assert estimate_stage(spec).source == "calibrated on this machine"
    keep_speed(spec.stage, SPEED)
    estimate = estimate_stage(spec)
    assert estimate.source == "measured on this machine (1 stage of this shape)"
    timeline, stage = spec.timeline, spec.stage
    evaluations = times_due(stage.evaluation.every, 0, timeline.total_steps)
    assert estimate.seconds.train == pytest.approx(1e-3 * timeline.tokens_before(timeline.total_steps))
    assert estimate.seconds.evaluate == pytest.approx(2e-4 * evaluations * held_out_tokens(spec))
    assert estimate.memory == 1 << 30
    assert "1 GiB" in estimate.sentence()
    assert "which is more than there is" in replace(estimate, memory_limit=1 << 20).sentence()


def test_the_end_of_a_run_is_estimated_from_other_shapes(spec: StageSpec, recipe: Recipe) -> None:
    keep_speed(spec.stage, replace(SPEED, calibrated=True))
    before = estimate_stage(spec)
    assert before.seconds.other == SPEED.fixed
    assert "at least" in before.sentence()
    assert f"not measured here yet: {COMPRESSING}, {SAMPLING}, drawing pages" in before.sentence()
    assert (estimate_ending(spec, probe=True).compressors or 0) > 0, "some text is compressed now"

    other = StageSpec(resolve_recipe(apply_overrides(recipe, ["stages.base.model.n_layers=4"])), 0)
    assert stage_shape(other.stage) != stage_shape(spec.stage)
    keep_ending(other, {COMPRESSING: 4.0, SAMPLING: 30.0, PAGES: 2.0}, kept=True)
    keep_ending(other, {COMPRESSING: 4.0, SAMPLING: 9.0, PAGES: 2.0}, kept=True)  # compiled before
    for _ in range(3):
        keep_ending(other, {COMPRESSING: 4.0}, kept=True)  # a node of a study: its pages do not take 0 seconds
    known = estimate_ending(spec, probe=True)
    assert (known.samples, known.pages) == (30.0, 2.0)
    assert not known.unknown
    after = estimate_stage(spec, calibrate=True)
    assert after.seconds.other > SPEED.fixed + 32
    assert "about" in after.sentence()

    wide = StageSpec(resolve_recipe(apply_overrides(recipe, ["stages.base.model.d_ff=4096"])), 0)
    assert "samples of a model of this size" in estimate_ending(wide, probe=True).unknown
    without = estimate_stage(spec, samples=False, pages=False).seconds.other
    assert estimate_stage(spec, pages=False).seconds.other == pytest.approx(without + 30.0)
    assert estimate_stage(spec, samples=False).seconds.other == pytest.approx(without + 2.0)
    keep_speed(spec.stage, replace(SPEED, without_ending=True))
    known = estimate_ending(spec, probe=True)
    assert estimate_stage(spec).seconds.other == pytest.approx(SPEED.fixed + known.total), "also of a measured shape"
    keep_speed(spec.stage, SPEED)
    assert estimate_stage(spec).seconds.other == SPEED.fixed + 2.0, "a run of an earlier version left out its pages"


def test_what_a_process_takes_beside_its_own_measurements_is_counted(spec: StageSpec, recipe: Recipe) -> None:
    keep_speed(spec.stage, SPEED)
    keep_ending(spec, {COMPRESSING: 0.0, SAMPLING: 0.0, PAGES: 0.0}, kept=True)
    for seconds in (5.0, 90.0, 4.0):
        keep_process_overhead(speeds_directory(), seconds)
    assert process_overhead(speeds_directory()) == 5.0
    assert estimate_stage(spec).seconds.other == SPEED.fixed + 5.0
    more = recipe.stages[0].model_copy(update={"name": "more", "start": Continue()})
    chain = resolve_recipe(recipe.model_copy(update={"stages": (*recipe.stages, more)}))
    first, second = estimate_recipe(chain, calibrate=False)
    assert first.seconds.other - second.seconds.other >= 5.0, "the second stage shares the process"


def test_compressors_take_time_in_proportion_to_their_text(spec: StageSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pathways_lite.training.ending._PROBE_BYTES", 100)
    keep_ending(spec, {COMPRESSING: 3.0}, kept=False)
    assert estimate_ending(spec, probe=False).compressors == pytest.approx(3.0)
    less = spec.recipe.stages[0].evaluation.tokens // 2
    half = StageSpec(resolve_recipe(apply_overrides(spec.recipe, [f"stages.base.evaluation.tokens={less}"])), 0)
    share = held_out_bytes(half) / held_out_bytes(spec)
    assert estimate_ending(half, probe=False).compressors == pytest.approx(3.0 * share)


def test_another_number_of_jobs_gives_an_estimate_that_says_so(
    spec: StageSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pathways_lite.studies.probe.usable_cores", lambda: [0, 1, 2, 3])
    asked = []

    def known(stage: object, cores: int) -> tuple[Speed, str] | None:
        asked.append(cores)
        return (SPEED, "measured on this machine") if cores == 4 else None

    monkeypatch.setattr("pathways_lite.studies.probe.speed_on_cores", known)
    node = Node("", spec.recipe, None, ())
    assert KnownSpeeds(2).speeds([node]) == {stage_shape(spec.stage): (SPEED, "measured on this machine with --jobs 1")}
    assert asked == [2, 4]


def test_an_estimate_knows_what_the_compilation_cache_has(spec: StageSpec, recipe: Recipe) -> None:
    keep_speed(spec.stage, replace(SPEED, calibrated=True, cached_compile=0.5))
    assert is_compiled(spec.stage)
    keep_speed(spec.stage, replace(SPEED, compile=0.7))  # a run, which reads what the calibration compiled
    same = estimate_stage(spec)
    assert (same.seconds.compile, same.cached) == (0.7, True)
    assert "compiling, with the cache, 0.7 s" in same.sentence()
    longer = apply_overrides(recipe, ["stages.base.budget=50 steps"])
    other = estimate_stage(StageSpec(resolve_recipe(longer), 0))
    assert (other.seconds.compile, other.cached) == (7.0, False), "the budget is a constant of the program"
    assert other.source == same.source, "the shape is the same"


def test_another_program_of_a_shape_compiles_only_what_is_its_own(spec: StageSpec, recipe: Recipe) -> None:
    """The first one of a shape compiles the evaluation and small programs too, which the others find in the cache."""
    longer, longest = (
        StageSpec(resolve_recipe(apply_overrides(recipe, [f"stages.base.budget={steps} steps"])), 0)
        for steps in (50, 60)
    )
    keep_speed(spec.stage, replace(SPEED, compile=27.0, calibrated=True, cached_compile=2.0, recompile=9.0))
    keep_speed(spec.stage, replace(SPEED, compile=2.0))  # which reads it from the cache
    assert estimate_stage(longer).seconds.compile == 9.0
    keep_speed(longer.stage, replace(SPEED, compile=11.0))
    keep_speed(longer.stage, replace(SPEED, compile=1.0))
    assert estimate_stage(longest).seconds.compile == 11.0, (
        "the median of 9, 9, 11 and 11, of which the calibration is gone"
    )


def test_a_calibration_takes_steps_of_the_stage_and_writes_nothing(spec: StageSpec, tmp_path: Path) -> None:
    speed = calibrate_stage(spec)
    assert speed.calibrated
    assert 0 < speed.token < 10
    assert speed.evaluated_token is not None
    assert speed.evaluated_token > 0
    assert speed.memory is not None
    assert speed.memory > 1 << 20
    assert not list(tmp_path.iterdir())


def test_a_model_that_does_not_fit_is_not_tried(spec: StageSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    assert estimate_module.may_calibrate(spec)
    monkeypatch.setattr(estimate_module, "memory_limit", lambda: 1000)
    assert not estimate_module.may_calibrate(spec)


def test_a_speed_is_found_without_starting_jax(spec: StageSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a planning process, which must not take the accelerators: on as many cores as the process that measured it."""
    cores = len(usable_cores())
    assert speed_on_cores(spec.stage, cores) is None
    keep_speed(spec.stage, SPEED)
    known = known_speed(spec.stage)
    node = Node("", spec.recipe, None, ())
    with monkeypatch.context() as patch:
        patch.setattr(speed_module.jax, "devices", pytest.fail)
        assert speed_on_cores(spec.stage, cores) == known
        assert speed_on_cores(spec.stage, cores + 1) is None, "another machine, as far as times go"
        patch.setattr("pathways_lite.studies.probe.subprocess.run", pytest.fail)
        found = {stage_shape(spec.stage): known}
        assert KnownSpeeds(1).speeds([node]) == SpeedProbe(1).speeds([node]) == found, "it is not measured again"
