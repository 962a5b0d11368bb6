"""docs/results/sampling.md has the tables that tools/sampling_results.py makes of the committed numbers."""

import json
from pathlib import Path

import pytest

from helpers.tools import load_tool
from pathways_lite.intervals import Interval

ROOT = Path(__file__).parent.parent.parent
DATA = ROOT / "docs" / "results" / "data"


tool = load_tool("sampling_results")


def test_the_page_has_the_tables() -> None:
    page = (ROOT / "docs" / "results" / "sampling.md").read_text()
    for table in tool.tables(DATA):
        assert table in page, f"run python tools/sampling_results.py; the page should have\n{table}"


def test_the_claims_are_those_of_the_numbers() -> None:
    stored = json.loads((DATA / "sampling.json").read_text())["claims"]
    assert stored == {name: claim._asdict() for name, claim in tool.claims(DATA).items()}


@pytest.mark.parametrize(
    ("measured", "values", "holds"), [(0.62, (0.6, 0.64), True), (0.62, (0.6, 0.61), False), (0.7, (0.6, 0.9), True)]
)
def test_a_prediction_is_right_if_its_interval_contains_what_was_measured(
    tmp_path: Path, measured: float, values: tuple[float, float], holds: bool
) -> None:
    low, high = values
    lines = ["samples,quantity,k,value,low,high"]
    for seed in range(3):
        lines += [
            f"s/width_32_{seed}_base,coverage_measured,4096,{measured},,",
            f"s/width_32_{seed}_base,coverage_by_beta_from_64,4096,{(low + high) / 2},{low},{high}",
            f"s/width_32_{seed}_base,coverage_by_power_from_64,4096,0.1,0,0.2",
        ]
    (tmp_path / "sampling_sum.csv").write_text("\n".join(lines) + "\n")
    found = tool._coverage_claims(tmp_path)
    assert found["coverage_by_beta"].holds is holds
    assert found["coverage_by_power"].holds is False
    assert found["beta_beats_power"].holds is True


def test_an_interval_with_zero_decides_nothing() -> None:
    limits = {(0.1, 0.3): True, (-0.3, -0.1): False, (-0.1, 0.3): None}
    assert {pair: tool._is_above_zero(Interval(0.0, *pair)) for pair in limits} == limits
