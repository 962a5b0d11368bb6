"""Every shipped recipe loads, is short, survives JSON, and states its command, cost and expected result."""

import ast
from pathlib import Path

import pytest

from pathways_lite.models.accounting import parameter_count
from pathways_lite.recipe import Recipe, load_recipe, stage_identity
from pathways_lite.studies import load_study
from pathways_lite.training.init_growth import ligo_ledger
from pathways_lite.training.stage import StageSpec

ROOT = Path(__file__).parent.parent
STUDIES = sorted((ROOT / "configs" / "studies").glob("*.py"))
ABLATIONS = sorted((ROOT / "configs" / "ablations").glob("*.py"))
LADDERS = sorted((ROOT / "configs" / "ladders").glob("*.py"))
CONFIGS = sorted((ROOT / "configs").glob("*.py"))


def assert_states_cost_and_result(docstring: str) -> None:
    for label in ("\nCost: ", "\nExpected result: "):
        assert docstring.count(label) == 1, label


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_recipes(path: Path) -> None:
    recipe = load_recipe(path)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert recipe.name == path.stem
    text = path.read_text()
    assert len(text.splitlines()) < 100
    docstring = ast.get_docstring(ast.parse(text)) or ""
    assert f"pathways-lite train configs/{path.name}" in docstring
    assert_states_cost_and_result(docstring)


@pytest.mark.parametrize("path", [*STUDIES, *ABLATIONS, *LADDERS], ids=lambda path: path.stem)
def test_shipped_studies(path: Path) -> None:
    study = load_study(path)
    assert study.name == path.stem + "_ladder" * (path in LADDERS)
    text = path.read_text()
    assert len(text.splitlines()) < 100
    docstring = ast.get_docstring(ast.parse(text)) or ""
    assert f"pathways-lite study run {path.relative_to(ROOT)}" in docstring
    assert_states_cost_and_result(docstring)


def test_the_example_compares_equal_models_at_equal_compute() -> None:
    study = load_study(STUDIES[0])
    a, b = (recipes[0].stages[0] for recipes in study.arms.values())
    assert parameter_count(a.model) == pytest.approx(parameter_count(b.model), rel=0.01)
    assert a.budget == b.budget


def test_growth_arms_cost_the_same() -> None:
    """Cost includes the bases and the training of LiGO's maps."""
    for recipes in load_study(ROOT / "configs" / "ablations" / "growth_operators.py").arms.values():
        specs = [StageSpec(recipes[0], index) for index in range(len(recipes[0].stages))]
        training = sum(spec.timeline.flops_before(spec.timeline.total_steps) for spec in specs)
        ligo = sum(ligo_ledger(spec).flops for spec in specs)
        assert training + ligo == pytest.approx(6e12, rel=0.01), recipes[0].name


def test_pruning_arms_cost_the_same() -> None:
    """Cost skips zeros; it is equal up to whole steps."""
    for recipes in load_study(ROOT / "configs" / "ablations" / "pruning_schedules.py").arms.values():
        timeline = StageSpec(recipes[0], 0).timeline
        assert timeline.sparse_flops_before(timeline.total_steps) == pytest.approx(2e12, rel=0.03), recipes[0].name


def test_the_pruning_studies_share_runs() -> None:
    """Runs with the same model and budget are the same, so that the results of the studies can be compared."""
    law, schedules = (
        load_study(ROOT / "configs" / "ablations" / f"pruning_{name}.py") for name in ("law", "schedules")
    )
    same_arms = {"dense_64_2": "dense", "dense_32_2": "dense_32"} | {f"zeros_{s}_2": f"25_75_{s}" for s in (40, 60, 80)}
    for law_arm, schedule_arm in same_arms.items():
        for a, b in zip(law.arms[law_arm], schedules.arms[schedule_arm], strict=True):
            assert stage_identity(a, 0) == stage_identity(b, 0), (law_arm, schedule_arm)


def test_domain_weight_arms_cost_the_same() -> None:
    """Cost includes references and proxies; it is equal up to whole steps."""
    for recipes in load_study(ROOT / "configs" / "ablations" / "domain_weights.py").arms.values():
        timelines = [StageSpec(recipes[0], index).timeline for index in range(len(recipes[0].stages))]
        spent = sum(timeline.flops_before(timeline.total_steps) for timeline in timelines)
        assert spent == pytest.approx(4.5e12, rel=0.02), recipes[0].name


def test_there_are_recipes() -> None:
    assert {path.stem for path in CONFIGS} >= {"demo", "novels", "palm_8b", "palm_62b", "palm_540b", "llama3_8b"}
