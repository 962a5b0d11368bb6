"""A run whose samples have weights: its log, its cost, and resuming with a reference."""

import math
import shutil
from pathlib import Path

import pytest

from helpers.run_helpers import StopAfter, digest, log_bytes, run
from pathways_lite.checkpoints import CheckpointManager, read_manifest
from pathways_lite.errors import UserError
from pathways_lite.ledger import Ledger
from pathways_lite.recipe import (
    LinUpper,
    Recipe,
    Reference,
    Reweighting,
    Steps,
    TopLosses,
    apply_overrides,
    stage_identity,
)
from pathways_lite.tracking.log import read_log
from pathways_lite.training.resolve import resolve_recipe
from pathways_lite.training.stage import stage_timeline


def weighted(recipe: Recipe, **fields: object) -> Recipe:
    base = recipe.stages[0].model_copy(update={"reweighting": Reweighting(**fields), "batch_size": 4})
    return recipe.model_copy(update={"stages": (base,)})


def test_a_selection_by_a_reference_resumes_exactly_and_pays_for_everything(
    recipe: Recipe, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rho = weighted(
        recipe, rule=TopLosses(fraction=0.5), reference=Reference(path=str(uninterrupted)), burn_in=Steps(n=2)
    )
    assert run(rho, tmp_path / "whole") == 0
    assert run(rho, tmp_path / "stopped", StopAfter(5)) != 0
    assert run(rho, tmp_path / "stopped") == 0
    assert digest(tmp_path / "stopped") == digest(tmp_path / "whole")
    assert log_bytes(tmp_path / "stopped") == log_bytes(tmp_path / "whole")

    rows = [row for row in read_log(tmp_path / "whole" / "base" / "log.jsonl") if row["kind"] == "train"]
    assert rows[0]["effective_batch_size"] == pytest.approx(4)  # the burn-in
    assert rows[0]["weight_entropy"] == pytest.approx(math.log(4))
    assert rows[-1]["effective_batch_size"] == pytest.approx(2)
    assert sum(rows[-1]["weight_histogram"]) == pytest.approx(1)
    assert set(rows[-1]["weight_of_domain"]) <= {"poems", "tales"}

    of = lambda path: read_manifest(CheckpointManager(path / "base" / "checkpoints").path(12)).meta  # noqa: E731
    plain = stage_timeline(recipe.stages[0]).flops_per_token
    ledger = {name: Ledger.from_json(found) for name, found in of(tmp_path / "whole")["ledger"].items()}
    forward = plain // 3  # of all rows, and of the reference; half of them are trained on
    assert ledger["stage"].flops == ledger["stage"].tokens * (2 * forward + plain // 2)
    reference = Ledger.from_json(of(uninterrupted)["ledger"]["total"])
    assert ledger["total"].flops == ledger["stage"].flops + reference.flops


def test_another_reference_is_another_stage_and_is_refused(recipe: Recipe, uninterrupted: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was made with the checkpoint abc"):
        run(weighted(recipe, reference=Reference(path=str(uninterrupted), digest="abc")), tmp_path)


def test_a_reference_of_another_tokenizer_is_refused(
    recipe: Recipe, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "copy"
    shutil.copytree(recipe.stages[0].data.corpus, elsewhere)
    moved = apply_overrides(recipe, [f"stages.base.data.corpus={elsewhere}"])
    rho = weighted(moved, reference=Reference(path=str(uninterrupted)))
    resolve_recipe(rho)  # another corpus, the same tokenizer
    monkeypatch.setattr("pathways_lite.training.resolve._tokenizer", lambda stage: stage.data.corpus)
    with pytest.raises(UserError, match="whose tokenizer is another one than that of"):
        resolve_recipe(rho)


def test_what_does_not_fit_is_said_with_the_numbers(recipe: Recipe) -> None:
    changes = ["stages.base.batch_size=4", 'stages.base.reweighting={"rule": {"kind": "top", "fraction": 0.3}}']
    with pytest.raises(UserError, match=r"fraction=0.3 of a batch of 4 rows is 1.2 rows"):
        apply_overrides(recipe, changes)
    changes[1] = 'stages.base.reweighting={"rule": {"kind": "top", "fraction": 0.5}}'
    with pytest.raises(UserError, match="microbatch=4 does not divide the 2 rows that are trained on"):
        apply_overrides(recipe, [*changes, "stages.base.microbatch=4"])


def test_identities_of_recipes_without_weights_stay(recipe: Recipe) -> None:
    identity = stage_identity(recipe, 0)
    assert stage_identity(weighted(recipe, rule=LinUpper()), 0) != identity
    assert stage_identity(apply_overrides(recipe, ["stages.base.reweighting=none"]), 0) == identity
