"""What every operator claims of the function holds, for any sizes; and what each makes of the blocks."""

import functools
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from helpers.small_models import FAMILIES, GEMMA, LLAMA, OLMO, PALM, TOKENS, T, logits, random_params
from pathways_kernels.attention.spans import causal
from pathways_lite import models
from pathways_lite.errors import UserError
from pathways_lite.ledger import Timeline
from pathways_lite.methods.growth import PLANNERS, build_masks, grow, is_function_preserving, plan_operator
from pathways_lite.recipe import (
    BlockOrder,
    Compose,
    DropAndStack,
    Interpolate,
    LiGO,
    MaskedGrowth,
    Model,
    Net2Net,
    Operator,
    Ramp,
    Stack,
    Steps,
    ZeroInit,
)
from pathways_lite.recipe.base import variants_of

KEY = jax.random.key(3)


def at_first(operator: Operator, params: Any, source: Model, target: Model) -> Any:
    """The grown parameters as the model sees them before the first step: under their masks."""
    grown = grow(operator, params, source, target, KEY)
    if not isinstance(operator, MaskedGrowth):
        return grown
    timeline = Timeline(Ramp(steps=((0, 1),)), T, 1, 1, Steps(n=30))
    return build_masks(plan_operator(operator, source, target), Steps(n=10), timeline)(grown, timeline.clock(0))


def change(operator: Operator, source: Model, target: Model) -> float:
    """How far the grown model's logits are from the source's, relative to their spread."""
    params = random_params(source)
    before, after = logits(source, params), logits(target, at_first(operator, params, source, target))
    return float(np.abs(after - before).max() / before.std())


ONE_WIDTH = st.just({"d_model": 12, "d_ff": 18, "heads": (2, 1)})  # what is compiled for it once will do for all
WIDTHS = st.fixed_dictionaries(
    {
        "d_model": st.sampled_from([8, 12, 16]),
        "d_ff": st.sampled_from([12, 18, 24]),
        "heads": st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 2), (3, 2)]),  # times heads, times key/value heads
    }
)


@st.composite
def growths(draw: st.DrawFn, widths: st.SearchStrategy[dict]) -> tuple[Operator, Model, Model]:
    """An operator, a model, and a larger one that the operator can make of it."""
    fields = dict(draw(st.sampled_from(list(FAMILIES.values()))))
    if fields in (PALM, LLAMA):
        fields["norm"] = draw(st.sampled_from(["rms", "layer"]))
    fields["tie_embeddings"] = draw(st.booleans())
    fields["logit_scale"] = draw(st.sampled_from([None, 0.3]))
    source = Model(**fields)
    depth = draw(st.sampled_from([Stack(), Interpolate(), DropAndStack(), BlockOrder(order="12*2"), ZeroInit()]))
    direct = Net2Net(split=draw(st.sampled_from(["even", "uneven"])))
    operator = draw(
        st.sampled_from(
            [depth, direct, ZeroInit(order="interpolate"), MaskedGrowth(), LiGO(), Compose(depth=depth, width=direct)]
        )
    )
    larger = {}
    if operator.kind not in ("direct",):
        larger["n_layers"] = draw(st.sampled_from([2, 4]))
    if isinstance(operator, BlockOrder) or (isinstance(operator, Compose) and isinstance(depth, BlockOrder)):
        larger["n_layers"] = 4
    if operator.kind in ("direct", "zero", "random", "learned", "compose"):
        width = dict(draw(widths))
        if source.embedding_scale is not None and width["d_model"] != source.d_model:
            width["embedding_scale"] = draw(st.sampled_from([source.embedding_scale, 4.0]))
        times, kv_times = width.pop("heads")
        fits = times >= kv_times or operator.kind in ("direct", "compose")
        if source.qk_norm_over is not None:
            times = kv_times = 1
        heads = source.n_heads * (times if fits else kv_times)
        kv_heads = source.n_kv_heads * kv_times
        larger |= width | ({"n_heads": heads, "n_kv_heads": kv_heads} if heads % kv_heads == 0 else {})
    return operator, source, Model(**(fields | larger))


def holds(case: tuple[Operator, Model, Model]) -> None:
    operator, source, target = case
    if is_function_preserving(plan_operator(operator, source, target)):
        assert change(operator, source, target) < 1e-5
    else:
        assert change(operator, source, target) > 1e-3


