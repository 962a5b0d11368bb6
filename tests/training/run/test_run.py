"""What a whole run leaves, and what is refused."""

import json
from pathlib import Path

import pytest

from helpers.run_helpers import TOTAL, describe, describe_stages, run
from pathways_lite.errors import UserError
from pathways_lite.ledger import Ledger
from pathways_lite.recipe import Recipe, apply_overrides
from pathways_lite.run_directory import RunDirectory
from pathways_lite.tracking.log import read_log
from pathways_lite.training.load import load_model
from pathways_lite.training.stage import StageSpec


def test_the_log_and_the_ledger_agree_with_the_course(uninterrupted: Path, recipe: Recipe) -> None:
    rows = read_log(uninterrupted / "base" / "log.jsonl")
    timeline = load_model(uninterrupted).components.timeline
    train = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in train] == list(range(1, TOTAL + 1))
    assert [row["tokens"] for row in train] == [timeline.tokens_before(step) for step in range(1, TOTAL + 1)]
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [6, 12]
    accounts = RunDirectory(uninterrupted).stage("base").ledger
    assert accounts is not None
    ledger = Ledger.from_json(accounts["stage"])
    assert ledger.counts() == Ledger().after(timeline, TOTAL).counts()
    assert 0 < ledger.seconds.train < ledger.seconds.total
    assert train[-1]["loss"] < train[0]["loss"]


def test_the_resolved_recipe_says_all_that_determines_the_result(uninterrupted: Path, recipe: Recipe) -> None:
    resolved = RunDirectory(uninterrupted).recipe()
    assert resolved.stages[0].data.fingerprint
    without = apply_overrides(resolved, ["stages.base.data.fingerprint=none"])
    assert without == recipe


def test_describe_counts_epochs(recipe: Recipe) -> None:
    line = describe(recipe)
    assert "12 steps" in line
    assert "epochs" in line
    (row,) = describe_stages(recipe)
    assert (row["stage"], row["start"], row["steps"]) == ("base", "scratch", TOTAL)
    assert row["identity"] in line
    assert set(row["epochs"]) == set(StageSpec(recipe, 0).store.domains)
    assert json.loads(json.dumps(row)) == row


def test_logs_are_json(uninterrupted: Path) -> None:
    for name in ("log.jsonl", "timings.jsonl"):
        assert all(json.loads(line)["kind"] for line in (uninterrupted / "base" / name).read_text().splitlines())


# ---- what is refused ----


def test_another_recipe_in_the_same_directory_is_refused(recipe: Recipe, uninterrupted: Path) -> None:
    other = apply_overrides(recipe, ["stages.base.optimizer.learning_rate=1e-4"])
    with pytest.raises(UserError, match=r"optimizer\.learning_rate: 0\.003 in the run, 0\.0001 in this recipe"):
        run(other, uninterrupted)


def test_a_missing_corpus_is_a_sentence(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="data build"):
        run(apply_overrides(recipe, [f"stages.base.data.corpus={tmp_path / 'nothing'}"]), tmp_path / "run")


def test_a_vocabulary_too_small_is_a_sentence(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="vocab_size"):
        run(apply_overrides(recipe, ["stages.base.model.vocab_size=100"]), tmp_path)
