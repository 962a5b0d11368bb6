"""Runs that read a mixture: resumed exactly, continued by another mixture, scalarized."""

import io
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from helpers.run_helpers import StopAfter, describe, digest, log_bytes, run
from pathways_lite.batch import Batch
from pathways_lite.checkpoints import CheckpointManager, read_manifest
from pathways_lite.recipe import (
    Continue,
    DataMixture,
    Evaluation,
    MixturePhase,
    Recipe,
    Temperature,
    cooldown,
    stage_identity,
)
from pathways_lite.training.components import Components
from pathways_lite.training.load import load_model
from pathways_lite.training.run import train_run
from pathways_lite.training.stage import StageSpec


def mixed(recipe: Recipe, mixture: DataMixture | None, **fields: object) -> Recipe:
    base = recipe.stages[0]
    base = base.model_copy(update={"data": base.data.model_copy(update={"mixture": mixture}), **fields})
    return recipe.model_copy(update={"stages": (base,)})


def test_a_cooldown_resumes_exactly_and_says_how_often_each_domain_will_be_seen(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = io.StringIO()
    assert train_run(mixed(recipe, cooldown()), tmp_path / "whole", console=Console(file=told, width=200)) == 0
    assert "poems will be seen 0." in told.getvalue()
    assert run(mixed(recipe, cooldown()), tmp_path / "stopped", StopAfter(7)) != 0
    assert run(mixed(recipe, cooldown()), tmp_path / "stopped") == 0
    assert digest(tmp_path / "stopped") == digest(tmp_path / "whole")
    assert log_bytes(tmp_path / "stopped") == log_bytes(tmp_path / "whole")
    assert "tales will be seen" in describe(mixed(recipe, cooldown()))

    found = load_model(tmp_path / "whole")
    more = found.stage.model_copy(update={"name": "more", "start": Continue()})
    cursor = found.cursor_for(more)
    assert sum(cursor.consumed) == 10 + 7 * 4  # all that the stage has read
    plain = more.model_copy(update={"data": more.data.model_copy(update={"mixture": None})})
    assert found.cursor_for(plain).sequences_read == 0
    meta = read_manifest(CheckpointManager(tmp_path / "whole" / "base" / "checkpoints").path(12)).meta
    assert meta["cursor"] == {"first_sequence": 0, "skips": []}


def test_a_scalarized_mixture_weighs_rows_by_their_domain(recipe: Recipe) -> None:
    even = DataMixture(phases=(MixturePhase(weights=Temperature(tau=1e9)),), by="loss")
    components = Components(StageSpec(mixed(recipe, even), 0))
    weights = components.sample_weights
    assert weights is not None
    batch = jax.tree.map(np.zeros_like, Batch(*[np.zeros((2, 3))] * 4, (np.zeros((2, 3)),) * 2, np.zeros(2, int), 0))
    batch = batch._replace(domain=np.array([0, 1]), loss_weights=np.ones((2, 3), np.float32))
    found, _ = weights.weigh(np.float32([[1, 2, 3], [4, 5, 6]]), batch, components.timeline.clock(3), ())
    sizes = np.array([components.spec.store.tokens(name) - 1 for name in components.spec.store.domains]) // 32
    np.testing.assert_allclose(found[:, 0], 0.5 / (sizes / sizes.sum()), rtol=1e-5)
    # Where a batch is taken in slices, weights are found ahead; what that computes is counted.
    flops = {m: Components(StageSpec(mixed(recipe, even, microbatch=m), 0)).timeline.flops_per_token for m in (None, 1)}
    assert flops[1] == flops[None] + flops[None] // 3


def test_denoisers_are_evaluated_on_text_of_every_domain(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    components = Components(StageSpec(mixed(recipe, None, evaluation=Evaluation(tokens=40)), 0))
    seen: list[np.ndarray] = []

    def losses(evaluator: object, params: object, objective: object, documents: list[np.ndarray], **_: object) -> None:
        seen.extend(documents)

    monkeypatch.setattr("pathways_lite.evaluation.held_out.denoiser_losses", losses)
    components.evaluator.evaluate_denoisers(None)
    of_domains = {
        name: [document.tokens for document in documents] for name, documents in components.evaluator.documents.items()
    }
    assert len(of_domains) == 2
    read = np.concatenate(seen)
    expected = [np.concatenate(documents)[:20] for documents in of_domains.values()]
    np.testing.assert_array_equal(read, np.concatenate(expected))


def test_identities_of_recipes_without_a_mixture_stay(recipe: Recipe) -> None:
    identity = stage_identity(recipe, 0)
    assert stage_identity(mixed(recipe, None), 0) == identity
    assert stage_identity(mixed(recipe, cooldown()), 0) != identity
    assert stage_identity(mixed(recipe, cooldown(at="40 %")), 0) != stage_identity(mixed(recipe, cooldown()), 0)