@given(growths(ONE_WIDTH))
@settings(max_examples=8, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_operators_preserve_the_function_where_they_say_so_and_only_there(case: tuple) -> None:
    holds(case)


@pytest.mark.slow
@given(growths(WIDTHS))
@settings(max_examples=150, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_so_they_do_in_many_shapes(case: tuple) -> None:
    holds(case)


def test_the_model_itself_agrees() -> None:
    """The decoder in NumPy, which the property is tested with, is the decoder."""
    for fields in (PALM, LLAMA | {"window": (2, None), "norm": "layer"}, GEMMA):
        model = Model(**fields)
        params = random_params(model)
        found = jax.jit(functools.partial(compiled_logits, model))(params)
        np.testing.assert_allclose(found, logits(model, params), rtol=2e-4, atol=2e-5)


def test_an_embedding_scale_follows_the_width_that_is_grown_with_depth() -> None:
    source = Model(**GEMMA)
    wider = {"d_model": 2 * source.d_model, "n_heads": 2 * source.n_heads, "d_ff": 2 * source.d_ff}
    target = source.model_copy(update=wider | {"n_layers": 2 * source.n_layers, "embedding_scale": 4.0})
    plan = plan_operator(Compose(), source, target)
    assert {"embed", "heads", "mlp"} <= set(plan.width)


def compiled_logits(model: Model, params: Any) -> jax.Array:
    hidden = models.apply(model, params, TOKENS[None], np.arange(T)[None], causal(1, T))
    return models.logits(model, params, hidden)[0]


@pytest.mark.parametrize(
    ("fields", "larger", "reason"),
    [
        (
            OLMO,
            {"n_heads": 8, "n_kv_heads": 4},
            "new heads change the mean square of the old ones; use 4 and 2",
        ),
        (OLMO | {"norm": "layer"}, {"d_model": 16}, "norm='layer' and norm_position='post'; use d_model=8 in both"),
        (GEMMA, {"rope_scaling": None}, "rope_scaling goes from .* growth cannot do"),
        (PALM, {"activation": "geglu"}, "activation goes from None to 'geglu', which growth cannot do"),
    ],
)
def test_what_norms_or_trained_parts_do_not_allow_is_refused(fields: dict, larger: dict, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        plan_operator(ZeroInit(), Model(**fields), Model(**(fields | larger)))


@pytest.mark.parametrize("operator", [ZeroInit(), ZeroInit(order="interpolate"), MaskedGrowth()])
def test_a_window_that_moves_to_another_block_is_no_preserved_function(operator: Operator) -> None:
    source = Model(**(PALM | {"window": (2, None)}))
    plan = plan_operator(operator, source, Model(**(PALM | {"window": (2, None), "n_layers": 4})))
    assert is_function_preserving(plan) == (operator == ZeroInit() or operator == MaskedGrowth())


@pytest.mark.slow
def test_new_units_of_zero_growth_have_gradients() -> None:
    """Each of them, in every array, once the first step is taken: none is dead."""
    source, target = Model(**PALM), Model(**(PALM | {"d_ff": 18, "n_heads": 4}))
    grown = grow(ZeroInit(), random_params(source), source, target, KEY)

    def loss(params: Any) -> jax.Array:
        return jax.nn.log_softmax(compiled_logits(target, params))[:, 3].sum()

    slope = jax.jit(jax.grad(loss))
    moved = jax.tree.map(lambda p, g: p + 0.1 * g, grown, slope(grown))
    layers = slope(moved)["layers"]
    assert (np.abs(layers["mlp"]["gate"][..., 12:]).min(), np.abs(layers["mlp"]["up"][..., 12:]).min()) > (0, 0)
    assert np.abs(layers["mlp"]["down"][:, 12:]).min() > 0
    assert np.abs(layers["attention"]["out"][:, 2:]).min() > 0
    assert np.abs(layers["attention"]["q"][:, :, 2:]).max() > 0


@pytest.mark.parametrize("split", ["even", "uneven"])
def test_shares_of_copies_add_up_and_part_the_copies_where_they_are_uneven(split: str) -> None:
    source, target = Model(**PALM), Model(**(PALM | {"d_ff": 30}))
    params = random_params(source)
    down = np.asarray(grow(Net2Net(split=split), params, source, target, KEY)["layers"]["mlp"]["down"])
    shares = (down / np.take(params["layers"]["mlp"]["down"], np.arange(30) % 12, axis=1))[:, :, 0]
    assert np.allclose([shares[:, unit::12].sum(1) for unit in range(12)], 1, rtol=1e-5)
    assert np.allclose(shares[:, 0], shares[:, 12]) == (split == "even")
    assert not np.allclose(shares[0], shares[1]) or split == "even"  # every block has its own


def blocks(operator: Operator, layers: int, more: int) -> tuple[int, ...]:
    source = Model(**(PALM | {"n_layers": layers}))
    return plan_operator(operator, source, source.model_copy(update={"n_layers": more})).depth.blocks


def test_the_order_of_blocks() -> None:
    assert blocks(Stack(), 3, 6) == (0, 1, 2, 0, 1, 2)
    assert blocks(Interpolate(), 3, 6) == (0, 0, 1, 1, 2, 2)
    assert blocks(BlockOrder(order="12-3*2"), 3, 4) == (0, 1, 2, 2)
    assert blocks(ZeroInit(), 3, 5) == (0, 1, 2, 0, 1)
    assert blocks(MaskedGrowth(order="interpolate"), 3, 5) == (0, 0, 1, 1, 2)
    # SOLAR 10.7B: 32 layers without the last and the first 8 of each copy.
    assert blocks(DropAndStack(), 32, 48) == (*range(24), *range(8, 32))


def test_stacking_copies_and_rescales_nothing() -> None:
    source, target = Model(**PALM), Model(**(PALM | {"n_layers": 4}))
    params = random_params(source)
    grown = grow(Stack(), params, source, target, KEY)
    expected = params | {"layers": jax.tree.map(lambda x: np.concatenate([x, x]), params["layers"])}
    assert jax.tree.all(jax.tree.map(np.array_equal, grown, expected))


def test_noise_falls_on_copies_alone() -> None:
    source, target = Model(**PALM), Model(**(PALM | {"n_layers": 4}))
    params = random_params(source)
    grown = grow(Stack(), params, source, target, KEY, noise=0.2)
    q, before = np.asarray(grown["layers"]["attention"]["q"]), params["layers"]["attention"]["q"]
    assert np.array_equal(q[:2], before)
    noise = (q[2:] - 0.8 * before) / 0.2
    assert noise.std() == pytest.approx((2 / (5 * 8)) ** 0.5, rel=0.3)
    assert np.array_equal(grown["layers"]["norm"]["scale"][2:], params["layers"]["norm"]["scale"])
    with pytest.raises(UserError, match="makes none"):
        grow(ZeroInit(), params, source, target, KEY, noise=0.2)


REFUSED = [
    (Stack(), {"n_layers": 5}, r"from 2 to 5.*n_layers=4 or 6"),
    (Stack(), {"n_layers": 4, "d_model": 16}, "d_model goes from 8 to 16.*Compose"),
    (Stack(), {"n_layers": 1}, "nothing smaller"),
    (Net2Net(), {"n_layers": 4}, "n_layers goes from 2 to 4"),
    (Net2Net(), {"n_heads": 9, "n_kv_heads": 3}, "4 query heads .* some have only 3 places"),
    (ZeroInit(), {"n_heads": 8, "n_kv_heads": 4}, "n_heads=16 or more"),
    (BlockOrder(order="12*2"), {"n_layers": 6}, "lists 4 blocks"),
    (BlockOrder(order="123"), {"n_layers": 3}, "block 3 of a model of 2"),
    (DropAndStack(), {"n_layers": 3}, "even n_layers up to 4"),
    (ZeroInit(), {"rope_base": 5e5}, "rope_base"),
]


@pytest.mark.parametrize(("operator", "larger", "sentence"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_does_not_fit_is_refused_with_the_numbers(operator: Operator, larger: dict, sentence: str) -> None:
    source = PALM | ({"n_heads": 8, "n_kv_heads": 2} if larger.get("n_kv_heads") else {})
    with pytest.raises(UserError, match=sentence):
        plan_operator(operator, Model(**source), Model(**(source | larger)))


def test_every_kind_of_the_recipe_is_registered() -> None:
    assert variants_of(Operator, built_in=True).keys() == set(PLANNERS)
