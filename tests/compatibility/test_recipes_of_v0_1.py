"""Recipes of v0.1 are read as they were, and their stages have the identities by which their checkpoints are known."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from command_line import succeed
from frozen import CONFIGS, INPUTS, V0_1, differences, load, recipe_identities, study_identities, workplace

from pathways_lite.recipe import load_recipe, read_recipe, write_recipe
from pathways_lite.studies import load_study

IDENTITIES = load("identities.json")
NAMES = load("names.json")


def path_of(name: str) -> Path:
    """The file of a frozen name: an input, or below configs/, where it may have been replaced since."""
    if name.startswith("inputs/"):
        return V0_1 / name
    replaced = V0_1 / "configs" / name
    return replaced if replaced.is_file() else CONFIGS / name


def json_of(name: str) -> Path:
    """The frozen JSON of a recipe, or of a study's first recipe."""
    path = path_of(name)
    study = f"{path.parent.name}." if name in IDENTITIES["studies"] else ""
    return V0_1 / "recipes" / f"{study}{path.stem}.json"


def rename_fields(node: Any) -> Any:
    """Return frozen JSON with new names for the fields renamed since; both names are read, the new one is written."""
    if isinstance(node, list):
        return [rename_fields(item) for item in node]
    if not isinstance(node, dict):
        return node
    kind = node.get("kind")
    renamed = {
        "of": ("checkpoints", kind == "merge"),
        "round": ("rs2_fraction", "shuffle_seed" in node),
        "every": ("update_every", "sparsity" in node),
        "times": ("upsample", kind == "temperature"),
        "share": ("fraction", kind == "top" or "falls" in node),
    }
    new_names = {old: new for old, (new, is_renamed) in renamed.items() if is_renamed}
    return {new_names.get(name, name): rename_fields(value) for name, value in node.items()}


# ---- identities ----


@pytest.mark.parametrize("name", IDENTITIES["recipes"])
def test_identities_of_recipes(name: str) -> None:
    assert recipe_identities(load_recipe(path_of(name))) == IDENTITIES["recipes"][name]


@pytest.mark.parametrize("name", IDENTITIES["studies"])
def test_identities_of_studies(name: str) -> None:
    assert study_identities(load_study(path_of(name))) == IDENTITIES["studies"][name]


@pytest.mark.parametrize("row", IDENTITIES["overridden"], ids=lambda row: " ".join([row["config"], *row["overrides"]]))
def test_identities_under_overrides(row: dict[str, Any]) -> None:
    assert recipe_identities(load_recipe(CONFIGS / row["config"], row["overrides"])) == row["identities"]


def test_identities_of_a_study_under_overrides() -> None:
    row = IDENTITIES["overridden_study"]
    assert study_identities(load_study(CONFIGS / row["config"], row["overrides"])) == row["identities"]


def test_a_dry_run_prints_the_identities_of_the_resolved_recipe(tmp_path: Path) -> None:
    directory = workplace(tmp_path, "corpus", "run")
    printed = succeed("train", "run_recipe.py", "--dry-run", directory=directory)
    resolved = recipe_identities(read_recipe(directory / "runs" / "frozen" / "recipe.json"))
    assert resolved.keys() == {"base", "grown", "denoised"}
    for name, identity in resolved.items():
        assert identity in printed, name
    for name in ("base", "grown"):
        summary = json.loads((directory / "runs" / "frozen" / name / "summary.json").read_text())
        assert summary["identity"] == resolved[name]


# ---- JSON ----


@pytest.mark.parametrize("name", [*IDENTITIES["recipes"], *IDENTITIES["studies"]])
def test_frozen_json_is_the_recipe(name: str, tmp_path: Path) -> None:
    frozen = json_of(name)
    if name in IDENTITIES["recipes"]:
        recipe, identities = load_recipe(path_of(name)), IDENTITIES["recipes"][name]
    else:
        study = load_study(path_of(name))
        arm, recipes = next(iter(study.arms.items()))
        recipe, start = recipes[0], f"{arm}/{recipes[0].seed}/"
        labels = IDENTITIES["studies"][name].items()
        identities = {label.removeprefix(start): value for label, value in labels if label.startswith(start)}
    assert read_recipe(frozen) == recipe
    assert recipe_identities(load_recipe(frozen)) == identities
    write_recipe(recipe, tmp_path / "again.json")
    again = json.loads((tmp_path / "again.json").read_text())
    assert differences(rename_fields(json.loads(frozen.read_text())), again, tolerance=0, more=True) == []


def test_every_kind_is_among_the_frozen_recipes() -> None:
    """As many kinds as there were."""
    content = (V0_1 / "recipes" / "every_kind.json").read_text()
    assert len(set(re.findall(r'"kind":"(\w+)"', content))) == 56


# ---- names ----


@pytest.mark.parametrize("module", ["pathways_lite.recipe", "pathways_lite.studies"])
def test_names_are_importable(module: str) -> None:
    missing = [name for name in NAMES[module] if not hasattr(importlib.import_module(module), name)]
    assert missing == []


@pytest.mark.parametrize("module", ["pathways_lite.recipe", "pathways_lite.studies"])
def test_names_come_with_a_star(module: str) -> None:
    """Recipes begin with `from pathways_lite.recipe import *`."""
    names: dict[str, Any] = {}
    exec(f"from {module} import *", names)
    assert set(NAMES[module]) - names.keys() == set()


def test_inputs_are_complete() -> None:
    """A recipe that is no longer there cannot fail."""
    assert {path.name for path in INPUTS.iterdir()} >= {"corpus.jsonl", "every_kind.py", "run_recipe.py", "study.py"}
    assert len(IDENTITIES["recipes"]) >= 12
    assert len(IDENTITIES["studies"]) >= 14
