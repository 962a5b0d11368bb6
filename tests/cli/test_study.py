"""The commands of a study on a tiny one; running it is tested with real processes elsewhere."""

import json
import re
from pathlib import Path

import pytest

from helpers.invoke import invoke
from pathways_lite.cli.study_common import make_plan, named_study
from pathways_lite.cli.study_tables import plan_summary, run_ending
from pathways_lite.errors import UserError
from pathways_lite.recipe import apply_overrides, load_recipe
from pathways_lite.recipe.base import parse_amount
from pathways_lite.studies.plan import Surroundings
from pathways_lite.studies.probe import SpeedProbe
from pathways_lite.studies.runner import Outcome
from pathways_lite.studies.study import Node
from pathways_lite.tracking.formatting import duration
from pathways_lite.training.resolve import resolve_recipe
from pathways_lite.training.speed import Speed, stage_shape
from pathways_lite.training.stage import StageSpec

STUDY = """
from pathways_lite.recipe import *
from pathways_lite.studies import Study


def recipe(arm, seed):
    model = Model(d_model=32, n_layers=2, n_heads=2, head_dim=16, d_ff=64, vocab_size=257, dtype="float32")
    data = Data(corpus={corpus!r}, seq_len=32)
    trunk = Stage(model=model, data=data, optimizer=AdamW(), batch_size=2, budget="6 steps")
    tail = trunk.model_copy(update=dict(name="tail", start=Continue(), optimizer=SGD(learning_rate=arm)))
    return Recipe(name="rates", seed=seed, stages=(trunk, tail))


def study():
    arms = {{f"rate_{{rate}}": tuple(recipe(rate, seed) for seed in range(2)) for rate in (0.1, 0.2)}}
    return Study(name="rates", question="Which?", arms=arms, baseline="rate_0.1")
"""


