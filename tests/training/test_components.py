"""The step that a stage's components makes."""

import re
from collections import Counter
from pathlib import Path

import pytest

from pathways_lite.recipe import load_recipe
from pathways_lite.training.components import Components
from pathways_lite.training.stage import StageSpec


@pytest.mark.parametrize("remat", ["full", "offload"])
def test_the_program_does_not_grow_with_the_depth(recipe_file: Path, remat: str) -> None:
    """Nor, then, the time to compile it: layers are scanned, and their sizes are all that differs."""

    def operations(layers: int) -> Counter[str]:
        changes = [f"stages.base.model.n_layers={layers}", f"stages.base.model.remat={remat}"]
        return Counter(
            re.findall(
                r"stablehlo\.\w+", Components(StageSpec(load_recipe(recipe_file, changes), 0)).lower_step(4).as_text()
            )
        )

    deep = operations(12)
    assert deep["stablehlo.while"]
    assert deep == operations(3)
