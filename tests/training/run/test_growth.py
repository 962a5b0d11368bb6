"""A stage that starts by growing the one before."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from helpers.run_helpers import digest, run
from pathways_lite.checkpoints import restore
from pathways_lite.errors import UserError
from pathways_lite.ledger import Ledger
from pathways_lite.methods import growth
from pathways_lite.methods.growth import map_flops
from pathways_lite.recipe import (
    Adafactor,
    Grow,
    LiGO,
    MaskedGrowth,
    Model,
    Operator,
    PaLM,
    Recipe,
    Stack,
    Steps,
    ZeroInit,
)
from pathways_lite.run_directory import RunDirectory
from pathways_lite.training.components import Components
from pathways_lite.training.initialize import CheckpointState, initialize_stage
from pathways_lite.training.load import load_model
from pathways_lite.training.resolve import resolve_recipe
from pathways_lite.training.stage import StageSpec


def growing(recipe: Recipe, start: Grow, **model: Any) -> Recipe:
    """`recipe` with a second stage, of a larger model."""
    base = recipe.stages[0]
    larger = Model.model_validate({**dict(base.model), "n_layers": 4, **model})
    more = base.model_copy(update={"name": "more", "start": start, "model": larger, "budget": Steps(n=6)})
    return recipe.model_copy(update={"stages": (base, more)})


@pytest.fixture
def begin(recipe: Recipe, uninterrupted: Path) -> Any:
    """The components and the first position of a stage grown from the trained run."""

    def begin(start: Grow, **model: Any) -> tuple[Components, CheckpointState]:
        components = Components(StageSpec(resolve_recipe(growing(recipe, start, **model)), 1))
        return components, initialize_stage(components, RunDirectory(uninterrupted), lambda: 0)

    return begin


def base_of(uninterrupted: Path) -> Any:
    return load_model(uninterrupted)


def test_a_stacked_stage_trains_on_from_the_base(recipe: Recipe, uninterrupted: Path, tmp_path: Path) -> None:
    (tmp_path / "base").symlink_to(uninterrupted / "base", target_is_directory=True)
    assert run(growing(recipe, Grow(operator=Stack())), tmp_path) == 0
    found = load_model(tmp_path / "more")
    meta = found.manifest.meta
    assert meta["lineage"]["parent"] == digest(uninterrupted)
    assert meta["recipe"]["stages"][1]["start"]["operator"] == {"kind": "stack"}
    assert meta["cursor"]["first_sequence"] == 10 + 7 * 4  # what the base has seen: 5 steps of 2 and 7 of 4
    base, stage, total = (Ledger.from_json(found) for found in (
        base_of(uninterrupted).manifest.meta["ledger"]["stage"], meta["ledger"]["stage"], meta["ledger"]["total"]
    ))  # fmt: skip
    assert (total.flops, total.tokens) == (base.flops + stage.flops, base.tokens + stage.tokens)
    assert 0 < base.flops / base.tokens < stage.flops / stage.tokens


def test_the_first_state_is_the_grown_one(begin: Any, uninterrupted: Path) -> None:
    _, position = begin(Grow(operator=Stack()))
    small, large = base_of(uninterrupted).params(), position.state.params
    assert np.array_equal(large["layers"]["mlp"]["up"], np.concatenate([small["layers"]["mlp"]["up"]] * 2))
    assert np.array_equal(large["embedding"], small["embedding"])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(position.state.opt_state))
    assert position.step == 0


@pytest.mark.parametrize("optimizer", ["grow", "keep"])
def test_moments_grow_with_the_parameters_or_stay(begin: Any, uninterrupted: Path, optimizer: str) -> None:
    model = base_of(uninterrupted)
    old = restore(model.path, model.components.abstract_state.opt_state, "opt_state").arrays
    _, position = begin(Grow(optimizer=optimizer))
    before, after = (next(node for node in state if hasattr(node, "nu")) for state in (old, position.state.opt_state))
    assert int(after.count) == int(before.count) == 12
    assert np.array_equal(after.nu["embedding"], before.nu["embedding"])
    stacked = np.concatenate([before.nu["layers"]["mlp"]["up"]] * 2)
    assert np.array_equal(after.nu["layers"]["mlp"]["up"], stacked if optimizer == "grow" else np.zeros_like(stacked))


def loss(components: Components, params: Any) -> float:
    return components.evaluator.evaluate(params)["tales"].loss


def test_masks_begin_with_the_base_and_end_with_nothing(begin: Any, uninterrupted: Path) -> None:
    components, position = begin(Grow(operator=MaskedGrowth(ramp=Steps(n=2))), d_ff=80, n_heads=4)
    state = position.state
    base = base_of(uninterrupted)
    assert loss(components, components.evaluated_params((), state.params, 0)) == pytest.approx(
        loss(base.components, base.params())
    )
    assert loss(components, components.evaluated_params((), state.params, 1)) != pytest.approx(
        loss(base.components, base.params())
    )
    assert jax.tree.all(jax.tree.map(np.array_equal, components.evaluated_params((), state.params, 4), state.params))


def test_masks_that_do_not_end_are_refused(recipe: Recipe) -> None:
    with pytest.raises(UserError, match=r"stages.more.start=MaskedGrowth.*need 12 steps.*has 6"):
        resolve_recipe(growing(recipe, Grow(operator=MaskedGrowth(ramp=Steps(n=6))), d_ff=80, d_model=48))


@pytest.mark.slow
def test_learning_to_grow_is_paid_for_and_reads_on(begin: Any, uninterrupted: Path) -> None:
    start = Grow(operator=LiGO(steps=6, learning_rate=0.03))
    components, position = begin(start, d_model=48)
    _, untrained = begin(start.model_copy(update={"operator": LiGO(steps=0)}), d_model=48)
    base = Ledger.from_json(base_of(uninterrupted).manifest.meta["ledger"]["total"])
    read = components.timeline.sequences_before(6)
    assert position.cursor.first_sequence == 38 + read
    assert position.inherited.tokens == base.tokens + read * 32
    assert position.inherited.flops == base.flops + components.timeline.flops_before(6) + 6 * map_flops(
        components.spec.growth_plan
    )
    assert untrained.inherited.flops == base.flops
    assert loss(components, position.state.params) < loss(components, untrained.state.params)


def test_maps_that_cannot_be_learned_are_told(begin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original = growth.initial_maps
    poison = lambda *args: jax.tree.map(lambda x: x * jnp.nan, original(*args))  # noqa: E731
    monkeypatch.setattr(growth, "initial_maps", poison)
    with pytest.raises(
        UserError, match=r"maps cannot be learned \((no update was|not) finite.*operator\.learning_rate"
    ):
        begin(Grow(operator=LiGO(steps=3)), d_model=48)


def test_a_rate_at_which_nothing_is_learned_is_refused() -> None:
    with pytest.raises(ValidationError, match="learning_rate"):
        LiGO(learning_rate=1e30)


@pytest.mark.parametrize(
    ("operator", "model", "sentence"),
    [
        (Stack(), {"n_layers": 5}, r"stages.more.start=Stack: .*from 2 to 5"),
        (ZeroInit(), {"qk_norm": True}, "qk_norm goes from False to True"),
    ],
)
def test_misfits_are_refused_before_anything_runs(
    recipe: Recipe, operator: Operator, model: dict, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        resolve_recipe(growing(recipe, Grow(operator=operator), **model))


def test_moments_need_the_same_optimizer(recipe: Recipe) -> None:
    two = growing(recipe, Grow(optimizer="grow"))
    stage = two.stages[1].model_copy(update={"optimizer": Adafactor()})
    with pytest.raises(UserError, match="from adamw to adafactor"):
        resolve_recipe(two.model_copy(update={"stages": (two.stages[0], stage)}))


def test_adafactor_begins_gently_after_growth(recipe: Recipe) -> None:
    fields = dict(growing(recipe, Grow()).stages[1])
    with pytest.raises(ValidationError, match="warm-up"):
        type(recipe.stages[0]).model_validate(fields | {"optimizer": Adafactor()})
    gentle = Adafactor(schedule=PaLM(warmup=Steps(n=100)))
    type(recipe.stages[0]).model_validate(fields | {"optimizer": gentle})
    type(recipe.stages[0]).model_validate(fields | {"optimizer": Adafactor(), "start": Grow(optimizer="keep")})