@pytest.fixture(scope="module")
def study(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "rates.py"
    path.write_text(STUDY.format(corpus=str(corpus)))
    return path


@pytest.mark.parametrize("command", ["plan", "run", "status", "report", "export"])
def test_help_teaches(command: str) -> None:
    assert f"pathways-lite study {command}" in " ".join(invoke("study", command, "--help").output.split())


def test_plan_counts_what_sharing_saves(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four recipes of two stages of equal cost, two trunks shared by two each: 6 of 8 parts are spent."""
    speed = Speed(token=0.1, evaluated_token=0.0, save=0.0, compile=1.0, fixed=1.0, memory=None)
    source = "calibrated by a few steps just now"
    monkeypatch.setattr(
        SpeedProbe, "speeds", lambda self, nodes: {stage_shape(n.stage): (speed, source) for n in nodes}
    )
    monkeypatch.setattr(SpeedProbe, "surroundings", lambda self, spec: Surroundings())
    monkeypatch.setattr("time.process_time", lambda: 1.0)  # of the command itself
    said = invoke("study", "plan", study, "--out", tmp_path).output
    assert "6 nodes, 0 done" in said
    assert f"to train: pathways-lite study run {study} --out {tmp_path}" in said
    assert f"about {duration(1 + 6 * (2 + 0.1 * 6 * 2 * 32))} with --jobs 1" in said
    assert "calibrated by a few steps just now" in said
    saved, apart = re.search(r"sharing saves ([\d.]+) MFLOPs of ([\d.]+) MFLOPs", said).groups()  # type: ignore[union-attr]
    assert float(saved) / float(apart) == pytest.approx(2 / 8, rel=0.01)


def test_a_run_without_a_measurement_says_how_to_get_one(study: Path, tmp_path: Path) -> None:
    plan = make_plan(named_study(study, None, tmp_path))
    summary = plan_summary(plan, jobs=1)
    assert "time is unknown before the first node is done; `pathways-lite study plan` measures it" in summary
    two = plan_summary(plan, jobs=2)
    assert "`pathways-lite study plan --jobs 2` measures it" in two


def test_the_directory_of_a_study_stands_for_its_file_and_overrides(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    invoke("study", "export", study, "stages.base.budget=7 steps", "--out", out)
    assert invoke("study", "status", out).output.count("0/7") == 2
    assert named_study(out, None, None).arguments == [str(study), "stages.base.budget=7 steps", "--out", str(out)]
    assert invoke("study", "status", out, "stages.base.budget=9 steps").output.count("0/9") == 2
    for command in (["runs", "compare", out, out], ["report", out], ["train", out], ["inspect", out]):
        with pytest.raises(UserError, match=f"of the study 'rates': `pathways-lite study report {out}` compares"):
            invoke(*command)
    with pytest.raises(UserError, match="is not the directory of a study"):
        named_study(tmp_path, None, None)
    index = out / "study.json"
    facts = json.loads(index.read_text())
    del facts["file"]  # of an earlier version
    index.write_text(json.dumps(facts))
    with pytest.raises(UserError, match=f"does not say of which file its study is; .*study report FILE --out {out}"):
        named_study(out, None, None)


def test_a_run_of_a_study_ends_with_what_it_did_and_what_comes_next(study: Path, tmp_path: Path) -> None:
    store = make_plan(named_study(study, None, tmp_path)).store
    (line,) = run_ending(store, Outcome(trained=["a", "b"]), 83.0)
    assert line == f"2 nodes trained in 1 min 23 s, 0 of 6 nodes done; results: {tmp_path}"
    stopped = run_ending(store, Outcome(signal_status=130), 3.0)
    assert stopped == [f"0 of 6 nodes done; results: {tmp_path}", "The same command continues from here."]


def test_overrides_reach_every_recipe(study: Path, tmp_path: Path) -> None:
    said = invoke("study", "status", study, "stages.base.budget=7 steps", "--out", tmp_path).output
    assert said.count("0/7") == 2
    assert said.count("waiting") == 4


def test_export_prints_a_train_command_per_node_and_writes_its_recipe(study: Path, tmp_path: Path) -> None:
    lines = invoke("study", "export", study, "--out", tmp_path).output.splitlines()
    assert len(lines) == 6
    for line in lines:
        words = line.split()
        assert words[:2] == ["pathways-lite", "train"]
        assert json.loads(Path(words[2]).read_text())["name"] == "rates"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--executor", "kubernetes"), "study export --jobset"),
        (("--jobs", "1000"), "--jobs 1000: this process may use"),
        (("--executor", "slurm", "--slurm", "gpu"), "NAME=VALUE"),
    ],
)
def test_mistakes_are_sentences(study: Path, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        invoke("study", "run", study, "--out", tmp_path, *options)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('baseline="rate_0.1"', 'baseline="rate_9"', "baseline='rate_9' is not an arm"),
        ("recipe(rate, seed)", "recipe(rate, 0)", "the same recipe twice"),
        ("def study", "def studies", "has no function study"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused(study: Path, tmp_path: Path, old: str, new: str, message: str) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(study.read_text().replace(old, new))
    with pytest.raises(UserError, match=message):
        invoke("study", "plan", wrong)


@pytest.mark.slow
def test_the_probe_takes_steps_in_a_process_of_its_own(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    recipe = load_recipe(recipe_file)
    sizes = ["stages.base.model.d_ff=96", "stages.base.model.d_ff=64"]
    long = ["stages.base.budget=1000000 steps", "stages.base.saving.every=1000000"]  # most of the time is training
    nodes = [Node("", apply_overrides(recipe, [size, *long]), None, ()) for size in sizes]
    first, again = (SpeedProbe(1).speeds(nodes) for _ in range(2))
    assert {source for _, source in first.values()} == {"calibrated by a few steps just now"}
    assert {source for _, source in again.values()} == {"calibrated on this machine"}
    assert len(first) == 2, "one process"
    around = SpeedProbe(1).surroundings(StageSpec(resolve_recipe(nodes[0].recipe), 0))
    assert 0 < around.process < 60, "the process itself was measured"
    assert not around.ending.unknown
    tiny, large = (
        Node("", apply_overrides(recipe, [f"stages.base.model.d_ff={d_ff}", "stages.base.budget=1 step"]), None, ())
        for d_ff in (32, 128)
    )
    assert list(SpeedProbe(1).speeds([tiny, large])) == [stage_shape(large.stage)], "little of the other depends on it"
    assert not SpeedProbe(1, seconds=-1.0).speeds([tiny]), "the time for probing is over"
    missing = apply_overrides(recipe, ["stages.base.data.corpus=/nowhere", "stages.base.model.d_ff=160"])
    assert not SpeedProbe(1).speeds([Node("", missing, None, ())])


def test_a_plan_of_unequal_budgets_says_so(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SpeedProbe, "speeds", lambda self, nodes: {})
    assert "Budgets differ" not in invoke("study", "plan", study, "--out", tmp_path / "out").output
    longer = study.with_name("longer.py")
    longer.write_text(
        study.read_text().replace("start=Continue(),", "start=Continue(), budget=Steps(n=6 if arm < 0.2 else 12),")
    )
    output = " ".join(invoke("study", "plan", longer, "--out", tmp_path / "out").output.split())
    assert "Budgets differ, in multiples of the smallest: rate_0.1 1.00, rate_0.2 1.50." in output
    amount = re.search(r"give all arms one budget, e.g. '([^']*)'", output)
    assert amount is not None
    assert parse_amount(amount[1])["kind"] == "flops"
    rows = json.loads(invoke("study", "plan", longer, "--out", tmp_path / "out", "--json").stdout)
    assert "1.50" in rows["note"]
