"""The plan of a study: times by what nodes of the same shape took, whole processes included."""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pathways_lite.errors import UserError
from pathways_lite.run_directory import RunDirectory
from pathways_lite.scaling.runs_table import runs_table
from pathways_lite.studies.executor import train_arguments
from pathways_lite.studies.plan import Surroundings, plan_study, resolve_study, study_store
from pathways_lite.studies.store import StudyStore
from pathways_lite.studies.study import Node, Study, load_study
from pathways_lite.tracking.peak import PEAK_SECONDS
from pathways_lite.training.ending import COMPRESSING, EstimatedEnding
from pathways_lite.training.speed import Speed, stage_shape
from pathways_lite.training.stage import StageSpec

SPEED = Speed(token=0.01, evaluated_token=0.0, save=0.0, compile=5.0, fixed=2.0, memory=None)


class KnownShapes:
    """A probe that gives every shape the same speed, if any, and every process the same surroundings."""

    def __init__(self, speed: Speed | None, around: Surroundings | None = None) -> None:
        self.speed, self.around, self.probed = speed, around or Surroundings(), list[str]()

    def speeds(self, nodes: Sequence[Node]) -> dict[str, tuple[Speed, str]]:
        self.probed += [node.label for node in nodes]
        return {stage_shape(node.stage): (self.speed, "calibrated") for node in nodes if self.speed is not None}

    def surroundings(self, spec: StageSpec) -> Surroundings:
        return self.around


def test_each_shape_is_probed_once(study: Study, tmp_path: Path) -> None:
    probe = KnownShapes(SPEED)
    plan = plan_study(study, tmp_path, probe)
    assert len(probe.probed) == 1, "trunk and tails have one shape"
    trunk, *tails = plan.nodes.values()
    assert trunk.seconds_left == pytest.approx(7.0 + 0.01 * 6 * 2 * 32)
    assert [tail.seconds_left for tail in tails] == pytest.approx([7.0 + 0.01 * 4 * 2 * 32] * 2)
    assert {node.speed_source for node in plan.nodes.values()} == {"calibrated"}
    assert plan.seconds_left(2) == pytest.approx(trunk.seconds_left + tails[0].seconds_left)
    assert plan.seconds_left(1) == pytest.approx(trunk.seconds_left + 2 * tails[0].seconds_left)


def test_what_happens_once_is_counted_once(study: Study, tmp_path: Path) -> None:
    """Starts and ends of processes are every node's; compressors are the corpus', two peaks are two processes'."""
    plain = plan_study(study, tmp_path, KnownShapes(replace(SPEED, calibrated=True)))
    around = Surroundings(process=3.0, ending=EstimatedEnding(40.0, 0.0, 0.0), missing_peaks=2)
    plan = plan_study(study, tmp_path, KnownShapes(replace(SPEED, calibrated=True), around))
    more = [plan.nodes[name].seconds_left - node.seconds_left for name, node in plain.nodes.items()]
    assert more == pytest.approx([3.0 + 40.0 + PEAK_SECONDS, 3.0 + PEAK_SECONDS, 3.0])
    unknown = KnownShapes(replace(SPEED, calibrated=True), Surroundings(ending=EstimatedEnding(None, 0.0, 0.0)))
    sources = [node.speed_source for node in plan_study(study, tmp_path, unknown).nodes.values()]
    assert sources == [f"calibrated, at least: not measured here yet: {COMPRESSING}", "calibrated", "calibrated"]


def test_programs_are_compiled_by_the_first_node_and_those_beside_it(study: Study, tmp_path: Path) -> None:
    speed = replace(SPEED, cached_compile=1.0)
    recipe = next(iter(study.recipes.values()))
    seeds = tuple(recipe.copy_unchecked(stages=recipe.stages[:1], seed=seed) for seed in range(3))
    trunks = study.copy_unchecked(arms={"arm": seeds}, baseline="arm")
    plan = plan_study(trunks, tmp_path, KnownShapes(speed))
    first, second, third = plan.nodes.values()
    assert first.program == second.program == third.program, "a seed is not a part of the program"
    assert second.seconds_left == pytest.approx(first.seconds_left - 4.0)
    assert plan.seconds_left(1) == pytest.approx(first.seconds_left + 2 * second.seconds_left)
    assert plan.seconds_left(2) == pytest.approx(first.seconds_left + second.seconds_left), "the second compiles too"
    compiled = plan_study(trunks, tmp_path, KnownShapes(speed, Surroundings(is_compiled=True)))
    assert {node.seconds_left for node in compiled.nodes.values()} == {second.seconds_left}


