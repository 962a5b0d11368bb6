"""Weights of samples: the paper's numbers, what holds for any losses, documents in rows, the clock, what is logged."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathways_kernels.attention import Spans
from pathways_lite.batch import Batch
from pathways_lite.ledger import Timeline
from pathways_lite.methods.reweighting import EDGES, extra_flops, statistics, weigh, weights_by_clock
from pathways_lite.recipe import (
    Extremes,
    Focal,
    Fraction,
    LinUpper,
    Quadratic,
    Ramp,
    Reweighting,
    Steps,
    TopLosses,
    Uniform,
    Upper,
)

RULES = (LinUpper(), Upper(), Quadratic(), Extremes(), Focal(), TopLosses(fraction=0.5), Uniform())


def batch_of(loss_weights, starts=None):
    """Only what weights depend on."""
    loss_weights = np.asarray(loss_weights, np.float32)
    zeros = np.zeros(loss_weights.shape, np.int32)
    starts = zeros if starts is None else np.asarray(starts, np.int32)
    return Batch(zeros, zeros, loss_weights, zeros, Spans(starts, starts + 1), zeros[:, 0], zeros[:, :2])


def weights_of(rule, losses, batch=None, sample="row"):
    losses = np.asarray(losses, np.float32)
    losses = losses[:, None] if losses.ndim == 1 else losses
    batch = batch_of(np.ones(losses.shape)) if batch is None else batch
    weights = weigh(Reweighting(rule=rule, sample=sample), losses, batch, getattr(rule, "temperature", 1.0))
    return np.asarray(np.broadcast_to(weights, losses.shape) if sample != "row" else weights[:, 0])


GOLDEN = [  # of losses 1, 2, 3, 4, as shares of the batch
    (LinUpper, 1.0, [0.11927, 0.23231, 0.32421, 0.32421]),
    (LinUpper, 0.4, [0.03262, 0.17269, 0.39735, 0.39735]),
    (Quadratic, 1.0, [0.14567, 0.35433, 0.35433, 0.14567]),
    (Quadratic, 0.4, [0.04889, 0.45111, 0.45111, 0.04889]),
    (Extremes, 1.0, [0.33038, 0.16962, 0.16962, 0.33038]),
    (Extremes, 0.4, [0.42057, 0.07943, 0.07943, 0.42057]),
]


@pytest.mark.parametrize(("rule", "temperature", "shares"), GOLDEN)
def test_the_papers_weights(rule, temperature, shares):
    weights = weights_of(rule(temperature=temperature), [1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(weights / 4, shares, atol=5e-6)


def test_a_rule_in_proportion_to_the_loss_and_focal_and_top():
    proportional = np.exp(np.array([0, 1, 2, 3]) / 3)
    np.testing.assert_allclose(weights_of(Upper(temperature=1.0), [1, 2, 3, 4]), 4 * proportional / proportional.sum())
    probable = (1 - np.exp(-np.array([1.0, 2, 3, 4]))) ** 2
    np.testing.assert_allclose(weights_of(Focal(gamma=2.0), [1, 2, 3, 4]), 4 * probable / probable.sum(), rtol=1e-6)
    assert weights_of(TopLosses(fraction=0.25), [1, 4, 3, 2]).tolist() == [0, 4, 0, 0]
    assert weights_of(TopLosses(fraction=1.0), [1, 4, 3, 2]).tolist() == [1, 1, 1, 1]


LOSSES = st.lists(st.floats(0, 20, width=32), min_size=12, max_size=12).map(lambda x: np.float32(x).reshape(3, 4))
SIZES = st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=12, max_size=12).map(lambda x: np.float32(x).reshape(3, 4))
STARTS = [[0, 0, 2, 2], [0, 1, 1, 1], [0, 0, 0, 0]]


@settings(max_examples=50)
@given(losses=LOSSES, sizes=SIZES, rule=st.sampled_from(RULES), sample=st.sampled_from(["row", "document", "token"]))
def test_the_mean_weight_per_token_is_one_whatever_the_losses(losses, sizes, rule, sample):
    batch = batch_of(sizes, STARTS)
    weights = np.broadcast_to(np.asarray(weigh(Reweighting(rule=rule, sample=sample), losses, batch, 0.4)), (3, 4))
    assert np.isfinite(weights).all()
    assert (weights >= 0).all()
    if sizes.sum():
        assert math.isclose((weights * sizes).sum() / sizes.sum(), 1.0, rel_tol=1e-4)
    tempered = weights[sizes > 0] if hasattr(rule, "temperature") else np.ones(1)
    assert tempered.max(initial=1.0) <= tempered.min(initial=math.inf) * math.exp(1 / 0.4) * (1 + 1e-4)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
def test_equal_losses_weigh_the_same_but_for_the_softmax_of_rounding(rule):
    weights = weights_of(rule, [2.5] * 8)
    np.testing.assert_allclose(weights, np.ones(8), rtol=1e-5)


def test_a_document_has_the_mean_loss_of_its_tokens_wherever_it_lies():
    """Packed into rows of two, four documents of one length weigh what they do as rows of their own."""
    rng = np.random.default_rng(0)
    documents = rng.uniform(1, 5, (4, 3)).astype(np.float32)
    alone = weights_of(LinUpper(), documents)
    starts = np.tile([0, 0, 0, 3, 3, 3], (2, 1))
    packed = weights_of(LinUpper(), documents.reshape(2, 6), batch_of(np.ones((2, 6)), starts), "document")
    np.testing.assert_allclose(packed.reshape(4, 3), np.repeat(alone[:, None], 3, 1), rtol=1e-5)
    tokens = weights_of(LinUpper(), documents, sample="token")
    np.testing.assert_allclose(tokens.ravel(), weights_of(LinUpper(), documents.ravel()), rtol=1e-5)


def test_positions_without_loss_have_no_say():
    losses = np.float32([[1, 100], [2, -50], [3, 0], [4, 7]])
    batch = batch_of([[1, 0]] * 4)
    for sample in ("row", "document", "token"):
        weights = weights_of(LinUpper(), losses, batch, sample).reshape(4, -1)[:, 0]
        np.testing.assert_allclose(weights, weights_of(LinUpper(), [1, 2, 3, 4]), rtol=1e-5)


def test_no_gradient_flows_through_weights():
    batch = batch_of(np.ones((4, 1)))
    total = lambda losses: jnp.sum(weigh(Reweighting(), losses, batch) * jnp.ones((4, 1)))  # noqa: E731
    assert not np.any(jax.grad(total)(jnp.arange(4.0)[:, None]))


def test_the_burn_in_and_the_line_of_the_temperature():
    timeline = Timeline(Ramp(steps=((0, 4),)), seq_len=1, flops_per_token=1, active_parameters=1, budget=Steps(n=100))
    reweighting = Reweighting(rule=LinUpper(temperature=1.0, final_temperature=0.4), burn_in=Fraction(n=0.2))
    weights, losses = weights_by_clock(reweighting, timeline), jnp.float32([[1], [2], [3], [4]])
    batch = batch_of(np.ones((4, 1)))
    at = lambda step: np.asarray(weights(losses, batch, timeline.clock(step)))[:, 0]  # noqa: E731
    assert at(19).tolist() == [1, 1, 1, 1]
    np.testing.assert_allclose(at(20), weights_of(LinUpper(temperature=1.0), losses[:, 0]), rtol=1e-6)
    np.testing.assert_allclose(at(60), weights_of(LinUpper(temperature=0.7), losses[:, 0]), rtol=1e-5)
    np.testing.assert_allclose(at(100), weights_of(LinUpper(temperature=0.4), losses[:, 0]), rtol=1e-5)


def test_what_is_logged():
    batch = batch_of(np.ones((4, 2)))
    flat = statistics(jnp.ones((4, 1)), batch)
    np.testing.assert_allclose(flat["weight_entropy"], math.log(4))
    np.testing.assert_allclose(flat["effective_batch_size"], 4)
    np.testing.assert_allclose(flat["weight_histogram"][EDGES.index(1.0)], 1)  # (0.75, 1]
    for times in (1, 3):  # whatever the mean of the weights
        half = statistics(times * jnp.float32([[2], [2], [0], [0]]), batch)
        np.testing.assert_allclose(half["weight_entropy"], math.log(2), rtol=1e-6)
        np.testing.assert_allclose(half["effective_batch_size"], 2)
    half = statistics(jnp.float32([[2], [2], [0], [0]]), batch)
    assert half["row_weights"].tolist() == [2, 2, 0, 0]
    np.testing.assert_allclose(half["weight_histogram"].sum(), 1)


def test_what_rows_without_a_backward_pass_save():
    """A third of training is the forward pass, here of all rows; then half of them are trained on."""
    half = Reweighting(rule=TopLosses(fraction=0.5))
    assert 300 + extra_flops(half, 300, 0, ahead=True) == 100 + 150
    assert 300 + extra_flops(half, 300, 30, ahead=True) == 100 + 150 + 10
    assert extra_flops(Reweighting(), 300, 0, ahead=False) == 0
    assert extra_flops(Reweighting(), 300, 0, ahead=True) == 100


def steps_to(rule, target, seed):
    """Steps of gradient descent on a linear regression until the mean loss of all samples is below `target`.

    Most samples are easy and alike; a few are of directions that are seldom seen, and their losses are the highest.
    """
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.normal(size=(56, 4)) * [1, 1, 0, 0], rng.normal(size=(8, 4)) * [0, 0, 1, 1]])
    x, y = jnp.float32(x), jnp.float32(x @ np.array([1.0, -2.0, 3.0, -4.0]))
    batch, reweighting = batch_of(np.ones((64, 1))), Reweighting(rule=rule)

    @jax.jit
    def step(w):
        losses = lambda w: jnp.square(x @ w - y)[:, None]  # noqa: E731
        weights = weigh(reweighting, losses(w), batch, getattr(rule, "temperature", 1.0))
        return w - 0.05 * jax.grad(lambda w: jnp.mean(weights * losses(w)))(w), jnp.mean(losses(w))

    w = jnp.zeros(4)
    for count in range(1000):
        w, loss = step(w)
        if loss < target:
            return count
    return 1000


@pytest.mark.parametrize("seed", [0, 2])
def test_on_a_regression_little_weight_on_low_losses_is_faster_and_so_is_some_on_high_ones_too(seed):
    """The paper's order: LinUpper, Quadratic, uniform weights; and weight on both ends is slower than these."""
    rules = (LinUpper(), Quadratic(), Uniform(), Extremes())
    lin_upper, quadratic, uniform, extremes = (steps_to(rule, 0.05, seed) for rule in rules)
    assert lin_upper < 0.5 * quadratic
    assert quadratic < 0.8 * uniform
    assert uniform < 0.9 * extremes < 900
