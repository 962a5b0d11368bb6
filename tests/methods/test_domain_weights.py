"""DoReMi and DoGE: their updates by hand, what holds for any losses, and who gains on problems with known answers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathways_kernels.attention import Spans
from pathways_lite.batch import Batch
from pathways_lite.methods.domain_weights import DomainWeightState, doge, doremi, init, means_of_domains
from pathways_lite.models import TokenLosses
from pathways_lite.recipe import DoGE, DoReMi, Reference
from pathways_lite.training.sample_weights import domain_alignments, split_halves

DOREMI = DoReMi(reference=Reference(stage="reference"))
ALL = np.ones(3, bool)
B = 6  # all batches have as many rows, so that everything here is compiled once; those to spare have no loss

by_excess = jax.jit(doremi, static_argnums=0)
by_scores = jax.jit(doge, static_argnums=0)


def batch_of(domain, sizes=None, tokens=None):
    """Only what weights depend on, and tokens."""
    spare = B - len(domain)
    sizes = np.ones((len(domain), 2)) if sizes is None else sizes
    sizes = np.pad(np.asarray(sizes, np.float32), ((0, spare), (0, 0)))
    domain, zeros = np.pad(np.asarray(domain, np.int32), (0, spare)), np.zeros((B, 2), np.int32)
    return Batch(zeros if tokens is None else tokens, zeros, sizes, zeros, Spans(zeros, zeros + 1), domain, zeros)


def rows(*losses):
    return np.pad(np.repeat(np.float32(losses)[:, None], 2, axis=1), ((0, B - len(losses)), (0, 0)))


def test_doremis_update_by_hand():
    """alpha' = alpha exp(lambda), normalised, with c / 3 for each; a loss below the reference's is no excess."""
    batch = batch_of([0, 1, 2, 0])
    rule = DOREMI.model_copy(update={"smoothing": 0.3})
    weights, first = by_excess(rule, rows(1.0, 0.5, -3.0, 0.0), batch, init(ALL))
    grown = np.exp([0.5, 0.5, 0.0])
    expected = 0.7 * grown / grown.sum() + 0.1
    np.testing.assert_allclose(first.weights, expected, rtol=1e-6)
    np.testing.assert_allclose(first.scores, [0.5, 0.5, 0.0], rtol=1e-6)
    # Each domain's mean loss counts alpha: two rows of domain 0 share what it has, of four in all.
    np.testing.assert_allclose(weights[:4, 0], 4 * expected[[0, 1, 2, 0]] / [2, 1, 1, 2], rtol=1e-6)

    _, second = by_excess(rule, rows(0.0, 0.0, 2.0, 0.0), batch, first)
    again = np.asarray(first.weights) * np.exp([0.0, 0.0, 2.0])
    again = 0.7 * again / again.sum() + 0.1
    np.testing.assert_allclose(second.weights, again, rtol=1e-6)
    np.testing.assert_allclose(second.average, (expected + again) / 2, rtol=1e-6)
    assert second.steps == 2


def test_clipping_is_of_tokens_not_of_means():
    excess = rows(0, 0)
    excess[:2] = [[2, -2], [1, 1]]
    _, state = by_excess(DOREMI, excess, batch_of([0, 1]), init(ALL))
    np.testing.assert_allclose(state.scores, [1, 1, 0])
    _, state = by_excess(DOREMI, excess, batch_of([0, 1], [[1, 3], [1, 1]]), init(ALL))
    np.testing.assert_allclose(state.scores, [0.5, 1, 0])


EXCESS = st.lists(st.floats(-5, 50, width=32), min_size=B, max_size=B).map(lambda found: rows(*found))
DOMAINS = st.lists(st.integers(0, 2), min_size=B, max_size=B)


@settings(max_examples=25)
@given(excess=EXCESS, domains=DOMAINS, steps=st.integers(1, 4))
def test_weights_are_a_distribution_above_the_floor_and_rows_have_a_mean_of_one(excess, domains, steps):
    state, batch, history = init(ALL), batch_of(domains), []
    for _ in range(steps):
        weights, state = by_excess(DOREMI, excess, batch, state)
        history.append(state.weights)
        np.testing.assert_allclose(np.mean(weights), 1.0, rtol=1e-4)
    np.testing.assert_allclose(np.sum(history, axis=1), 1.0, rtol=1e-5)
    assert np.min(history) >= 1e-3 / 3 * (1 - 1e-5)
    np.testing.assert_allclose(state.average, np.mean(history, axis=0), rtol=1e-4)


def test_equal_excess_changes_nothing_and_the_greater_one_gains():
    batch = batch_of([0, 1, 2])
    _, state = by_excess(DOREMI, rows(0.7, 0.7, 0.7), batch, init(ALL))
    np.testing.assert_allclose(state.weights, 1 / 3, rtol=1e-6)
    _, state = by_excess(DOREMI, rows(0.7, 0.9, 0.7), batch, init(ALL))
    assert state.weights[1] > 1 / 3 > state.weights[0] == state.weights[2]


def test_a_domain_that_a_batch_lacks_keeps_its_score():
    before = DomainWeightState(*(np.float32(x) for x in ([0.2, 0.3, 0.5], [0, 0, 0], [0.1, 0.2, 0.4])), np.int32(0))
    has_score = np.array([True, True, False])
    _, after = by_scores(DoGE(), 0.05, np.float32([1, 1, 0]), has_score, batch_of([0, 1]), before)
    np.testing.assert_allclose(after.scores, [1, 1, 0.4])
    grown = np.array([0.2, 0.3, 0.5]) * np.exp([1, 1, 0.4])
    np.testing.assert_allclose(after.weights, grown / grown.sum(), rtol=1e-6)


def test_who_takes_no_part_never_does():
    state = init(np.array([True, False, True]))
    for _ in range(3):
        weights, state = by_excess(DOREMI, rows(0.1, 9.0, 0.2), batch_of([0, 1, 2]), state)
    assert state.weights[1] == state.average[1] == weights[1, 0] == 0
    np.testing.assert_allclose(np.sum(state.weights), 1, rtol=1e-6)


# ---- DoGE on losses of known gradients: each domain pulls the parameters towards a centre of its own ----

CENTRES = jnp.float32([[1, 0, 0, 0], [0.9, 0.3, 0, 0], [0, 0, 1, 0]])  # two that agree, one at right angles to them


def quadratic(params, batch, key):
    """|params - centre|^2 / 2 and something cubic; a row's centre is its domain's and, by its token, some way off."""
    del key
    centres = CENTRES[batch.domain].at[:, 3].add(batch.tokens[:, 0])
    loss = 0.5 * jnp.sum(jnp.square(params["w"] - centres), axis=-1) + 0.1 * jnp.sum(params["w"] ** 3)
    return TokenLosses(jnp.broadcast_to(loss[:, None], batch.tokens.shape), jnp.zeros(batch.tokens.shape))


@functools.partial(jax.jit, static_argnames="microbatch")
def aligned(params, batch, target, key, microbatch=None):
    return domain_alignments(quadratic, params, batch, key, microbatch, target=target)


@jax.jit
@jax.jacobian
def gradients(params, batch):
    return means_of_domains(quadratic(params, batch, None)[0], batch, 3)[0]


def exact(params, batch, target, key):
    """<grad L_j, h> / |h| by one gradient per domain of each half."""
    first, second = (np.asarray(gradients(params, half)["w"], np.float64) for half in split_halves(batch, key, 3))
    towards = np.asarray(target, np.float64) @ first
    return second @ towards / np.linalg.norm(towards)


@pytest.mark.parametrize(
    ("microbatch", "target"), [(None, [1, 1, 1]), pytest.param(2, [1, 0, 0], marks=pytest.mark.slow)]
)
def test_alignments_are_those_of_exact_gradients(microbatch, target):
    """In slices that mix domains, too, and with rows of unequal size; a domain of one row is in one of the halves."""
    rng = np.random.default_rng(0)
    batch = batch_of([0, 1, 2, 0, 0, 1], rng.uniform(0.2, 1, (6, 2)), rng.integers(0, 3, (6, 2)).astype(np.int32))
    params, target, key = {"w": jnp.float32([0.3, -0.2, 0.5, 0.1])}, np.float32(target), jax.random.key(0)
    found, has_score = aligned(params, batch, target, key, microbatch=microbatch)
    first, second = (np.unique(batch.domain[half.loss_weights[:, 0] > 0]) for half in split_halves(batch, key, 3))
    assert set(first) | set(second) == {0, 1, 2}
    assert np.flatnonzero(has_score).tolist() == second.tolist()
    np.testing.assert_allclose(found, exact(params, batch, target, key), rtol=2e-4, atol=2e-4)


@functools.partial(jax.jit, static_argnums=0)
def descend(rule, target, params, state, batch, key):
    """A step of DoGE's two levels by gradient descent: the proxy follows the weighted loss."""
    weights, state = doge(rule, 0.05, *aligned(params, batch, target, key), batch, state)
    gradient = jax.grad(lambda params: jnp.mean(weights * quadratic(params, batch, None)[0]))(params)
    return jax.tree.map(lambda p, g: p - 0.05 * g, params, gradient), state


