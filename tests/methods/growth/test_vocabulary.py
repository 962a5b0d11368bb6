"""Growth of the vocabulary: old rows, hidden states and logits stay; what new ids get is bounded."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.small_models import FAMILIES, GEMMA, LLAMA, PALM, TOKENS, V, logits, random_params
from pathways_lite import models
from pathways_lite.errors import UserError
from pathways_lite.ledger import Timeline
from pathways_lite.methods import growth
from pathways_lite.recipe import (
    SGD,
    Adafactor,
    AdamW,
    Constant,
    Grow,
    Lion,
    Model,
    Muon,
    Net2Net,
    Optimizer,
    Ramp,
    Stack,
    Steps,
    VocabularyGrowth,
    ZeroInit,
)
from pathways_lite.training.init_growth import grow_optimizer_state
from pathways_lite.training.optimizers import build_optimizer

KEY = jax.random.key(3)
NEW = 5


def pair(fields: dict, new: int = NEW, **changes: Any) -> tuple[Model, Model]:
    source = Model.model_validate(fields | changes)
    return source, source.model_copy(update={"vocab_size": V + new})


def grow(source: Model, target: Model, params: Any, init: str = "mean") -> Any:
    return growth.grow(VocabularyGrowth(init=init), params, source, target, KEY)  # type: ignore[arg-type]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_old_logits_stay_and_old_arrays_are_copies(family: str, tied: bool) -> None:
    source, target = pair(FAMILIES[family], tie_embeddings=tied)
    params = random_params(source)
    for init in ("mean", "zero", "random"):
        grown = grow(source, target, params, init)
        for name in ("embedding", "head"):
            if name in params:
                np.testing.assert_array_equal(grown[name][:V], params[name])
        rest = {name: value for name, value in grown.items() if name not in ("embedding", "head")}
        jax.tree.map(np.testing.assert_array_equal, rest, {name: params[name] for name in rest})
        before, after = logits(source, params), logits(target, grown)
        assert after.shape[1] == V + NEW
        np.testing.assert_allclose(after[:, :V], before, rtol=1e-6, atol=1e-6 * np.abs(before).max())


@given(new=st.sampled_from([1, 5, 40]), tied=st.booleans(), seed=st.integers(0, 99), scale=st.floats(0.1, 30))
@settings(max_examples=20)
def test_new_ids_get_no_more_than_their_share_of_the_probability(new: int, tied: bool, seed: int, scale: float) -> None:
    """Jensen's inequality: the exponential of a mean logit is at most the mean of the exponentials."""
    source, target = pair(PALM, new, tie_embeddings=tied, logit_scale=scale)
    params = random_params(source, seed)
    before, after = (
        np.asarray(jax.nn.softmax(jnp.asarray(logits(model, p), jnp.float32)))
        for model, p in ((source, params), (target, grow(source, target, params)))
    )
    share = growth.new_ids_share(growth.plan_operator(VocabularyGrowth(), source, target))
    assert share == pytest.approx(new / (V + new))
    assert (after[:, V:].sum(axis=1) <= share * (1 + 1e-4)).all()
    assert (after[:, :V] >= before * (1 - share) * (1 - 1e-4) - 1e-12).all()
    loss, grown_loss = (-np.log(p[np.arange(len(TOKENS)), TOKENS]) for p in (before, after))
    assert (grown_loss - loss <= np.log1p(new / V) + 1e-3).all()


def test_nothing_bounds_other_rows_or_capped_logits() -> None:
    plans = [growth.plan_operator(VocabularyGrowth(init=i), *pair(PALM)) for i in ("mean", "zero", "random")]  # type: ignore[arg-type]
    assert [growth.new_ids_share(plan) for plan in plans] == [NEW / (V + NEW), None, None]
    assert growth.new_ids_share(growth.plan_operator(VocabularyGrowth(), *pair(GEMMA))) is None
    assert not any(growth.is_function_preserving(plan) for plan in plans)
    lines = growth.describe_width(plans[0])
    assert lines == [
        "vocab_size 11 → 16: 11 1 times; 5 new",
        "the logits of old ids stay; the new ones together get at most 0.31 of the probability",
    ]


