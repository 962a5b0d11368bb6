"""A run that prunes: it resumes to the bit, and its log, ledger and table say what was active."""

from pathlib import Path

import numpy as np
import pytest

from helpers.run_helpers import TOTAL, StopAfter, digest, log_bytes, run
from pathways_lite.checkpoints import CheckpointManager, read_manifest
from pathways_lite.errors import UserError
from pathways_lite.ledger import Ledger
from pathways_lite.recipe import NM, FirstOrder, Grow, Prune, Recipe, apply_overrides, stage_identity
from pathways_lite.scaling.runs_table import runs_table
from pathways_lite.tracking.log import read_log
from pathways_lite.training.init_growth import require_growth
from pathways_lite.training.load import load_model
from pathways_lite.training.stage import stage_timeline


def pruned(recipe: Recipe, prune: Prune | None) -> Recipe:
    return recipe.model_copy(update={"stages": (recipe.stages[0].model_copy(update={"pruning": prune}),)})


def test_a_sparse_run_resumes_exactly_and_accounts_for_its_zeros(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prune = Prune(sparsity=0.7, update_every=2, scope=("layers.mlp.up",), criterion=FirstOrder())
    sparse = apply_overrides(pruned(recipe, prune), ["stages.base.batch_size=2"])  # one program
    assert run(sparse, tmp_path / "whole") == 0
    assert run(sparse, tmp_path / "stopped", StopAfter(7)) != 0
    assert run(sparse, tmp_path / "stopped") == 0
    assert digest(tmp_path / "stopped") == digest(tmp_path / "whole")
    assert log_bytes(tmp_path / "stopped") == log_bytes(tmp_path / "whole")

    timeline = stage_timeline(sparse.stages[0])
    up = load_model(tmp_path / "whole").params()["layers"]["mlp"]["up"]
    zeros = int((np.asarray(up) == 0).sum())
    assert zeros == 2 * round(0.7 * 32 * 64)  # of two layers
    last = [row for row in read_log(tmp_path / "whole" / "base" / "log.jsonl") if row["kind"] == "eval"][-1]
    assert last["active_parameters"] == timeline.active_parameters - zeros
    meta = read_manifest(CheckpointManager(tmp_path / "whole" / "base" / "checkpoints").path(TOTAL)).meta
    ledger = Ledger.from_json(meta["ledger"]["total"])
    assert last["active_parameter_tokens"] == ledger.active_parameter_tokens
    assert ledger.flops - ledger.sparse_flops == 6 * (
        ledger.tokens * timeline.active_parameters - ledger.active_parameter_tokens
    )
    table = runs_table([tmp_path / "whole"], final=True)
    assert table["N"][0] == timeline.active_parameters
    assert table["N_active"][0] == timeline.active_parameters - zeros
    assert table["N_average"][0] == pytest.approx(ledger.average_active_parameters)
    assert table["C_sparse"][0] == ledger.sparse_flops < table["C"][0] == ledger.flops


def test_identities_of_dense_recipes_stay(recipe: Recipe) -> None:
    dense, sparse = (stage_identity(pruned(recipe, prune), 0) for prune in (None, Prune(sparsity=0.5)))
    assert dense == stage_identity(recipe, 0) != sparse


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("sparsity=0.5 end=0.1", "after end"),
        ("sparsity=0.6 structure=n_m", "2:4 is a sparsity of 0.5"),
        ('sparsity=0.5 structure=heads scope=["embedding"]', "whole"),
    ],
)
def test_contradictions_are_refused(change: str, says: str) -> None:
    with pytest.raises((UserError, ValueError), match=says):
        apply_overrides(Prune(sparsity=0.5), change.split())


def test_what_the_model_has_not_is_said(recipe: Recipe) -> None:
    with pytest.raises(UserError, match="no matrix is called"):
        stage_timeline(pruned(recipe, Prune(sparsity=0.5, scope=("layers.norm*",))).stages[0])
    odd = apply_overrides(recipe, ["stages.base.model.d_ff=66"])
    with pytest.raises(UserError, match="do not divide"):
        stage_timeline(pruned(odd, Prune(sparsity=0.5, structure=NM())).stages[0])


def test_masks_are_not_grown(recipe: Recipe) -> None:
    base = recipe.stages[0].model_copy(update={"pruning": Prune(sparsity=0.5)})
    model = base.model.model_copy(update={"n_layers": 4})
    grown = base.model_copy(update={"name": "grown", "start": Grow(optimizer="grow"), "model": model})
    with pytest.raises(UserError, match="masks"):
        require_growth(recipe.model_copy(update={"stages": (base, grown)}), 1)