def learn(rule, takes_part, target, noise=0, steps=20):
    """The average weights."""
    domain, target = np.repeat(np.arange(3, dtype=np.int32), 2), np.float32(target)
    params, state = {"w": jnp.zeros(4)}, init(np.asarray(takes_part))
    rng = np.random.default_rng(0)
    for number in range(steps):
        tokens = np.repeat(noise * rng.choice([-1, 1], (6, 1)) * (domain[:, None] == 2), 2, axis=1).astype(np.int32)
        batch = batch_of(domain, tokens=tokens)
        params, state = descend(rule, target, params, state, batch, jax.random.key(number))
    return np.asarray(state.average)


@pytest.mark.parametrize("noise", [0, 1])
def test_domains_that_help_each_other_gain_and_one_at_right_angles_loses(noise):
    """Also where half of its own gradient is noise, which is aligned with itself."""
    found = learn(DoGE(mu=0.1), ALL, [1, 1, 1], noise)
    assert found[2] < 0.28
    assert found[2] < min(found[:2])


def test_a_target_raises_what_helps_it_and_is_not_trained_on():
    """The target is the second domain; the first points nearly where it does."""
    found = learn(DoGE(mu=0.1), [True, False, True], [0, 1, 0])
    assert found[0] > 0.9
    assert found[1] == 0


