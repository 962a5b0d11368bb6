"""One recipe that trains a reference, a proxy that learns weights of domains, and a model that reads by them."""

from pathlib import Path

import pytest
from whole_runs import digest, log_of, run, stop_after

from pathways_lite.checkpoints import Checkpoints, read_manifest
from pathways_lite.errors import UserError
from pathways_lite.ledger import Ledger
from pathways_lite.models.accounting import flops_per_token
from pathways_lite.recipe import (
    DataMixture,
    DoGE,
    DoReMi,
    LearnedWeights,
    MixturePhase,
    Recipe,
    Reference,
    Steps,
    apply_overrides,
    stage_identity,
)
from pathways_lite.tracking.log import read_log
from pathways_lite.training.resolve import resolve
from pathways_lite.training.run import describe

BY_PROXY = DataMixture(phases=(MixturePhase(weights=LearnedWeights(stage="proxy")),))


def chain(recipe: Recipe, rule: DoReMi | DoGE) -> Recipe:
    base = recipe.stages[0].model_copy(update={"batch_size": 4, "budget": Steps(n=4)})
    reference = base.model_copy(update={"name": "reference"})
    proxy = base.model_copy(update={"name": "proxy", "domain_weights": rule})
    data = base.data.model_copy(update={"mixture": BY_PROXY})
    final = base.model_copy(update={"name": "final", "data": data})
    return recipe.model_copy(update={"stages": (reference, proxy, final)})


DOREMI = DoReMi(reference=Reference(stage="reference"))


@pytest.mark.parametrize("rule", [DOREMI, pytest.param(DoGE(mu=0.001), marks=pytest.mark.slow)], ids=["doremi", "doge"])
def test_a_chain_resumes_exactly_reads_what_was_learned_and_pays_for_everything(
    recipe: Recipe, rule: DoReMi | DoGE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = chain(recipe, rule)
    assert run(recipe, tmp_path / "whole") == 0
    with monkeypatch.context() as patch:
        stop_in_proxy(patch)
        assert run(recipe, tmp_path / "stopped") != 0
    assert run(recipe, tmp_path / "stopped") == 0
    for stage in ("proxy", "final"):
        assert digest(tmp_path / "stopped", stage, 4) == digest(tmp_path / "whole", stage, 4)
        assert log_of(tmp_path / "stopped", stage) == log_of(tmp_path / "whole", stage)

    rows = [row for row in read_log(tmp_path / "whole" / "proxy" / "log.jsonl") if row["kind"] == "train"]
    alphas = [row["domain_weights"] for row in rows]
    assert set(alphas[0]) == {"poems", "tales"}
    mean = {name: sum(alpha[name] for alpha in alphas) / len(alphas) for name in alphas[0]}
    assert rows[-1]["average_domain_weights"] == pytest.approx(mean, rel=1e-5)
    assert mean["poems"] != pytest.approx(0.5, abs=1e-4)

    meta = {name: meta_of(tmp_path / "whole", name) for name in ("reference", "proxy", "final")}
    kept = Recipe.model_validate(meta["final"]["recipe"])
    mixture = kept.stages[2].data.mixture
    assert mixture is not None
    (learned,) = mixture.learned
    assert dict(learned.weights or ()) == pytest.approx(mean, rel=1e-5)
    assert stage_identity(kept, 2) == stage_identity(resolve(recipe), 2)  # known before the weights are

    own, total = (
        {k: Ledger.from_json(m["ledger"][which]).flops for k, m in meta.items()} for which in ("stage", "total")
    )
    uses = ("reference",) if rule is DOREMI else ()
    assert total["final"] == own["final"] + own["proxy"] + sum(own[name] for name in uses)
    plain = flops_per_token(recipe.stages[1].model, 32)
    extra = plain // 3 if rule is DOREMI else plain + 2 * (plain // 3)
    assert own["proxy"] == 4 * 4 * 32 * (plain + extra)


def stop_in_proxy(patch: pytest.MonkeyPatch) -> None:
    """SIGTERM in the proxy's third step; the reference has been trained by then."""
    from pathways_lite.training import run as runs

    original = runs.train_stage

    def train_stage(setup, around):  # type: ignore[no-untyped-def]
        if setup.stage.name == "proxy":
            stop_after(patch, 3)
        original(setup, around)

    patch.setattr(runs, "train_stage", train_stage)


def meta_of(path: Path, stage: str) -> dict:
    return read_manifest(Checkpoints(path / stage / "checkpoints").path(4)).meta


def test_the_plan_says_that_the_weights_are_not_known_yet(recipe: Recipe) -> None:
    told = describe(chain(recipe, DOREMI)).splitlines()
    assert "how often each domain is read, stage 'proxy' has yet to learn" in told[2]


def test_identities_follow_what_a_stage_uses_and_not_its_name(recipe: Recipe) -> None:
    ours = resolve(chain(recipe, DOREMI))
    renamed = apply_overrides(chain(recipe, DOREMI), ["stages.reference.name=first"])
    proxy = DoReMi(reference=Reference(stage="first"))
    stages = (renamed.stages[0], renamed.stages[1].model_copy(update={"domain_weights": proxy}), renamed.stages[2])
    theirs = resolve(renamed.model_copy(update={"stages": stages}))
    assert [stage_identity(ours, index) for index in range(3)] == [stage_identity(theirs, index) for index in range(3)]
    other = resolve(chain(recipe, DOREMI.model_copy(update={"step": 2.0})))
    assert stage_identity(other, 0) == stage_identity(ours, 0)
    assert stage_identity(other, 2) != stage_identity(ours, 2)


def test_what_is_not_there_is_said(recipe: Recipe) -> None:
    with pytest.raises(UserError, match="stage 'proxy' uses stage 'refrence'; before it there are reference"):
        resolve(chain(recipe, DoReMi(reference=Reference(stage="refrence"))))
    nothing = chain(recipe, DOREMI)
    stages = (nothing.stages[0], nothing.stages[1].model_copy(update={"domain_weights": None}), nothing.stages[2])
    with pytest.raises(UserError, match="learns no weights; give that stage domain_weights"):
        resolve(nothing.model_copy(update={"stages": stages}))
    with pytest.raises(UserError, match="name either an earlier stage of the recipe"):
        apply_overrides(chain(recipe, DOREMI), ["stages.proxy.domain_weights.reference.path=runs/a"])
