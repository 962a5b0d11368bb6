"""A study with an arm that starts from a public model: its page gives no speed-up in FLOPs that nobody counted."""

from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.hf_goldens import write_published
from pathways_lite.cli.study_law import fit_study_law
from pathways_lite.cli.study_tables import cost_note
from pathways_lite.conversion.hf_import import import_hf
from pathways_lite.errors import UserError
from pathways_lite.recipe import AdamW, Data, Evaluation, Recipe, Restore, Scratch, Stage, Start, Steps, read_recipe
from pathways_lite.studies.plan import StudyPlan, plan_study, resolve_study
from pathways_lite.studies.report import gather_findings, write_report
from pathways_lite.studies.study import Study
from pathways_lite.training.load import load_model


@pytest.fixture(scope="module")
def plan(corpus: Path, train: Callable[[Recipe, Path], str], tmp_path_factory: pytest.TempPathFactory) -> StudyPlan:
    """The finished study of one model, from scratch and from an import of unknown cost."""
    root = tmp_path_factory.mktemp("import")
    path = import_hf(write_published(root / "hf", "smollm", vocab_size=300), root / "public", None, lambda line: None)
    model = load_model(path).stage.model.model_copy(update={"dtype": "float32"})

    def arm(name: str, start: Start) -> tuple[Recipe, ...]:
        stage = Stage(
            start=start, model=model, data=Data(corpus=str(corpus), seq_len=32), optimizer=AdamW(), batch_size=2,
            budget=Steps(n=4), evaluation=Evaluation(every=2, tokens=500), log_every=1,
        )  # fmt: skip
        return (Recipe(name=name, stages=(stage,)),)

    arms = {"scratch": arm("scratch", Scratch()), "public": arm("public", Restore(path=str(path)))}
    study = resolve_study(Study(name="starts", question="Where from?", arms=arms, baseline="scratch"))
    before = plan_study(study, root / "out")
    for identity in before.nodes:
        run = before.store.prepare(identity)
        train(read_recipe(run.recipe_path), run.path)
    return plan_study(study, root / "out")


def test_the_plan_names_the_arms_whose_cost_is_unknown(plan: StudyPlan) -> None:
    assert cost_note(plan).startswith("Cost unknown: public (")
    assert "no speed-up in total FLOPs can be given" in cost_note(plan)


def test_the_page_gives_flops_here_and_says_so(plan: StudyPlan) -> None:
    findings = gather_findings(plan, ["study.py"])
    write_report(findings)
    page = " ".join((plan.store.path / "report.html").read_text().split())
    assert findings.problems == []
    assert "FLOPs spent here the loss of public is" in page
    assert "What public started from was trained elsewhere, at a cost that is unknown and not free" in page
    assert "no speedup in total FLOPs is known" in page
    assert " + unknown" in page
    assert "spent here: the cost of imported models is unknown" in page
    header, *rows = (plan.store.path / "results.csv").read_text().splitlines()
    column = header.split(",").index("cost_elsewhere")
    assert [row.split(",")[column] for row in rows if row.startswith(",")] == ["", "unknown"]


def test_no_law_of_total_compute_takes_it_as_free(plan: StudyPlan) -> None:
    with pytest.raises(UserError, match="arm public starts from a model that was trained elsewhere at an unknown cost"):
        fit_study_law(plan, "auto", None, ())
