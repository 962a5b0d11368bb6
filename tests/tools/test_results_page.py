"""docs/results/README.md is what tools/results_page.py writes, and has every study and every measured number."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from helpers.tools import load_tool

ROOT = Path(__file__).parent.parent.parent
DATA = ROOT / "docs" / "results" / "data"


tool = load_tool("results_page")


@pytest.fixture(scope="module")
def page() -> str:
    return str(tool.render(tool.Results(DATA)))


def test_the_page_is_what_the_tool_writes(page: str) -> None:
    assert (ROOT / "docs" / "results" / "README.md").read_text() == page, "run python tools/results_page.py"


def test_every_study_is_on_the_page(page: str) -> None:
    for path in (ROOT / "configs" / "ablations").glob("*.py"):
        (row,) = re.findall(rf"^\| `pathways-lite study run configs/ablations/{path.name}` \|.*$", page, re.MULTILINE)
        assert row.endswith(("| measured |", "| not run yet |"))


def test_every_file_is_of_a_study_and_its_arms() -> None:
    files = tool.study_files()
    for path in DATA.glob("*.json"):
        results = json.loads(path.read_text())
        study = tool.load_study(files[path.stem])
        assert results["study"] == study.name
        assert "claims" in results or results["baseline"] in results["arms"]
        assert set(results.get("arms", {})) <= set(study.arms)


def test_methods_name_arms_that_exist() -> None:
    files = tool.study_files()
    for method in tool.Results(DATA).methods:
        for evidence in method["evidence"]:
            arms = tool.load_study(files[evidence["study"]]).arms
            assert {*evidence.get("arm", []), evidence.get("against", next(iter(arms)))} <= set(arms), evidence
            assert evidence.get("arm") or "criterion" in evidence or {"found", "cannot"} <= set(evidence), evidence


@pytest.mark.parametrize("path", sorted(DATA.glob("*.json")), ids=lambda path: path.stem)
def test_numbers_that_were_taken_from_a_page_are_on_it(path: Path) -> None:
    results = json.loads(path.read_text())
    if "page" not in results:
        return
    text = (ROOT / "docs" / "results" / results["page"]).read_text().replace("−", "-")
    numbers = {float(number) for number in re.findall(r"[-+]?\d+\.\d+", text)}
    for arm in results.get("arms", {}).values():
        assert {arm["loss"], *arm.get("difference", [])} <= numbers, arm


# ---- verdicts ----

MADE_UP = {  # an arm that is 0.1 lower in every document, and one that is higher in one of two
    "study": "made_up",
    "baseline": "base",
    "domain": None,
    "documents": {"text": [100, 100, 100]},
    "arms": {
        name: {
            "seeds": [0, 1, 2],
            "losses": {"text": dict(zip("012", losses, strict=True))},
            "nats": {"text": nats},
        }
        for name, losses, nats in [
            ("base", [2.0, 2.1, 1.9], [200.0, 210.0, 190.0]),
            ("lower", [1.9, 2.001, 1.799], [190.0, 200.1, 179.9]),
            ("mixed", [1.9, 2.001, 1.799], [150.0, 230.0, 190.0]),
            ("higher", [2.1, 2.201, 1.999], [210.0, 220.1, 199.9]),
            ("same", [2.0, 2.11, 1.89], [201.0, 209.0, 190.0]),
        ]
    },
    "measures": [
        {"measure": "a.b", "arm": "lower", "baseline": "base", "seeds": 3, "value": [-0.3, -0.4, -0.2], "p": None}
    ],
    "claims": {
        name: {"holds": holds, "found": f"found of {name}"}
        for name, holds in (("right", True), ("wrong", False), ("open", None))
    },
}


@pytest.mark.parametrize(
    ("evidence", "word"),
    [
        ({"arm": ["lower"]}, "holds"),
        ({"arm": ["higher"]}, "does not hold"),
        ({"arm": ["mixed"]}, "cannot be said here"),
        ({"arm": ["same"]}, "cannot be said here"),
        ({"arm": ["same"], "below": 0.05}, "holds"),
        ({"arm": ["lower", "higher"]}, "does not hold"),
        ({"arm": ["lower", "same"]}, "cannot be said here"),
        ({"arm": ["lower"], "against": "higher"}, "holds"),
        ({"arm": ["lower"], "measure": "a.b", "below": -0.1}, "holds"),
        ({"arm": ["lower"], "measure": "a.b", "below": -0.3}, "cannot be said here"),
        ({"arm": ["lower"], "measure": "a.c"}, "cannot be said here"),
        ({"arm": ["lower"], "cannot": "too small"}, "cannot be said here"),
        ({"arm": ["lower"], "study": "another"}, "not run yet"),
        ({"criterion": "right"}, "holds"),
        ({"criterion": "wrong"}, "does not hold"),
        ({"criterion": "open"}, "cannot be said here"),
        ({"criterion": "right", "study": "another"}, "not run yet"),
    ],
)
def test_verdicts(evidence: dict[str, Any], word: str) -> None:
    results = tool.Results(DATA)
    results.studies = {"made_up": MADE_UP}
    verdict = results.judge({"study": "made_up", **evidence})
    assert verdict.word == word
    if "cannot" in evidence:
        assert verdict.reason == "too small"
        assert "-0.1000" in verdict.numbers


def test_a_claim_that_is_missing_is_told() -> None:
    results = tool.Results(DATA)
    results.studies = {"made_up": MADE_UP}
    with pytest.raises(SystemExit, match=r"made_up\.json has no claim 'other'"):
        results.judge({"study": "made_up", "criterion": "other"})