def test_new_rows_are_what_the_operator_says() -> None:
    source, target = pair(PALM, tie_embeddings=False, init="normal")
    params = random_params(source)
    for name in ("embedding", "head"):
        mean, zero, random = (grow(source, target, params, init)[name][V:] for init in ("mean", "zero", "random"))
        np.testing.assert_allclose(mean, np.broadcast_to(params[name].mean(axis=0), mean.shape), rtol=1e-6, atol=1e-7)
        assert not zero.any()
        assert 0.01 < random.std() < 0.04
        assert len(np.unique(random)) == random.size


OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": SGD(momentum=0.9, schedule=Constant(), clip_norm=None),
    "lion": Lion(schedule=Constant(), clip_norm=None),
    "adamw": AdamW(schedule=Constant(), clip_norm=None),
    "muon": Muon(schedule=Constant(), clip_norm=None),
    "adafactor": Adafactor(),
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_moments_of_old_rows_are_copies_and_those_of_new_ones_zero(name: str, tied: bool) -> None:
    timeline = Timeline(Ramp(steps=((0, 1),)), 6, 1, 1, Steps(n=30))
    source, target = pair(PALM, tie_embeddings=tied)
    params = random_params(source)
    plan = growth.plan_operator(VocabularyGrowth(), source, target)

    def state(model: Model, of: Any) -> Any:
        optimizer = build_optimizer(OPTIMIZERS[name], timeline, models.logical_axes(model))
        return optimizer.init(jax.tree.map(jnp.asarray, of))

    old = jax.tree.map(
        lambda x: 1 + np.arange(x.size, dtype=x.dtype).reshape(x.shape) if x.ndim else x, state(source, params)
    )
    fresh = state(target, grow(source, target, params))
    start = Grow(operator=VocabularyGrowth(), optimizer="grow")
    grown = grow_optimizer_state(start, plan, fresh, old, KEY, growth.unplaced)
    sizes = set()
    for a, b, c in zip(*map(jax.tree.leaves, (grown, old, fresh)), strict=True):
        assert a.shape == c.shape
        if a.shape == b.shape:
            np.testing.assert_array_equal(a, b)
            continue
        sizes.add((a.shape[0], b.shape[0]))
        np.testing.assert_array_equal(a[:V], b)
        assert not np.any(a[V:])
    assert sizes == {(V + NEW, V)}


@pytest.mark.parametrize(
    ("operator", "larger", "sentence"),
    [
        (Stack(), {"vocab_size": 16}, r"'stack' does not grow the vocabulary, but vocab_size goes from 11 to 16"),
        (Net2Net(), {"vocab_size": 16, "d_ff": 24}, r"vocab_size=11 in both, or a stage .*=VocabularyGrowth\(\)"),
        (ZeroInit(), {"vocab_size": 16}, "does not grow the vocabulary"),
        (
            VocabularyGrowth(),
            {"vocab_size": 16, "n_layers": 4},
            "grows vocab_size alone, but n_layers goes from 2 to 4",
        ),
        (VocabularyGrowth(), {"vocab_size": 10}, "vocab_size goes from 11 to 10, but growth makes nothing smaller"),
        (VocabularyGrowth(), {"vocab_size": 16, "tie_embeddings": False}, "tie_embeddings goes from True to False"),
    ],
)
def test_what_does_not_grow_so_is_refused(operator: Any, larger: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        growth.plan_operator(operator, Model.model_validate(PALM), Model.model_validate(PALM | larger))


def test_noise_has_nothing_to_apply_to() -> None:
    with pytest.raises(UserError, match="noise"):
        growth.plan_growth(Grow(operator=VocabularyGrowth(), noise=0.1), *pair(LLAMA))
