"""One recipe that trains a reference, a proxy that learns weights of domains, and a model that reads by them."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.run_helpers import StopAfter, describe, digest, log_bytes, run
from pathways_lite.checkpoints import CheckpointManager, read_manifest
from pathways_lite.errors import UserError
from pathways_lite.ledger import Ledger
from pathways_lite.models.accounting import flops_per_token
from pathways_lite.recipe import (
    Continue,
    DataMixture,
    DoGE,
    DoReMi,
    Evaluation,
    LearnedWeights,
    MixturePhase,
    Recipe,
    Reference,
    Restore,
    Reweighting,
    Scratch,
    Steps,
    TopLosses,
    apply_overrides,
    stage_identity,
)
from pathways_lite.run_directory import RunDirectory
from pathways_lite.tracking.log import read_log
from pathways_lite.training.resolve import reference_cost, resolve_recipe

BY_PROXY = DataMixture(phases=(MixturePhase(weights=LearnedWeights(stage="proxy")),))


def chain(recipe: Recipe, rule: DoReMi | DoGE) -> Recipe:
    quick = {"start": Scratch(), "batch_size": 4, "budget": Steps(n=4), "evaluation": Evaluation(tokens=50)}
    base = recipe.stages[0].model_copy(update=quick)
    reference = base.model_copy(update={"name": "reference"})
    proxy = base.model_copy(update={"name": "proxy", "domain_weights": rule})
    data = base.data.model_copy(update={"mixture": BY_PROXY})
    final = base.model_copy(update={"name": "final", "data": data})
    return recipe.model_copy(update={"stages": (reference, proxy, final)})


DOREMI = DoReMi(reference=Reference(stage="reference"))


@pytest.mark.slow
@pytest.mark.parametrize("rule", [DOREMI, DoGE(mu=0.001)], ids=["doremi", "doge"])
def test_a_chain_resumes_exactly_reads_what_was_learned_and_pays_for_everything(
    recipe: Recipe, rule: DoReMi | DoGE, tmp_path: Path
) -> None:
    recipe = chain(recipe, rule)
    assert run(recipe, tmp_path / "whole") == 0
    assert run(recipe, tmp_path / "stopped", StopAfter(3, stage="proxy")) != 0
    assert run(recipe, tmp_path / "stopped") == 0
    for stage in ("proxy", "final"):
        assert digest(tmp_path / "stopped", stage, 4) == digest(tmp_path / "whole", stage, 4)
        assert log_bytes(tmp_path / "stopped", stage) == log_bytes(tmp_path / "whole", stage)

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
    (learned,) = mixture.learned_weights
    assert dict(learned.weights or ()) == pytest.approx(mean, rel=1e-5)
    assert stage_identity(kept, 2) == stage_identity(resolve_recipe(recipe), 2)  # known before the weights are

    own, total = (
        {k: Ledger.from_json(m["ledger"][which]).flops for k, m in meta.items()} for which in ("stage", "total")
    )
    uses = ("reference",) if rule is DOREMI else ()
    assert total["final"] == own["final"] + own["proxy"] + sum(own[name] for name in uses)
    plain = flops_per_token(recipe.stages[1].model, 32)
    extra = plain // 3 if rule is DOREMI else plain + 2 * (plain // 3)
    assert own["proxy"] == 4 * 4 * 32 * (plain + extra)


def meta_of(path: Path, stage: str) -> dict:
    return read_manifest(CheckpointManager(path / stage / "checkpoints").path(4)).meta


def test_the_plan_says_that_the_weights_are_not_known_yet(recipe: Recipe) -> None:
    told = describe(chain(recipe, DOREMI)).splitlines()
    final = next(line for line in told if line.startswith("final: "))
    assert "stage 'proxy' learns how often each domain is read" in final


def test_identities_follow_what_a_stage_uses_and_not_its_name(recipe: Recipe) -> None:
    ours = resolve_recipe(chain(recipe, DOREMI))
    renamed = apply_overrides(chain(recipe, DOREMI), ["stages.reference.name=first"])
    proxy = DoReMi(reference=Reference(stage="first"))
    stages = (renamed.stages[0], renamed.stages[1].model_copy(update={"domain_weights": proxy}), renamed.stages[2])
    theirs = resolve_recipe(renamed.model_copy(update={"stages": stages}))
    assert [stage_identity(ours, index) for index in range(3)] == [stage_identity(theirs, index) for index in range(3)]
    other = resolve_recipe(chain(recipe, DOREMI.model_copy(update={"step": 2.0})))
    assert stage_identity(other, 0) == stage_identity(ours, 0)
    assert stage_identity(other, 2) != stage_identity(ours, 2)


def test_what_is_not_there_is_said(recipe: Recipe) -> None:
    with pytest.raises(UserError, match=r"stage 'proxy' uses stage 'refrence', .* Did you mean 'reference'"):
        resolve_recipe(chain(recipe, DoReMi(reference=Reference(stage="refrence"))))
    nothing = chain(recipe, DOREMI)
    stages = (nothing.stages[0], nothing.stages[1].model_copy(update={"domain_weights": None}), nothing.stages[2])
    with pytest.raises(UserError, match="learns no weights; give that stage domain_weights"):
        resolve_recipe(nothing.model_copy(update={"stages": stages}))
    with pytest.raises(UserError, match="name either an earlier stage of the recipe"):
        apply_overrides(chain(recipe, DOREMI), ["stages.proxy.domain_weights.reference.path=runs/a"])
    with pytest.raises(UserError, match="learns domain weights or weights samples, not both"):
        apply_overrides(chain(recipe, DOREMI), ['stages.proxy.reweighting={"rule": {"kind": "lin_upper"}}'])
    with pytest.raises(
        UserError, match="target='tails' is not a domain that the stage reads; the corpus has: poems, tales"
    ):
        resolve_recipe(chain(recipe, DoGE(target="tails")))
    one_domain = {"phases": [{"weights": {"kind": "given", "weights": {"poems": 1}}}]}
    with pytest.raises(UserError, match=r"stages.proxy.domain_weights needs two or more domains"):
        resolve_recipe(apply_overrides(chain(recipe, DoGE()), [f"stages.proxy.data.mixture={json.dumps(one_domain)}"]))


def test_every_stage_that_led_to_one_is_counted_once(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ledgers of stages hold those of what led to them: of a start, of what they use, of both, and of both of two."""

    def ledgers(costs: dict[str, int]) -> None:
        def load(path: Path, *, examined: bool) -> SimpleNamespace:
            name = Path(path).name if Path(path).name in costs else Path(path).parent.name
            cost = Ledger(flops=costs[name], tokens=1000)
            return SimpleNamespace(cost=cost, manifest=SimpleNamespace(digest=str(path)))

        monkeypatch.setattr("pathways_lite.training.resolve.load_model", load)
        monkeypatch.setattr("pathways_lite.training.resolve.load_final", lambda path, stage: load(path, examined=False))

    def cost(recipe: Recipe, index: int) -> int:
        found = reference_cost(recipe, index, RunDirectory(tmp_path))
        assert found.tokens == 0  # of the model that is trained: it has not seen these
        return found.flops

    apart = chain(recipe, DOREMI)
    reference, proxy, final = apart.stages
    ledgers({"reference": 1, "proxy": 11})
    assert cost(apart, 2) == 11
    # A final model that goes on from the proxy already has the proxy's cost, and the reference's in it.
    together = apart.model_copy(update={"stages": (reference, proxy, final.model_copy(update={"start": Continue()}))})
    assert cost(together, 2) == 0
    # Both things that the last stage uses come from the reference: the proxy measures by it, the judge goes on from it.
    judge = reference.model_copy(update={"name": "judge", "start": Continue()})
    judged = {"reweighting": Reweighting(rule=TopLosses(), reference=Reference(stage="judge"))}
    stages = (reference, judge, proxy, final.model_copy(update=judged))
    ledgers({"reference": 1, "judge": 101, "proxy": 11})
    assert cost(apart.model_copy(update={"stages": stages}), 3) == 111
    # The same of a checkpoint of another run, however often it is used.
    ledgers({"other": 1000})
    weights = LearnedWeights(path="runs/other")
    mixture = DataMixture(phases=(MixturePhase(weights=weights), MixturePhase(start=Steps(n=2), weights=weights)))
    judged = {"reweighting": Reweighting(rule=TopLosses(), reference=Reference(path="runs/other"))}
    judged["data"] = final.data.model_copy(update={"mixture": mixture})
    alone = final.model_copy(update=judged)
    assert cost(apart.model_copy(update={"stages": (alone,)}), 0) == 1000
    restored = alone.model_copy(update={"start": Restore(path="runs/other", digest="runs/other")})
    assert cost(apart.model_copy(update={"stages": (restored,)}), 0) == 0
