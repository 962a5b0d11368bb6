"""Whole runs with frozen parameters, groups, an average and statistics: resumed bit for bit, evaluated, exported."""

import io
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from helpers.run_helpers import TOTAL, StopAfter, add_stage, digest, leaves, log_bytes, run
from pathways_lite.cli.main import app
from pathways_lite.errors import UserError
from pathways_lite.recipe import Continue, Grow, Recipe, Restore, Stack, apply_overrides
from pathways_lite.tracking.log import read_log
from pathways_lite.training.load import load_model
from pathways_lite.training.run import train_run

CHANGES = [
    'stages.base.freeze=["embedding", "layers.0.mlp"]',
    'stages.base.optimizer.groups=[{"parameters": ["*.scale"], "rate": 0.5, "weight_decay": 0.1}]',
    'stages.base.ema={"decay": 0.8, "warmup": true, "every": 2}',
    'stages.base.statistics={"every": 3}',
]


@pytest.fixture(scope="module")
def finished(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    """The recipe with everything of this file, and the directory of its undisturbed run."""
    from helpers.run_helpers import compile_once, stub_slow_parts
    from pathways_lite.recipe import load_recipe

    recipe, path = apply_overrides(load_recipe(recipe_file), CHANGES), tmp_path_factory.mktemp("run") / "all"
    with pytest.MonkeyPatch.context() as patch:
        compile_once(patch)
        stub_slow_parts(patch)
        assert run(recipe, path) == 0
    return recipe, path


@pytest.mark.parametrize("step", [1, 6, 9])
def test_a_run_with_all_of_it_resumes_bit_for_bit(step: int, finished: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, uninterrupted = finished
    assert run(recipe, tmp_path, StopAfter(step)) == 128 + 15
    assert run(recipe, tmp_path) == 0
    assert log_bytes(tmp_path) == log_bytes(uninterrupted)
    assert digest(tmp_path) == digest(uninterrupted)


def test_statistics_change_no_bit_of_what_is_trained(finished: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, path = finished
    plain = apply_overrides(recipe, ["stages.base.statistics=none"])
    assert run(plain, tmp_path) == 0
    assert digest(tmp_path) == digest(path)
    rows = [row for row in read_log(path / "base" / "log.jsonl") if row["kind"] != "statistics"]
    assert rows == read_log(tmp_path / "base" / "log.jsonl")


def test_statistics_are_of_every_nth_step_and_agree_with_the_step(finished: tuple[Recipe, Path]) -> None:
    rows = read_log(finished[1] / "base" / "log.jsonl")
    statistics = {row["step"]: row for row in rows if row["kind"] == "statistics"}
    assert list(statistics) == [3, 6, 9, 12]
    train = {row["step"]: row for row in rows if row["kind"] == "train"}
    for step in statistics.keys() & train.keys():
        flat = np.concatenate([np.ravel(norms).astype(float) for norms in statistics[step]["gradient"].values()])
        np.testing.assert_allclose(np.sqrt(np.nansum(flat**2)), train[step]["grad_norm"], rtol=1e-4)
    row = statistics[6]
    assert "embedding" not in row["gradient"]
    assert row["gradient"]["layers.mlp.up"][0] is None
    assert row["parameter"].keys() > row["gradient"].keys()
    assert all(value > 0 for value in (*row["residual_rms"], *row["residual_max"], *row["attention_logit_max"]))


def test_what_is_frozen_keeps_its_bits_and_has_no_state(finished: tuple[Recipe, Path]) -> None:
    _, path = finished
    model = load_model(path)
    trained = jax.tree.map(np.asarray, model.params())
    initial = jax.tree.map(np.asarray, model.components.fresh_state().params)
    np.testing.assert_array_equal(trained["embedding"], initial["embedding"])
    np.testing.assert_array_equal(trained["layers"]["mlp"]["up"][0], initial["layers"]["mlp"]["up"][0])
    assert not np.array_equal(trained["layers"]["mlp"]["up"][1], initial["layers"]["mlp"]["up"][1])
    names = [name for name in model.manifest.arrays if name.startswith(("opt_state", "average"))]
    assert names
    assert not any(name.endswith("embedding") for name in names)
    layers = model.stage.model.n_layers
    assert {model.manifest.arrays[name].shape[0] for name in names if name.endswith("mlp.up")} == {layers - 1}


def test_a_moving_average_is_evaluated_used_and_exported(finished: tuple[Recipe, Path], tmp_path: Path) -> None:
    _, path = finished
    evaluations = [row for row in read_log(path / "base" / "log.jsonl") if row["kind"] == "eval"]
    last = evaluations[-1]
    assert last["average_domains"].keys() == last["domains"].keys()
    summary = json.loads((path / "base" / "summary.json").read_text())
    assert summary["average_domains"] == last["average_domains"]

    average = load_model(path, average=True)
    params = average.params()
    assert any(not np.array_equal(a, b) for a, b in zip(leaves(params), leaves(load_model(path).params()), strict=True))
    results = average.evaluator().evaluate(params)
    for name, result in results.items():
        assert result.to_json()["loss"] == pytest.approx(last["average_domains"][name]["loss"], rel=1e-5)

    out = CliRunner().invoke(app, ["evaluate", str(path), "--average", "--json"])
    assert json.loads(out.stdout)["domains"].keys() == results.keys()
    assert CliRunner().invoke(app, ["convert", str(path), "--average", str(tmp_path / "average")]).exit_code == 0
    exported = load_model(tmp_path / "average")
    for a, b in zip(leaves(exported.params()), leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(UserError, match="holds no moving average"):
        exported.of_average()


def test_a_stage_starts_from_the_average_or_continues_it(finished: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, path = finished
    base = recipe.stages[0]
    digest_of = load_model(path).manifest.digest
    restored = base.model_copy(update={"start": Restore(path=str(path), weights="average", digest=digest_of)})
    short = ["stages.base.budget=1 steps", "stages.base.batch_size=2", "stages.base.optimizer.learning_rate=1e-30"]
    assert run(apply_overrides(recipe.model_copy(update={"stages": (restored,)}), short), tmp_path / "average") == 0
    started, average = load_model(tmp_path / "average").params(), load_model(path, average=True).params()
    for a, b in zip(leaves(started), leaves(average), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-12)

    kept = restored.model_copy(update={"start": Restore(path=str(path), optimizer="keep", digest=digest_of)})
    assert run(apply_overrides(recipe.model_copy(update={"stages": (kept,)}), short), tmp_path / "kept") == 0
    counts = [_average_count(tmp_path / name) for name in ("average", "kept")]
    assert counts == [0, TOTAL // 2]


def _average_count(path: Path) -> int:
    model = load_model(path)
    return int(model.average_like(model.components.abstract_state.params).count)


def test_a_grown_stage_averages_from_its_grown_parameters(finished: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, _ = finished
    layers = recipe.stages[0].model.n_layers
    grown = add_stage(
        recipe,
        f"stages.more.model.n_layers={2 * layers}",
        "stages.more.budget=1 steps",
        'stages.more.ema={"decay": 0.5}',
        "stages.more.optimizer.learning_rate=1e-30",
        "stages.more.optimizer.groups=none",
        start=Grow(operator=Stack(), weights="average"),
    )
    assert run(grown, tmp_path) == 0
    small, large = load_model(tmp_path / "base", average=True).params(), load_model(tmp_path / "more").params()
    np.testing.assert_allclose(
        np.asarray(large["layers"]["attention"]["q"][layers:]), np.asarray(small["layers"]["attention"]["q"]), rtol=1e-6
    )
    average = load_model(tmp_path / "more", average=True).params()
    for a, b in zip(leaves(average), leaves(large), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-12)


def test_an_average_of_a_pruned_model_has_its_zeros(recipe: Recipe, tmp_path: Path) -> None:
    prune = '{"sparsity": 0.5, "begin": 0.2, "end": 0.6, "update_every": 1, "structure": {"kind": "channels"}}'
    changes = [f"stages.base.pruning={prune}", 'stages.base.ema={"decay": 0.9}']
    assert run(apply_overrides(recipe, changes), tmp_path / "run") == 0
    average, trained = (
        load_model(tmp_path / "run", average=flag).params()["layers"]["mlp"]["up"] for flag in (True, False)
    )
    zeros = np.asarray(trained) == 0
    assert zeros.mean() == pytest.approx(0.5)
    np.testing.assert_array_equal(np.asarray(average) == 0, zeros)
    out = tmp_path / "smaller"
    assert CliRunner().invoke(app, ["convert", str(tmp_path / "run"), str(out), "--sparse", "--average"]).exit_code == 0
    smaller = np.asarray(load_model(out).params()["layers"]["mlp"]["up"])
    kept = np.stack([layer[:, ~hidden.all(axis=0)] for layer, hidden in zip(np.asarray(average), zeros, strict=True)])
    np.testing.assert_array_equal(smaller, kept)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (['stages.base.freeze=["embeding"]'], "stages.base.freeze: 'embeding' is the name of no parameter; the names"),
        (['stages.base.freeze=["*"]'], r"freezes every parameter"),
        (
            [
                'stages.base.freeze=["embedding"]',
                'stages.base.optimizer.groups=[{"parameters": ["embedding"], "rate": 0.5}]',
            ],
            r"stages.base.optimizer.groups: the parameters embedding of group 0 are frozen",
        ),
        (
            ['stages.base.optimizer.groups=[{"parameters": ["*"]}, {"parameters": ["embedding"]}]'],
            r"the parameters embedding of group 1 are frozen, or in groups before it",
        ),
    ],
)
def test_names_of_no_parameter_are_refused_before_training(
    changes: list[str], message: str, recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        train_run(apply_overrides(recipe, changes), tmp_path / "run", console=Console(file=io.StringIO()))
    assert not (tmp_path / "run").exists()


def test_an_average_or_moments_that_are_not_there_are_refused(recipe: Recipe, tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    with pytest.raises(UserError, match="stage 'base' has no average; give it ema=EMA"):
        train_run(add_stage(recipe, start=Continue(weights="average")), tmp_path, console=console)
    frozen = add_stage(recipe, 'stages.more.freeze=["embedding"]', start=Continue(optimizer="keep"))
    with pytest.raises(UserError, match="stage 'base' freezes nothing and this stage freezes embedding"):
        train_run(frozen, tmp_path, console=console)
    with pytest.raises(ValueError, match="the moments are those of the trained parameters"):
        Continue(weights="average", optimizer="keep")
