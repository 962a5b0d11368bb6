"""Not a test: what was frozen of v0.1, and how it is compared with what this version makes."""

import itertools
import json
import math
import shutil
import tarfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
V0_1 = Path(__file__).parent / "v0_1"
INPUTS = V0_1 / "inputs"
CONFIGS = ROOT / "configs"

# How far numbers may be apart that another processor, or other compiler flags, have computed.
TOLERANCE = 1e-4


def load(name: str) -> Any:
    """A frozen JSON file."""
    return json.loads((V0_1 / name).read_text(encoding="utf-8"))


def unpack(name: str, directory: Path) -> None:
    """Unpack a frozen archive into `directory`."""
    with tarfile.open(V0_1 / f"{name}.tar.xz") as archive:
        archive.extractall(directory, filter="data")


def workplace(directory: Path, *archives: str) -> Path:
    """A directory as a user's: the frozen inputs, and what the archives hold."""
    shutil.copytree(INPUTS, directory, dirs_exist_ok=True)
    for name in archives:
        unpack(name, directory)
    return directory


# ---- identities ----


def recipe_identities(recipe: Any) -> dict[str, str]:
    """The identity of every stage of a recipe, by the stage's name."""
    from pathways_lite.recipe import stage_identity

    return {stage.name: stage_identity(recipe, index) for index, stage in enumerate(recipe.stages)}


def study_identities(study: Any) -> dict[str, str]:
    """The identity of every stage of every recipe of a study, by `ARM/SEED/STAGE`."""
    identities: dict[str, str] = {}
    for arm, recipes in study.arms.items():
        for recipe in recipes:
            for name, identity in recipe_identities(recipe).items():
                label = f"{arm}/{recipe.seed}/{name}"
                assert label not in identities, f"two stages of {study.name} are called {label}"
                identities[label] = identity
    return identities


# ---- comparison ----


def differences(
    expected: Any, actual: Any, *, tolerance: float = TOLERANCE, more: bool = False, path: str = ""
) -> list:
    """What of `expected` is not in `actual`: everything but floating-point numbers has to be equal.

    With `more`, dictionaries of `actual` may have further keys, as those of a later version do.
    """
    options: dict[str, Any] = {"tolerance": tolerance, "more": more}
    if isinstance(expected, dict) and isinstance(actual, dict):
        missing = [f"{path}.{key}: missing" for key in expected.keys() - actual.keys()]
        extra = [] if more else [f"{path}.{key}: new" for key in actual.keys() - expected.keys()]
        common = [key for key in expected if key in actual]
        deeper = (differences(expected[key], actual[key], path=f"{path}.{key}", **options) for key in common)
        return [*missing, *extra, *itertools.chain.from_iterable(deeper)]
    if isinstance(expected, list) and isinstance(actual, list):
        if len(expected) != len(actual):
            return [f"{path}: {len(actual)} items instead of {len(expected)}"]
        pairs = enumerate(zip(expected, actual, strict=True))
        deeper = (differences(a, b, path=f"{path}.{index}", **options) for index, (a, b) in pairs)
        return list(itertools.chain.from_iterable(deeper))
    if isinstance(expected, float) and isinstance(actual, float | int):
        same = math.isclose(expected, actual, rel_tol=tolerance, abs_tol=tolerance * 1e-3)
        return [] if same else [f"{path}: {actual!r} instead of {expected!r}"]
    return [] if expected == actual else [f"{path}: {actual!r} instead of {expected!r}"]


def read_rows(path: Path) -> list[Any]:
    """The rows of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def numbers(text: str) -> list[float]:
    """The numbers in a text that are no part of a word."""
    values = []
    for word in text.replace("[", " ").replace("]", " ").replace("(", " ").replace(")", " ").split():
        try:
            values.append(float(word.strip(",;%").removesuffix(".")))
        except ValueError:
            continue
    return values
