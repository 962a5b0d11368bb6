"""Tokens are drawn from the distribution that the rule says, in every row by its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from pathways_lite.errors import UserError
from pathways_lite.sampling.rules import GREEDY, Rules, Sampling, draw, drawn_log_probs, row_keys

PROBABILITIES = np.array([0.05, 0.4, 0.1, 0.25, 0.2])
log_probs = jax.jit(drawn_log_probs)


def reference(logits: np.ndarray, rule: Sampling) -> np.ndarray:
    """Probabilities by a sort, in float64."""
    if rule.temperature == 0:
        return np.eye(len(logits))[np.argmax(logits)]
    scaled = logits.astype(np.float64) / rule.temperature
    order = np.argsort(-scaled, kind="stable")
    kept = order[: rule.top_k or len(order)]
    if rule.top_p is not None:
        p = np.exp(scaled[kept] - scaled.max())
        p /= p.sum()
        kept = kept[np.cumsum(p) - p < rule.top_p]
    if rule.min_p is not None:
        kept = kept[scaled[kept] >= scaled.max() + np.log(rule.min_p)] if rule.min_p > 0 else kept
    result = np.zeros(len(logits))
    result[kept] = np.exp(scaled[kept] - scaled.max())
    return result / result.sum()


RULES = [
    Sampling(), GREEDY, Sampling(0.7), Sampling(1.5, top_k=3), Sampling(top_k=1), Sampling(top_p=0.6),
    Sampling(2.0, top_p=1e-6), Sampling(min_p=0.4), Sampling(0.5, top_k=20, top_p=0.9, min_p=0.05), Sampling(top_k=999),
]  # fmt: skip


def test_every_row_has_its_own_rule():
    logits = np.random.default_rng(0).normal(size=(len(RULES), 61)).astype(np.float32) * 2
    found = np.exp(log_probs(logits, Rules.of(RULES)))
    expected = np.stack([reference(row, rule) for row, rule in zip(logits, RULES, strict=True)])
    np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_array_equal(found > 0, expected > 0)


def test_of_equal_logits_the_lower_id_counts_as_likelier():
    logits = np.zeros((3, 7), np.float32)
    rules = Rules.of([Sampling(top_k=3), Sampling(top_p=0.5), GREEDY])
    found = np.asarray(log_probs(logits, rules) > -np.inf)
    np.testing.assert_array_equal(found.sum(axis=1), [3, 4, 1])
    assert found[:, 0].all()
    assert not found[:, 4:].any()


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        (Sampling(min_p=0.4), {1, 3, 4}),  # 0.4 and above 0.16
        (Sampling(top_k=2), {1, 3}),
        (Sampling(top_p=0.8), {1, 3, 4}),
        (Sampling(top_p=0.65), {1, 3}),
        (Sampling(top_p=0.66), {1, 3, 4}),
        (Sampling(0.7), {0, 1, 2, 3, 4}),
        (Sampling(0.7, top_p=0.8), {1, 3, 4}),
        (Sampling(0.7, top_p=0.45), {1}),  # one has as much after the temperature, and 0.4 before it
    ],
    ids=str,
)
def test_frequencies_are_within_four_standard_errors(rule: Sampling, kept: set[int]):
    n = 100_000
    logits = np.broadcast_to(np.log(PROBABILITIES).astype(np.float32), (n, 5))
    probabilities = log_probs(logits, Rules.of([rule] * n))
    tokens = np.asarray(jax.jit(draw)(row_keys(jax.random.key(0), np.zeros(n), np.arange(n)), probabilities))
    expected = reference(np.log(PROBABILITIES), rule)
    assert {i for i in range(5) if expected[i] > 0} == kept
    frequencies = np.bincount(tokens, minlength=5) / n
    assert np.all(np.abs(frequencies - expected) <= 4 * np.sqrt(expected * (1 - expected) / n))


def test_drafts_that_are_kept_or_replaced_have_the_distribution_of_the_rule():
    """Speculative sampling (Leviathan et al. 2023, arXiv 2211.17192) of the distributions that tokens are drawn from.

    Chi-square of 100,000 tokens against the rule's own definition, at the 0.1 % level.
    """
    n, rule = 100_000, Sampling(0.7, top_p=0.8)
    draft, target = np.log([0.3, 0.2, 0.1, 0.3, 0.1]), np.log(PROBABILITIES)
    q, p = (np.exp(log_probs(np.float32([each]), Rules.of([rule])), dtype=np.float64)[0] for each in (draft, target))
    logits = np.broadcast_to(np.float32(draft), (n, 5))
    drafts = np.asarray(
        draw(row_keys(jax.random.key(0), np.zeros(n), np.arange(n)), log_probs(logits, Rules.of([rule] * n)))
    )
    rng = np.random.default_rng(0)
    kept = rng.random(n) < np.minimum(1, p[drafts] / q[drafts])
    residual = np.maximum(p - q, 0)
    tokens = np.where(kept, drafts, rng.choice(5, n, p=residual / residual.sum()))
    assert 0.02 < 1 - kept.mean() < 0.9
    expected = n * reference(target, rule)
    counts, possible = np.bincount(tokens, minlength=5), expected > 0
    assert not counts[~possible].any()
    statistic = np.sum((counts[possible] - expected[possible]) ** 2 / expected[possible])
    assert statistic < stats.chi2.ppf(0.999, possible.sum() - 1)


def test_forbidden_tokens_are_never_drawn():
    logits = jnp.full((1000, 9), -jnp.inf).at[:, 3].set(-50.0).at[:, 8].set(-50.0)
    probabilities = log_probs(logits, Rules.of([Sampling(top_p=0.99)] * 1000))
    tokens = draw(row_keys(jax.random.key(1), np.zeros(1000), np.arange(1000)), probabilities)
    assert set(np.asarray(tokens).tolist()) == {3, 8}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": -1.0}, "temperature=-1.0 must be at least 0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_k": 0}, "top_k=0 must be at least 1"),
        ({"top_p": 0.0}, "top_p=0.0 must be above 0"),
        ({"top_p": 1.1}, "top_p=1.1 must be above 0 and at most 1"),
        ({"min_p": -0.1}, "min_p=-0.1 must be between 0 and 1"),
    ],
)
def test_rules_out_of_range_are_refused(fields: dict, message: str):
    with pytest.raises(UserError, match=message):
        Sampling(**fields)
