"""`pl.study` trains and compares arms, `pl.fit` fits laws to tables and runs, `pl.data` builds and opens corpora."""

import json
from pathlib import Path

import numpy as np
import pytest

import pathways_lite as pl
from pathways_lite.recipe import Recipe, apply_overrides
from pathways_lite.scaling.laws.chinchilla import CHINCHILLA
from pathways_lite.studies import Study


def table() -> dict[str, list[float]]:
    sizes, tokens = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 1e11, 4)))
    loss = 1.7 + 400 * sizes**-0.34 + 410 * tokens**-0.28
    return {"N": sizes.tolist(), "D": tokens.tolist(), "L": loss.tolist()}


def test_a_law_is_fitted_to_columns_and_to_a_file(tmp_path: Path) -> None:
    own = pl.fit("chinchilla", table(), bootstraps=0)
    assert own.law is CHINCHILLA
    assert abs(own.values["E"] - 1.7) < 1e-3
    renamed = {"size": [n / 1e6 for n in table()["N"]], "D": table()["D"], "loss": table()["L"]}
    (tmp_path / "t.json").write_text(json.dumps([dict(zip(renamed, row)) for row in zip(*renamed.values())]))  # noqa: B905
    columns = {"N": "size*1e6", "L": "loss"}
    for source in (renamed, tmp_path / "t.json"):
        assert pl.fit("chinchilla", source, columns, bootstraps=0).values["E"] == pytest.approx(
            own.values["E"], rel=1e-6
        )
    with pytest.raises(pl.UserError, match="Did you mean 'chinchilla'"):
        pl.fit("chinchila", table())
    with pytest.raises(pl.UserError, match="N 16 rows, L 3 rows"):
        pl.fit("chinchilla", {"N": table()["N"], "L": [1.0, 2.0, 3.0]})
    with pytest.raises(pl.UserError, match="there is no table"):
        pl.fit("chinchilla", tmp_path / "none.csv")


@pytest.mark.slow
def test_a_study_is_trained_and_compared(recipe: Recipe, tmp_path: Path) -> None:
    def arm(rate: str) -> tuple[Recipe, ...]:
        changes = [f"stages.base.optimizer.learning_rate={rate}", "stages.base.budget=2 steps"]
        changes += ["stages.base.evaluation.every=1", "stages.base.batch_size=2"]
        return (apply_overrides(recipe, changes),)

    rates = Study(name="rates", question="Which?", arms={"low": arm("1e-4"), "high": arm("1e-2")}, baseline="low")
    findings = pl.study(rates, tmp_path / "rates")
    assert [arm.name for arm in findings.arms] == ["low", "high"]
    assert findings.results is not None
    assert len(findings.results.comparisons) == 1
    with pytest.raises(pl.UserError, match="overrides are of a study's file"):
        pl.study(rates, tmp_path / "rates", overrides=["seed=1"])


def test_runs_are_a_table(trained: pl.Trained) -> None:
    with pytest.raises(pl.UserError, match="1 row is too few for the 5 parameters of chinchilla"):
        pl.fit("chinchilla", trained.checkpoint.path.parents[3])


def test_a_corpus_is_built_and_opened(tmp_path: Path) -> None:
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": f"text {i}"}) + "\n" for i in range(20)))
    built = pl.data.build_corpus([str(tmp_path / "text.jsonl")], tmp_path / "store", tokenizer="bytes", workers=0)
    opened = pl.data.open_corpus(tmp_path / "store")
    assert isinstance(opened, pl.data.Store)
    assert opened.fingerprint == built.fingerprint
