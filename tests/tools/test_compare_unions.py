"""The comparison of averages with unions."""

import sys
from pathlib import Path
from typing import Any

import pytest

from pathways_lite.errors import UserError
from pathways_lite.recipe.load import load_recipe
from pathways_lite.studies.study import load_study

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import compare_unions

    yield compare_unions
    sys.modules.pop("compare_unions")


def test_correlations_are_over_unions_for_each_held_out_domain(tool: Any, tmp_path: Path) -> None:
    unions = [4.0, 5.0, 7.0]
    results = [
        tool.Union(f"union {u}", {"a": u, "b": u}, {"a": 2 * u + 1, "b": -(u**2)}, {"a": -u, "b": u}) for u in unions
    ]
    row = tool.row(results)
    assert row["pearson"] == {"a": 1.0, "b": pytest.approx(-0.9974, abs=1e-3)}
    assert row["spearman"] == {"a": 1.0, "b": -1.0}
    assert row["pearson_of_mean_loss"] == {"a": -1.0, "b": 1.0}
    assert row["average_minus_union"] == {"a": pytest.approx(19 / 3, abs=1e-3), "b": pytest.approx(-106 / 3, abs=1e-3)}
    tool.draw(results, tmp_path / "unions.png")
    assert (tmp_path / "unions.png").stat().st_size > 5000


def test_domains_are_those_that_the_last_stage_reads(tool: Any) -> None:
    study = load_study(ROOT / "configs" / "ablations" / "data_ablation.py")
    read = {name: tool.domains_read(recipes[0]) for name, recipes in study.arms.items()}
    assert read == {name: frozenset(name.split("_")) for name in study.arms}
    with pytest.raises(UserError, match="reads no given domains"):
        tool.domains_read(load_recipe(ROOT / "configs" / "demo.py"))
