"""Measures of a study: which numbers, over which seeds, compared with whom, and what they decide."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from pathways_lite.comparison.bootstrap import student_t_interval
from pathways_lite.errors import UserError
from pathways_lite.intervals import Interval
from pathways_lite.run_directory import write_json
from pathways_lite.studies import Claim, Study
from pathways_lite.studies.measures import (
    EVALUATION,
    Measured,
    corrected_sentence,
    criterion_sentences,
    evaluate_study,
    find_number,
    read_measures,
)
from pathways_lite.studies.plan import plan_study, study_store
from pathways_lite.studies.report import gather_findings, write_report
from pathways_lite.studies.store import StudyStore

INFILLING, CAUSAL = "infilling.as_trained.difference", "openers.best.loss"
CLAIMS = (Claim(measure=CAUSAL, below=0.01, compared=True), Claim(measure=INFILLING, below=-0.1))
NUMBERS = {  # of three seeds: causal loss, infilling
    "base": ((2.0, 2.1, 1.9), (0.3, 0.2, 0.1)),
    "fills": ((2.001, 2.102, 1.903), (-0.2, -0.21, -0.22)),
    "costs": ((2.101, 2.202, 2.003), (-0.2, -0.21, -0.22)),
    "unclear": ((2.001, 2.102, 1.903), (-0.2, -0.05, -0.3)),
    "reference": ((2.1, 2.2, 2.0), (0.0, 0.0, 0.0)),
    "fills_more": ((2.101, 2.202, 2.003), (-0.2, -0.21, -0.22)),
}


@pytest.fixture
def measured_study(study: Study, tmp_path: Path) -> tuple[Study, StudyStore]:
    """A study of recipes that differ in a rate, with made-up evaluations."""
    arms = {}
    recipe = study.arms["slow"][0]
    for number, name in enumerate(NUMBERS):
        optimizer = recipe.stages[0].optimizer.model_copy(update={"learning_rate": 1e-3 * (number + 1)})
        stages = (recipe.stages[0].model_copy(update={"optimizer": optimizer}),)
        arms[name] = tuple(recipe.model_copy(update={"stages": stages, "seed": seed}) for seed in range(3))
    baselines = {"fills_more": "reference"}
    made_up = Study(
        name="made_up",
        question="?",
        arms=arms,
        baseline="base",
        criterion=CLAIMS,
        measures=("a.b",),
        baselines=baselines,
    )
    store = study_store(made_up, tmp_path)
    for identity, node in store.nodes.items():
        (label,) = node.is_last
        arm, seed = label.split("/")
        causal, infilling = (values[int(seed)] for values in NUMBERS[arm])
        content = {"openers": {"best": {"loss": causal, "opener": "eod"}}}
        content["infilling"] = {"as_trained": {"difference": infilling}}
        path = store.run_directory(identity).path
        path.mkdir(parents=True)
        write_json(path / EVALUATION, content)
    return made_up, store


def test_values_and_paired_differences(measured_study: tuple[Study, StudyStore]) -> None:
    study, store = measured_study
    measured = {(m.arm, m.measure): m for m in read_measures(study, store)}
    assert len(measured) == 2 * len(NUMBERS)  # `a.b` is nowhere
    m = measured["costs", CAUSAL]
    assert (m.runs, m.baseline) == (3, "base")
    assert m.value == student_t_interval(np.array(NUMBERS["costs"][0]))
    assert m.difference == student_t_interval(np.array(NUMBERS["costs"][0]) - np.array(NUMBERS["base"][0]))
    assert measured["base", CAUSAL].difference is None
    assert measured["reference", CAUSAL].difference is None  # a baseline itself
    assert measured["fills_more", CAUSAL].difference.value == pytest.approx(0.002)
    # A seed without an evaluation is not compared.
    label = next(identity for identity, node in store.nodes.items() if node.is_last == {"base/1"})
    (store.run_directory(label).path / EVALUATION).unlink()
    again = next(m for m in read_measures(study, store) if (m.arm, m.measure) == ("costs", CAUSAL))
    assert again.runs == 3
    assert again.difference == student_t_interval(np.array([2.101 - 2.0, 2.003 - 1.9]))


def test_the_criterion_holds_where_all_claims_do_beyond_their_intervals(
    measured_study: tuple[Study, StudyStore],
) -> None:
    study, store = measured_study
    sentences = criterion_sentences(study, read_measures(study, store))
    verdicts = {sentence.split(":")[0]: sentence.split("criterion ")[1].split(":")[0] for sentence in sentences}
    assert verdicts == {
        "fills": "is met",
        "costs": "is not met",
        "unclear": "cannot be decided",
        "fills_more": "is met",
    }
    assert "openers.best.loss differs from reference by +0.0020" in sentences[-1]
    assert "required below -0.1" in sentences[-1]
    assert criterion_sentences(study.model_copy(update={"criterion": ()}), read_measures(study, store)) == []


def test_the_report_has_them(measured_study: tuple[Study, StudyStore]) -> None:
    study, store = measured_study
    plan = plan_study(study, store.path)
    html_path, csv_path, *_ = write_report(gather_findings(plan, ["made_up.py"]))
    html = html_path.read_text()
    assert "costs: the criterion is not met" in html
    assert INFILLING in html
    rows = {(row["held_out"], row["arm"]): row for row in csv.DictReader(csv_path.open())}
    row = rows[CAUSAL, "fills_more"]
    assert (row["baseline"], row["runs"], row["interval"]) == ("reference", "3", "student")
    assert float(row["loss"]) == pytest.approx(np.mean(NUMBERS["fills_more"][0]))
    assert float(row["low"]) < float(row["difference"]) < float(row["high"])
    assert rows[INFILLING, "base"]["difference"] == ""
    assert float(rows[INFILLING, "base"]["value_low"]) < 0.2 < float(rows[INFILLING, "base"]["value_high"])
    assert (
        "Measures"
        not in write_report(
            gather_findings(replace(plan, study=study.model_copy(update={"criterion": (), "measures": ()})), ["x.py"])
        )[0].read_text()
    )


def test_many_measures_are_corrected_for_their_number() -> None:
    """0.004 times 3 remains below 0.05; 0.03 times 2 does not, though each of three has p < 0.05."""
    value = Interval(1.0)
    measured = [
        Measured(arm, "base", "infilling", 3, value, value, p)
        for arm, p in zip("abc", (0.04, 0.004, 0.03), strict=True)
    ]
    assert corrected_sentence(measured).endswith("after Holm's correction: infilling of b (p = 0.012).")
    assert corrected_sentence(measured[:1]) == ""
    assert corrected_sentence([measured[0], Measured("base", "base", "infilling", 3, value, None)]) == ""


def test_numbers_by_their_path() -> None:
    values = {"a": {"b": {"c": 1, "d": "text", "e": True}}}
    assert find_number(values, "a.b.c") == 1
    for missing in ("a.b", "a.b.d", "a.b.e", "a.x.c", "b"):
        assert math.isnan(find_number(values, missing))


def test_baselines_are_arms(measured_study: tuple[Study, StudyStore]) -> None:
    fields = {**dict(measured_study[0]), "baselines": {"fills": "nobody"}}
    with pytest.raises(ValidationError, match="baselines names 'nobody', which is no arm; the arms are base, fills"):
        Study.model_validate(fields)


def test_a_model_without_free_ids_cannot_be_asked(store: StudyStore) -> None:
    with pytest.raises(UserError, match="no id is left to stand for a gap"):
        evaluate_study(store, 200, lambda line: None, infilling=True)


def test_finished_nodes_are_evaluated_once(store: StudyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "pathways_lite.training.final_evaluation.infilling_json", lambda evaluator, params: {"infilling": {}}
    )
    lines: list[str] = []
    assert evaluate_study(store, 200, lines.append, infilling=True) == 2  # the last stages, not the trunk
    assert lines == ["1/2: slow tail", "2/2: fast tail"]
    assert evaluate_study(store, 200, lines.append, infilling=True) == 0
    assert evaluate_study(store, 300, lines.append, infilling=True) == 2
    last = [identity for identity, node in store.nodes.items() if node.is_last]
    paths = [store.run_directory(identity).path / EVALUATION for identity in last]
    try:
        content = json.loads(paths[0].read_text())
        assert content["requested_tokens"] == 300
        assert content["checkpoint"] == "step_00000004"
        assert set(content["domains"]) == {"poems", "tales"}
    finally:
        for path in paths:
            path.unlink()
