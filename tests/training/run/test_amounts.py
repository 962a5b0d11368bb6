"""Rates and budgets that refer to other stages, and changes for all stages."""

import pytest

from helpers.run_helpers import constant
from pathways_lite.errors import UserError
from pathways_lite.recipe import (
    AdamW,
    Continue,
    Recipe,
    apply_overrides,
)
from pathways_lite.training.resolve import resolve_recipe
from pathways_lite.training.resolve_amounts import resolve_budgets
from pathways_lite.training.stage import StageSpec

# ---- a rate that is the parent's ----


def test_a_relative_rate_is_the_parents_last(recipe: Recipe) -> None:
    base = (
        constant(recipe)
        .stages[0]
        .model_copy(update={"optimizer": AdamW(learning_rate=1e-2, schedule={"kind": "cosine", "end": 0.1})})
    )
    tail = AdamW(relative_learning_rate=0.5, schedule={"kind": "linear"})
    more = base.model_copy(update={"name": "more", "start": Continue(), "optimizer": tail})
    chain = recipe.model_copy(update={"stages": (base, more)})
    resolved = resolve_recipe(chain)
    assert resolved.stages[1].optimizer.learning_rate == pytest.approx(0.5 * 1e-3)
    assert resolve_recipe(resolved) == resolved
    clash = apply_overrides(chain, ["stages.more.optimizer.learning_rate=3e-4"])
    with pytest.raises(UserError, match=r"makes learning_rate 0.0005, but it is given as 0.0003; leave one"):
        resolve_recipe(clash)
    for change, message in (
        ("stages.more.start=scratch", "nothing that it starts from has a learning rate"),
        ("stages.base.optimizer=muon", "with muon, whose rates are others"),
        ("stages.base.optimizer.schedule=linear", "left at a learning rate of 0"),
        ('stages.base.early_stopping={"patience": 1}', "may stop early, so its last rate is not known"),
    ):
        with pytest.raises(UserError, match=message):
            resolve_recipe(apply_overrides(chain, [change]))


# ---- budgets ----


def test_budgets_in_epochs_and_of_other_stages(recipe: Recipe) -> None:
    base = recipe.stages[0].model_copy(update={"batch_size": 4})
    tail = base.model_copy(update={"name": "tail", "start": Continue(), "budget": "25 % of base"})
    chain = recipe.model_copy(update={"stages": (base, tail)})
    assert resolve_budgets(chain).stages[1].budget.n == 3
    one = resolve_recipe(apply_overrides(chain, ["stages.base.budget=1 epochs"]))
    assert list(StageSpec(one, 0).epochs.values()) == [pytest.approx(1.0, abs=0.01)] * 2
    assert one.stages[1].budget.n == -(-one.stages[0].budget.n // 4)
    rounds = resolve_recipe(
        apply_overrides(chain, ["stages.base.budget=2 epochs", "stages.base.data.rs2_fraction=0.5"])
    )
    assert rounds.stages[0].budget.n == pytest.approx(one.stages[0].budget.n, abs=64)
    for text, message in (
        ("10 % of nothing", "is of a stage that is not there; name another stage"),
        ("10 % of tail", "depends on itself"),
    ):
        with pytest.raises(UserError, match=message):
            resolve_budgets(apply_overrides(chain, [f"stages.base.budget={text}"]))
    last = tail.model_copy(update={"name": "last", "budget": "4 steps"})
    three = chain.model_copy(update={"stages": (*chain.stages, last)})
    with pytest.raises(UserError, match=r"depends on itself \(base of tail of base\); name another stage \(last\), or"):
        resolve_budgets(apply_overrides(three, ["stages.base.budget=10 % of tail"]))
    with pytest.raises(UserError, match=r"base\.budget=2 epochs counts its sequences; .*or give the budget in tokens"):
        resolve_budgets(apply_overrides(chain, ["stages.base.budget=2 epochs", "stages.base.data.corpus=nowhere"]))


# ---- other places, for all stages ----


def test_all_stages_are_named_by_a_star(recipe: Recipe) -> None:
    base = recipe.stages[0]
    chain = recipe.model_copy(update={"stages": (base, base.model_copy(update={"name": "more", "start": Continue()}))})
    moved = apply_overrides(chain, ["stages.*.data.corpus=elsewhere", "stages.m*.batch_size=2"])
    assert [stage.data.corpus for stage in moved.stages] == ["elsewhere", "elsewhere"]
    assert [stage.batch_size for stage in moved.stages] == [base.batch_size, 2]
    with pytest.raises(UserError, match=r"stages\.\*\.microbatch=7 does not divide"):
        apply_overrides(chain, ["stages.*.microbatch=7"])
    with pytest.raises(UserError, match="there is no 'x\\*'"):
        apply_overrides(chain, ["stages.x*.batch_size=2"])
