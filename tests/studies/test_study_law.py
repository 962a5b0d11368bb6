"""What the arms of a study are worth: from last losses of several budgets, and from evaluations along runs."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pathways_lite.cli import study_law
from pathways_lite.cli.main import app
from pathways_lite.errors import UserError
from pathways_lite.studies.store import StudyStore


def made_up_plan(budgets: int, seeds: int) -> Any:
    """A plan of two methods at some budgets and seeds, all done; a run's directory names its arm and seed."""
    arms = {f"{method}_{size}": (0,) * seeds for method in ("plain", "grown") for size in range(budgets)}
    labels = [f"{arm}/{seed}" for arm, recipes in arms.items() for seed in range(len(recipes))]
    nodes = {label: SimpleNamespace(is_last=(label,)) for label in labels}
    store = SimpleNamespace(nodes=nodes, run_directory=lambda identity: SimpleNamespace(path=Path(identity)))
    study = SimpleNamespace(arms=arms, baseline="plain_0", recipes=labels, name="made_up")
    return SimpleNamespace(study=study, store=store, nodes={label: SimpleNamespace(state="done") for label in labels})


def made_up_table(paths: list[Path], *, final: bool) -> dict[str, np.ndarray]:
    """The losses of a law of compute in which a grown model's compute counts 1.5 times."""
    method, _, size = paths[0].parent.name.partition("_")
    seed = int(paths[0].name)
    noise = np.random.default_rng([seed, int(size), sum(map(ord, method))]).normal
    C = np.array([1e17 * 4.0 ** int(size)]) if final else np.geomspace(1e16, 1e17, 8)
    worth = 1.5 if method == "grown" else 1.0
    L = (1.7 + 1e3 * (worth * C) ** -0.16) * np.exp(1e-3 * noise())
    columns = {"N": np.full(len(C), 1e7), "D": C / 6e7, "C": C, "L": L, "seed": np.full(len(C), float(seed))}
    return columns


@pytest.fixture
def without_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pathways_lite.scaling.runs_table.runs_table", made_up_table)


@pytest.mark.usefixtures("without_runs")
def test_methods_of_several_budgets_are_compared_by_their_last_losses() -> None:
    efficiency = study_law.fit_study_law(made_up_plan(5, 2), "auto", "(.+)_", ())
    assert efficiency.law.name == "efficiency:compute,C,shared,grown"
    assert efficiency.rows == 20
    assert efficiency.replicates == 0
    assert efficiency.factors[0].shared.contains(1.5)
    assert efficiency.p_value > 0.01
    assert "grown, C" in study_law.efficiency_section(efficiency)
    assert "it pays" in efficiency.sentences()[0]


@pytest.mark.usefixtures("without_runs")
def test_arms_of_one_budget_are_compared_along_their_runs_and_over_seeds() -> None:
    efficiency = study_law.fit_study_law(made_up_plan(1, 4), "auto", None, ())
    assert efficiency.replicates == 4
    assert efficiency.rows == 2 * 4 * 8
    assert efficiency.factors[0].shared.contains(1.5)
    assert efficiency.factors[0].arm == "grown_0"


@pytest.mark.usefixtures("without_runs")
def test_mistakes_are_told() -> None:
    plan = made_up_plan(3, 1)
    for law, methods, sentence in (
        ("kaplan", None, "there is no --law 'kaplan'. There are: auto"),
        ("auto", "(.+", "is not a regular expression"),
        ("auto", ".+_", "has no group"),
        ("chinchilla", "(.+)_", "single value"),
    ):
        with pytest.raises(UserError, match=sentence):
            study_law.fit_study_law(plan, law, methods, ())
    for node in plan.nodes.values():
        node.state = "ready"
    with pytest.raises(UserError, match="no run of made_up is finished"):
        study_law.fit_study_law(plan, "auto", None, ())


def test_the_report_of_a_trained_study_has_the_law(study_file: Path, store: StudyStore) -> None:
    """With one seed there is a factor without an interval, and the page says so."""
    arguments = ["study", "report", str(study_file), "--out", str(store.path), "--law", "compute"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "fast makes compute worth" in result.output
    assert "there is no interval" in result.output
    assert "What each arm is worth" in (store.path / "report.html").read_text()
    facts = json.loads(CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False).stdout)
    assert facts["law"]["law"] == "efficiency:compute,C,shared,fast"