def test_without_a_measurement_there_is_no_time(study: Study, tmp_path: Path) -> None:
    for probe in (None, KnownShapes(None)):
        plan = plan_study(study, tmp_path, probe)
        assert math.isnan(plan.seconds_left())
        assert {node.speed_source for node in plan.nodes.values()} == {"unknown before a node of the study is done"}


def test_nodes_of_the_study_come_first(study: Study, store: StudyStore, tmp_path: Path) -> None:
    trunk = next(iter(store.nodes))
    target = StudyStore(tmp_path, store.nodes)
    run = target.prepare(trunk)
    stage = run.stage("trunk")
    stage.path.mkdir()
    summary = json.loads((store.stage_directory(trunk).path / "summary.json").read_text())
    assert summary["speed"]["token"] > 0, "a run leaves its speed"
    (stage.path / "summary.json").write_text(json.dumps(summary | {"speed": vars(SPEED)}))

    probe = KnownShapes(None)
    plan = plan_study(study, tmp_path, probe)
    assert not probe.probed, "what this study has measured need not be measured again"
    tails = list(plan.nodes.values())[1:]
    assert {tail.speed_source for tail in tails} == {"measured in this study"}
    assert [tail.seconds_left for tail in tails] == pytest.approx([7.0 + 0.01 * 4 * 2 * 32] * 2)


def test_nodes_draw_nothing_and_write_no_text_unless_asked() -> None:
    run = RunDirectory(Path("run"))
    assert train_arguments(run)[-2:] == ["--no-page", "--no-samples"]
    assert "--no-samples" not in train_arguments(run, samples=True)


def test_a_study_is_fitted_in_one_command(store: StudyStore, study_file: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from pathways_lite.cli.main import app

    table, target = runs_table([store.path], final=True), tmp_path / "fit.json"
    options = ["--out", str(target), "--bootstraps", "0", "--starts", "1"]
    assert len(table["run"]) == 3
    told = CliRunner().invoke(app, ["fit", "chinchilla", str(store.path), *options])
    assert "3 rows are too few for the 5 parameters" in str(told.exception), "its finished runs were read"
    told = CliRunner().invoke(app, ["fit", "chinchilla", str(study_file), *options])
    assert "no run of" in str(told.exception)
    assert "pathways-lite study run" in str(told.exception)
    nodes = [node for node in store.nodes.values() if node.is_last]
    assert store.finished_runs() == [store.run_directory(node.identity).path for node in nodes]


def test_a_finished_study_is_resolved_without_its_corpus(
    study_file: Path, study: Study, store: StudyStore, corpus: Path, tmp_path: Path
) -> None:
    """`status`, `report` and `evaluate` read what the nodes recorded; a study on a corpus that is not there is none."""
    missing = load_study(study_file, [f"stages.*.data.corpus={tmp_path / 'moved'}"])
    with pytest.raises(UserError, match=r"'stages\.\*\.data\.corpus=PLACE'"):
        resolve_study(missing)
    with pytest.raises(UserError, match="is not a token store"):  # no node has read that one
        resolve_study(missing, store.path)
    copied = shutil.copytree(store.path, tmp_path / "out", symlinks=True)
    for recipe in copied.glob("nodes/*/recipe.json"):
        recipe.write_text(recipe.read_text().replace(str(corpus), str(tmp_path / "moved")))
    resolved = resolve_study(missing, copied)
    assert set(study_store(resolved, copied).states().values()) == {"done"}
    assert study_store(resolved, copied).nodes.keys() == store.nodes.keys()
