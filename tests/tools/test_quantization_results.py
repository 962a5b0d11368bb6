"""docs/results/sampling.md has the tables that tools/quantization_results.py makes of the committed numbers."""

import json
from pathlib import Path

import numpy as np
import pytest

from helpers.tools import load_tool
from pathways_lite.scaling.table import Table, read_table

ROOT = Path(__file__).parent.parent.parent
DATA = ROOT / "docs" / "results" / "data"


tool = load_tool("quantization_results")


@pytest.fixture(scope="module")
def table() -> Table:
    return read_table(DATA / "quantized.csv")


@pytest.mark.slow  # five fits with a thousand resamples each
def test_the_page_and_the_claims_are_those_of_the_numbers(table: Table) -> None:
    found = tool.fits(table)
    page = (ROOT / "docs" / "results" / "sampling.md").read_text()
    for each in tool.tables(table, found):
        assert each in page, f"run python tools/quantization_results.py; the page should have\n{each}"
    assert json.loads((DATA / "quantization.json").read_text())["claims"] == {
        name: claim._asdict() for name, claim in tool.claims(table, found).items()
    }


def test_the_page_has_the_mean_rises(table: Table) -> None:
    page = (ROOT / "docs" / "results" / "sampling.md").read_text()
    for row in tool.rise_rows(table):
        assert f"| {' | '.join(row)} |" in page


def test_every_checkpoint_was_measured_in_every_way(table: Table) -> None:
    for method in tool.METHODS:
        for bits in (2, 3, 4, 8):
            assert len(tool.part(table, method, "cooled", (bits,))["P"]) == 36
            assert len(tool.part(table, method, "trunk", (bits,))["P"]) == 72


def test_a_law_with_known_exponents_is_found_again() -> None:
    rng = np.random.default_rng(0)
    sizes, tokens, bits = (np.ravel(each) for each in np.meshgrid([1e5, 3e5, 1e6], [1e5, 4e5, 2e6], [2.0, 3.0, 4.0]))
    rise = 0.01 * tokens**0.53 / (sizes**0.23 * bits**5.5) * np.exp(0.01 * rng.normal(size=len(bits)))
    rows = {"N_non_embedding": sizes, "D": tokens, "P": bits, "rise": rise, "trunk": np.array([f"{n}" for n in sizes])}
    values = tool.fit(rows, bootstraps=0).values
    assert {name: round(values[name], 1) for name in ("beta", "alpha", "gamma")} == {
        "beta": 0.5, "alpha": 0.2, "gamma": 5.5,
    }  # fmt: skip


def test_no_law_is_fitted_to_rises_that_are_not_above_zero(table: Table) -> None:
    assert tool.fit(tool.part(table, "nearest", "trunk", (2, 3, 4))) is None
