"""Plugins: recipes and commands find them by name, identities cover their source, and mistakes are sentences."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from typer.testing import CliRunner

import pathways_lite as pl
from helpers.plugin_installation import forget, write_installation
from helpers.run_helpers import run, stub_slow_parts
from helpers.small_recipes import make_recipe, make_stage
from pathways_lite.cli.main import app
from pathways_lite.errors import UserError
from pathways_lite.recipe import (
    AdamW,
    OptimizerPlugin,
    Recipe,
    apply_overrides,
    identity_differences,
    load_recipe,
    read_recipe,
    stage_identity,
    with_plugins_recorded,
    write_recipe,
)
from pathways_lite.recipe.fields import describe_path
from pathways_lite.scaling.laws.registry import LAWS
from pathways_lite.tracking.log import read_log
from pathways_lite.tracking.trackers import open_trackers


def invoke(*words: object) -> Any:
    return CliRunner().invoke(app, [*map(str, words)])


def with_plugins() -> Recipe:
    """A recipe that names a plugin wherever one may be named by an override."""
    return apply_overrides(
        make_recipe(),
        [
            "stages.base.optimizer=demo_sign",
            "stages.base.optimizer.momentum=0.5",
            "stages.base.optimizer.schedule=demo_stairs",
            "stages.base.reweighting={}",
            "stages.base.reweighting.rule=demo_harder_half",
        ],
    )


def test_a_recipe_names_plugins_in_python_json_and_overrides(installed: Path, tmp_path: Path) -> None:
    from demo_plugin.training import HarderHalf, SignMomentum, Stairs

    stage = with_plugins().stages[0]
    assert stage.optimizer == SignMomentum(momentum=0.5, schedule=Stairs())
    assert stage.reweighting.rule == HarderHalf()
    assert make_stage(optimizer=SignMomentum(momentum=0.5, schedule=Stairs())).optimizer == stage.optimizer
    (tmp_path / "mine.py").write_text(
        "from demo_plugin.training import SignMomentum\nfrom pathways_lite.recipe import *\n"
        "def recipe():\n    return Recipe(name='mine', stages=(Stage(model=Model(d_model=8, n_layers=1, n_heads=1, "
        "head_dim=8, d_ff=8, vocab_size=9), data=Data(corpus='c', seq_len=8), optimizer=SignMomentum(), batch_size=2, "
        "budget='3 steps'),))\n"
    )
    recipe = load_recipe(tmp_path / "mine.py", ["stages.base.optimizer.schedule=demo_stairs"])
    write_recipe(recipe, tmp_path / "mine.json")
    assert read_recipe(tmp_path / "mine.json") == recipe
    assert json.loads((tmp_path / "mine.json").read_text())["stages"][0]["optimizer"]["kind"] == "demo_sign"


def test_built_in_choices_do_not_change(installed: Path) -> None:
    assert (
        make_recipe().model_dump_json() == Recipe.model_validate_json(make_recipe().model_dump_json()).model_dump_json()
    )
    before = stage_identity(make_recipe(), 0)
    assert stage_identity(with_plugins_recorded(make_recipe()), 0) == before
    assert with_plugins_recorded(make_recipe()) == make_recipe()
    assert isinstance(apply_overrides(with_plugins(), ["stages.base.optimizer=adamw"]).stages[0].optimizer, AdamW)


def test_plugins_are_not_imported_until_they_are_named(installed: Path) -> None:
    apply_overrides(make_recipe(), ["stages.base.optimizer=lion", "stages.base.optimizer.schedule=wsd"])
    Recipe.model_validate_json(make_recipe().model_dump_json())
    assert "chinchilla" in LAWS
    assert "demo_plugin" not in sys.modules
    with_plugins()
    assert "demo_plugin" in sys.modules


def test_similar_names_of_plugins_are_suggested(installed: Path) -> None:
    with pytest.raises(UserError, match=r"there is no 'demo_sing'\. Did you mean 'demo_sign'"):
        apply_overrides(make_recipe(), ["stages.base.optimizer=demo_sing"])
    with pytest.raises(UserError, match="Did you mean 'demo_sign'"):
        apply_overrides(make_recipe(), ['stages.base.optimizer={"kind": "demo_sing"}'])
    with pytest.raises(UserError, match="Did you mean 'momentum'"):
        apply_overrides(with_plugins(), ["stages.base.optimizer.momentun=0.1"])
    with pytest.raises(UserError, match=r"momentum=2.* below 1"):
        apply_overrides(with_plugins(), ["stages.base.optimizer.momentum=2"])
    with pytest.raises(UserError, match="it must be below 1, not 2"):
        apply_overrides(make_recipe(), ['stages.base.optimizer={"kind": "demo_sign", "momentum": 2}'])
    assert "demo_sign" in {cls.kind for cls in describe_path("stages.optimizer")}
    (described,) = describe_path("SignMomentum")
    assert [row.name for row in described.fields][-1] == "momentum"


def test_the_identity_covers_version_and_source(install: Callable[..., Path]) -> None:
    def identified() -> tuple[Recipe, str]:
        recipe = with_plugins_recorded(with_plugins())
        return recipe, stage_identity(recipe, 0)

    install()
    first, identity = identified()
    assert first.stages[0].optimizer.plugin.startswith("demo-plugin 1.0 (")
    assert identified()[1] == identity
    target = install("1.1")
    later, other = identified()
    assert other != identity
    assert [line.partition(":")[0] for line in identity_differences(first, later, 0)] == [
        "stages.base.optimizer.plugin", "stages.base.optimizer.schedule.plugin", "stages.base.reweighting.rule.plugin",
    ]  # fmt: skip
    (target / "demo_plugin" / "__init__.py").write_text("# edited\n")
    forget()
    assert identified()[1] not in (identity, other)


def test_a_run_is_trained_and_refuses_another_version(
    install: Callable[..., Path], recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub_slow_parts(monkeypatch)
    install()
    changes = ["stages.base.optimizer=demo_sign", "stages.base.optimizer.learning_rate=1e-3"]
    changes += ["stages.base.optimizer.schedule=demo_stairs", "stages.base.budget=4 steps", "stages.base.batch_size=2"]
    path = tmp_path / "run"
    recipe = load_recipe(recipe_file, changes)
    trained = pl.train(recipe, path, track=("demo_lines",), page=False)
    rates = [row["learning_rate"] for row in read_log(path / "base" / "log.jsonl") if row["kind"] == "train"]
    np.testing.assert_allclose(rates, [1e-3, 7.5e-4, 5e-4, 2.5e-4], rtol=1e-5)
    assert trained.stage.optimizer.plugin.startswith("demo-plugin 1.0")
    kinds = [json.loads(line)["kind"] for line in (path / "base" / "demo_lines.jsonl").read_text().splitlines()]
    assert "train" in kinds
    assert run(recipe, path) == 0
    install("1.1")
    with pytest.raises(UserError) as refused:
        run(load_recipe(recipe_file, changes), path)
    assert "was begun with another version of a plugin" in str(refused.value)
    assert "demo-plugin 1.0 (" in str(refused.value)
    assert "demo-plugin 1.1 (" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_growth_by_a_plugin(
    installed: Path, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from demo_plugin.training import Repeat

    from pathways_lite.recipe import Grow

    stub_slow_parts(monkeypatch)
    base = load_recipe(recipe_file, ["stages.base.budget=1 steps", "stages.base.batch_size=2"]).stages[0]
    model = base.model.model_copy(update={"n_layers": 3})
    grown = base.model_copy(update={"name": "grown", "model": model, "start": Grow(operator=Repeat())})
    chain = Recipe(name="chain", stages=(base, grown))
    assert run(chain, tmp_path / "chain") == 0
    assert pl.load(tmp_path / "chain").model.n_layers == 3
    wider = grown.model_copy(update={"model": model.model_copy(update={"d_ff": 96})})
    with pytest.raises(UserError, match="demo_repeat grows the number of layers alone"):
        run(chain.model_copy(update={"stages": (base, wider)}), tmp_path / "other")


def test_a_recipe_is_read_without_its_plugin_but_does_not_train(
    install: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = install()
    recipe = with_plugins_recorded(with_plugins())
    write_recipe(recipe, tmp_path / "recipe.json")
    identity, text = stage_identity(recipe, 0), (tmp_path / "recipe.json").read_text()
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(installed)])
    forget()
    read = read_recipe(tmp_path / "recipe.json")
    assert read.stages[0].optimizer.momentum == 0.5
    assert read.model_dump_json(indent=2) + "\n" == text
    assert stage_identity(read, 0) == identity
    assert read == read_recipe(tmp_path / "recipe.json")
    for use in (with_plugins_recorded, lambda recipe: recipe.stages[0].optimizer.direction(None)):
        with pytest.raises(UserError, match=r"'demo_.*' is of the plugin demo-plugin 1.0, which is not installed"):
            use(read)
    with pytest.raises(UserError, match="there is no 'demo_sign'"):
        apply_overrides(make_recipe(), ["stages.base.optimizer=demo_sign"])


def test_a_class_without_entry_point_is_refused(installed: Path) -> None:
    class Own(OptimizerPlugin):
        kind: Literal["own"] = "own"

        def direction(self, axes: Any) -> Any:
            return axes

    with pytest.raises(
        ValueError, match=r"Own is no installed plugin.*own = '.*:Own' in the group pathways_lite.optim"
    ):
        make_stage(optimizer=Own())


def test_what_is_wrong_with_a_plugin_is_said_where_it_is_named(
    install: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = install()
    entries = target / "demo_plugin-1.0.dist-info" / "entry_points.txt"
    entries.write_text(
        "[pathways_lite.optimizers]\nbroken = demo_plugin.none:X\nwrong = demo_plugin.training:Stairs\n"
        "other = demo_plugin.training:SignMomentum\nadamw = demo_plugin.training:SignMomentum\n"
        "[pathways_lite.laws]\nnoroot = demo_plugin.others:ROOT\n"
    )
    forget()
    for kind, said in {
        "broken": "'broken' of demo-plugin 1.0 .* cannot be imported: ModuleNotFoundError",
        "wrong": "'wrong' of demo-plugin 1.0 .* is no OptimizerPlugin",
        "other": "SignMomentum of demo-plugin 1.0 is offered as 'other'; give it the field kind",
    }.items():
        with pytest.raises(UserError, match=said):
            apply_overrides(make_recipe(), [f'stages.base.optimizer={{"kind": "{kind}"}}'])
    assert isinstance(apply_overrides(make_recipe(), ["stages.base.optimizer=adamw"]).stages[0].optimizer, AdamW)
    with pytest.raises(UserError, match="is Law 'demo-root'; a Law named 'noroot' is expected there"):
        pl.fit("noroot", {"x": [1.0], "y": [1.0]})


def test_two_packages_with_one_name_are_told_apart(installed: Path) -> None:
    write_installation(installed, name="rival-plugin")
    entries = installed / "rival_plugin-1.0.dist-info" / "entry_points.txt"
    entries.write_text("[pathways_lite.optimizers]\ndemo_sign = demo_plugin.training:Stairs\n")
    forget()
    with pytest.raises(UserError, match=r"demo-plugin 1\.0 and rival-plugin 1\.0 both offer 'demo_sign'"):
        apply_overrides(make_recipe(), ['stages.base.optimizer={"kind": "demo_sign"}'])
    assert isinstance(apply_overrides(make_recipe(), ["stages.base.optimizer=adamw"]).stages[0].optimizer, AdamW)


def test_commands_find_plugins(installed: Path, tmp_path: Path) -> None:
    built = invoke(
        "data", "build", tmp_path / "store", "mine=demo:60", "--tokenizer", "bytes", "--workers", 0, "--json"
    )
    assert built.exit_code == 0, built.output
    assert pl.data.open_corpus(tmp_path / "store").domains == ["mine"]
    missing = invoke("data", "build", tmp_path / "other", "dmo:60", "--tokenizer", "bytes")
    assert "or demo:" in str(missing.exception)
    made = invoke("tasks", "make", "demo_double", tmp_path / "double", "--documents", 50, "--problems", 9)
    assert made.exit_code == 0, made.output
    assert "demo_double" in invoke("tasks", "list").output
    laws = invoke("fit", "laws", "--json")
    assert "demo-root" in laws.output
    assert pl.fit("demo-root", {"x": [1.0, 4.0, 9.0], "y": [2.0, 4.0, 6.0]}, bootstraps=0).values["a"] == pytest.approx(
        2
    )
    with pytest.raises(UserError, match="Did you mean 'demo-root'"):
        pl.fit("demo-rot", {"x": [1.0]})
    misspelled = invoke("tasks", "make", "demo_duble", tmp_path / "none")
    assert "Did you mean 'demo_double'" in str(misspelled.exception)


def test_a_tracker_that_fails_is_said_once_and_stops_nothing(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from demo_plugin.others import Lines

    def fail(self: Any, row: Any) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr(Lines, "row", fail)
    (tracker,) = open_trackers(["demo_lines"], tmp_path, run="demo")
    for step in range(3):
        tracker.row({"kind": "train", "step": step})
    tracker.close()
    assert capsys.readouterr().err.count("the tracker demo_lines gets no more rows: RuntimeError: no network") == 1
    with pytest.raises(UserError, match="Did you mean 'demo_lines'"):
        open_trackers(["demo_line"], tmp_path, run="demo")