def test_doges_step_is_the_learning_rate_over_mu():
    scores, batch = np.float32([1.0, 0.5, -0.5]), batch_of([0, 1, 2])
    _, state = by_scores(DoGE(mu=0.1), 0.02, scores, ALL, batch, init(ALL))
    np.testing.assert_allclose(state.weights, np.exp(0.2 * scores) / np.exp(0.2 * scores).sum(), rtol=1e-6)


def test_nothing_is_known_without_anything_to_aim_at():
    batch, target = batch_of([0, 1, 1, 0]), np.float32([0, 0, 1])
    _, has_score = aligned({"w": jnp.ones(4)}, batch, target, jax.random.key(0))
    assert not has_score.any()


def test_no_weight_is_lost_in_rounding():
    """After one domain has gained all that floats can hold, another one can still win."""
    state = init(ALL)
    rule = DoGE(mu=0.01)
    batch = batch_of([0, 1, 2])
    for scores, steps in (([9.0, 0.0, 0.0], 30), ([0.0, 9.0, 0.0], 60)):
        for _ in range(steps):
            _, state = by_scores(rule, 0.02, np.float32(scores), ALL, batch, state)
    assert state.weights[1] > 0.9


def test_a_batch_of_the_target_alone_trains_on_nothing():
    state = init(np.array([True, False, True]))
    weights, _ = by_scores(DoGE(), 0.05, np.zeros(3, np.float32), ALL, batch_of([1, 1]), state)
    assert not weights.any()
    weights, _ = by_scores(DoGE(), 0.05, np.zeros(3, np.float32), ALL, batch_of([1, 0]), state)
    assert weights[0] == 0 < weights[1]
