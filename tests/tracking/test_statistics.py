"""Heat maps of statistics, their numbers, and what trackers get of them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pathways_lite.tracking.log import RunLog
from pathways_lite.tracking.report import write_report
from pathways_lite.tracking.run_data import StageData
from pathways_lite.tracking.statistics_plots import layer_norms, relative_updates, statistics_svg
from pathways_lite.tracking.trackers import scalars


def statistics(step: int, layers: int = 3) -> dict[str, Any]:
    """A row in which nothing of layer 0 and of the embedding is trained."""
    trained: list[float | None] = [None, *(3.0 * (layer + step) for layer in range(1, layers))]
    other = [None, *(4.0 * (layer + step) for layer in range(1, layers))]
    return {
        "kind": "statistics",
        "step": step,
        "tokens": 10 * step,
        "gradient": {"final_norm.scale": 1.0, "layers.attention.q": trained, "layers.mlp.up": other},
        "update": {"final_norm.scale": 0.1, "layers.attention.q": trained, "layers.mlp.up": other},
        "parameter": {
            "embedding": 9.0,
            "final_norm.scale": 2.0,
            "layers.attention.q": [30.0] * layers,
            "layers.mlp.up": [40.0] * layers,
        },
        "residual_rms": [1.0] * layers,
        "residual_max": [float(layer + 5) for layer in range(layers)],
        "attention_logit_max": [2.0] * layers,
    }


def test_arrays_of_a_layer_combine_to_one_norm() -> None:
    rows = [statistics(1), statistics(2)]
    np.testing.assert_allclose(layer_norms(rows, "gradient"), [[math.nan] * 2, [10.0, 15.0], [15.0, 20.0]])
    np.testing.assert_allclose(relative_updates(rows), [[math.nan] * 2, [0.2, 0.3], [0.3, 0.4]])


@pytest.mark.parametrize("rows", [[statistics(4)], [statistics(step) for step in range(10, 500, 10)]])
def test_a_stage_with_statistics_has_a_picture(rows: list[Any]) -> None:
    svg = statistics_svg(StageData("base", Path(), rows=rows), "light")
    assert svg is not None
    assert svg.startswith("<svg")
    assert svg == statistics_svg(StageData("base", Path(), rows=rows), "light")
    assert statistics_svg(StageData("base", Path()), "dark") is None


def test_statistics_where_nothing_of_the_blocks_is_trained_have_a_picture() -> None:
    row = statistics(4)
    for quantity in ("gradient", "update"):
        row[quantity] = {"final_norm.scale": 0.0}
    assert statistics_svg(StageData("base", Path(), rows=[row]), "light") is not None


def test_the_page_has_the_picture_and_the_average(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text('{"name": "run", "stages": [{"name": "base"}]}')
    result = {"loss": 2.5, "bits_per_byte": 1.5, "perplexity": 12.0}
    with RunLog(tmp_path / "base") as log:
        log.row(
            "eval", 4, tokens=40, flops=1, domains={"code": result}, average_domains={"code": result | {"loss": 2.25}}
        )
        for step in (2, 4):
            row = statistics(step)
            log.row(row.pop("kind"), row.pop("step"), flops=1, **row)
    page = write_report(tmp_path).read_text()
    assert "Layer by layer" in page
    assert "Heat maps, layers by steps" in page
    assert "code, average of parameters" in page
    assert "2.2500" in page


def test_trackers_get_every_number_of_a_layer() -> None:
    values = scalars(statistics(1))
    assert values["statistics/gradient/layers.mlp.up/layer_02"] == 12.0
    assert "statistics/gradient/layers.mlp.up/layer_00" not in values
    assert values["statistics/residual_max/layer_01"] == 6.0
    assert scalars({"kind": "train", "step": 1, "weight_histogram": [1, 2]}) == {}
