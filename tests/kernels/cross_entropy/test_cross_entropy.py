"""Every backend of cross-entropy against its definition."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from pathways_kernels.cross_entropy import chunked, cross_entropy


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(chunked, "CHUNK_TOKENS", 8)


def example(leading, n_embed=12, n_vocab=37, dtype=jnp.float32, seed=0, scale=1.0):
    """Return hidden, head, targets, cotangent of the loss, cotangent of log Z."""
    random = np.random.default_rng(seed)
    hidden = jnp.asarray(scale * random.normal(size=(*leading, n_embed)), dtype)
    head = jnp.asarray(random.normal(size=(n_vocab, n_embed)), dtype)
    targets = jnp.asarray(random.integers(0, n_vocab, leading), jnp.int32)
    return hidden, head, targets, *(jnp.asarray(random.normal(size=leading), jnp.float32) for _ in range(2))


def values_and_gradients(implementation, hidden, head, targets, d_loss, d_log_z, **options):
    @jax.jit
    def compute(hidden, head, d_loss, d_log_z):
        values, pull_back = jax.vjp(
            lambda h, w: cross_entropy(h, w, targets, implementation=implementation, **options), hidden, head
        )
        third = (d_loss - d_log_z,) if options.get("mean_logit") else ()
        return (*values, *pull_back((d_loss, d_log_z, *third)))

    return compute(hidden, head, d_loss, d_log_z)


def relative_error(ours, exact):
    ours, exact = (np.asarray(a, np.float64) for a in (ours, exact))
    return np.abs(ours - exact).max() / max(np.abs(exact).max(), 1e-30)


@settings(max_examples=8)
@given(
    st.lists(st.integers(1, 7), max_size=3),
    st.sampled_from([None, 3.0]),
    st.sampled_from([1.0, 0.25]),
    st.sampled_from([chunked.log_z_and_target, chunked.log_z_and_target_in_one_pass]),
    st.booleans(),
    st.integers(0, 99),
)
def test_chunked_equals_reference(leading, soft_cap, logit_scale, reduction, mean_logit, seed):
    arguments = example(leading, seed=seed)
    options = {"soft_cap": soft_cap, "logit_scale": logit_scale, "mean_logit": mean_logit}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked, "CHUNK_TOKENS", 8)
        patch.setattr(chunked, "log_z_and_target", reduction)  # the CPU's; one of the two is the TPU's
        ours = values_and_gradients("chunked", *arguments, **options)
    exact = values_and_gradients("reference", *arguments, **options)
    for a, b, tolerance in zip(ours, exact, (*[1e-5] * (3 if mean_logit else 2), 1e-4, 1e-4), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert relative_error(a, b) < tolerance


@pytest.mark.parametrize("implementation", ["reference", "chunked"])
def test_gradient_equals_finite_differences(implementation, small_chunks):
    hidden, head, targets, *_ = example((2, 5), n_embed=4, n_vocab=7)

    def function(hidden, head):
        loss, log_z = cross_entropy(hidden, head, targets, soft_cap=4.0, implementation=implementation)
        return (loss * jnp.arange(10.0).reshape(2, 5)).sum() + jnp.square(log_z).sum()

    check_grads(function, (hidden, head), order=1, modes=["rev"], atol=0.05, rtol=0.05)


@pytest.mark.parametrize("soft_cap", [None, 2.0])
@pytest.mark.parametrize("implementation", ["reference", "chunked"])
def test_label_smoothing_equals_its_definition_in_float64(implementation, soft_cap, small_chunks):
    """The cross-entropy with (1 - s) onehot + s / V, and its gradients, from all logits in NumPy."""
    s, scale = 0.1, 0.5
    hidden, head, targets, d_loss, _ = example((2, 11))

    @jax.jit
    def smoothed(hidden, head):
        nll, log_z, mean = cross_entropy(
            hidden, head, targets, logit_scale=scale, soft_cap=soft_cap, mean_logit=True, implementation=implementation
        )
        loss = (1 - s) * nll + s * (log_z - mean)
        return jnp.sum(d_loss * loss), loss

    gradients, loss = jax.grad(smoothed, (0, 1), has_aux=True)(hidden, head)
    h, w, d = (np.asarray(x, np.float64) for x in (hidden, head, d_loss))
    product = scale * h @ w.T
    logits = product if soft_cap is None else soft_cap * np.tanh(product / soft_cap)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    q = (1 - s) * np.eye(len(w))[np.asarray(targets)] + s / len(w)
    np.testing.assert_allclose(loss, -(q * log_p).sum(-1), rtol=1e-5)
    d_logits = d[..., None] * (np.exp(log_p) - q)
    d_product = scale * d_logits * (1 if soft_cap is None else 1 - (logits / soft_cap) ** 2)
    assert relative_error(gradients[0], d_product @ w) < 1e-5
    assert relative_error(gradients[1], np.einsum("btv,bte->ve", d_product, h)) < 1e-5


@pytest.mark.parametrize("implementation", ["reference", "chunked"])
def test_label_smoothing_of_two_logits_by_hand(implementation):
    """Logits (2, 0), target 0: log(1 + e^-2) = 0.1269280, and half of s = 0.1 goes to the other: + 0.05 * 2."""
    hidden, target = jnp.array([[2.0, 0.0]]), jnp.array([0])
    nll, log_z, mean = cross_entropy(hidden, jnp.eye(2), target, mean_logit=True, implementation=implementation)
    np.testing.assert_allclose(nll, 0.1269280, rtol=1e-6)
    np.testing.assert_allclose(0.9 * nll + 0.1 * (log_z - mean), 0.2269280, rtol=1e-6)


def test_one_pass_takes_extreme_logits():
    logits = jnp.array([[1e4, -1e4, 0.0], [-3e38, -3e38, -3e38], [3e38, 3e38, -3e38]])
    targets = jnp.array([1, 0, 2])
    ours, exact = (f(logits, targets) for f in (chunked.log_z_and_target_in_one_pass, chunked.log_z_and_target))
    for a, b in zip(ours, exact, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("implementation", ["reference", "chunked"])
def test_extreme_logits_stay_finite(implementation, small_chunks):
    hidden, head, targets, *cotangents = example((3, 6))
    hidden = hidden.at[0].mul(1e4).at[1].mul(-1e4)
    for value in values_and_gradients(implementation, hidden, head, targets, *cotangents):
        assert np.isfinite(value).all()


def test_uniform_logits_cost_log_vocabulary():
    loss, log_z = cross_entropy(jnp.zeros((4, 3)), jnp.ones((11, 3)), jnp.arange(4))
    np.testing.assert_allclose(loss, np.log(11), rtol=1e-6)
    np.testing.assert_allclose(log_z, np.log(11), rtol=1e-6)


def test_a_token_with_zero_cotangents_changes_no_gradient(small_chunks):
    hidden, head, targets, d_loss, d_log_z = example((2, 9))
    keep = jnp.arange(9) % 3 > 0
    d_loss, d_log_z = d_loss * keep, d_log_z * keep
    other = jnp.where(keep[:, None], hidden, 7.0)
    *_, d_hidden, d_head = values_and_gradients("chunked", hidden, head, targets, d_loss, d_log_z)
    *_, d_other, d_head_other = values_and_gradients("chunked", other, head, targets, d_loss, d_log_z)
    np.testing.assert_array_equal(d_head, d_head_other)
    np.testing.assert_array_equal(d_hidden, d_other)
    assert not np.asarray(d_hidden)[:, ~np.asarray(keep)].any()


def test_bfloat16_hidden_gives_float32_losses_near_the_exact_ones(small_chunks):
    arguments = example((4, 8), n_embed=64, dtype=jnp.bfloat16, scale=0.25)
    hidden, head, *rest = arguments
    exact = values_and_gradients("reference", hidden.astype(jnp.float32), head.astype(jnp.float32), *rest)
    ours = values_and_gradients("chunked", *arguments)
    assert [a.dtype for a in ours] == [jnp.float32, jnp.float32, jnp.bfloat16, jnp.bfloat16]
    # The products are exact in float32; only what enters the gradient's products is rounded to bfloat16.
    for a, b, tolerance in zip(ours, exact, (1e-5, 1e-5, 2**-7, 2**-7), strict=True):
        assert relative_error(a, b) < tolerance


def temporaries(implementation, batch, length, n_vocab):
    def loss(hidden, head, targets):
        return cross_entropy(hidden, head, targets, implementation=implementation)[0].mean()

    shapes = (
        jax.ShapeDtypeStruct((batch, length, 16), jnp.float32),
        jax.ShapeDtypeStruct((n_vocab, 16), jnp.float32),
        jax.ShapeDtypeStruct((batch, length), jnp.int32),
    )
    compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*shapes).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_chunked_never_holds_all_logits():
    batch, length, n_vocab = 4, 4096, 2048
    all_logits = 4 * batch * length * n_vocab
    assert temporaries("chunked", batch, length, n_vocab) < all_logits / 4
    # Its memory hardly grows with the tokens (hidden states and per-token numbers are 1/64 of the logits).
    growth = temporaries("chunked", batch, 2 * length, n_vocab) - temporaries("chunked", batch, length, n_vocab)
    assert growth < all_logits / 8
    assert temporaries("reference", batch, length, n_vocab) >= all_logits


@pytest.mark.parametrize(
    ("hidden", "head", "targets"), [((2, 3), (5, 4), (2,)), ((2, 3), (5, 3), (3,)), ((2, 3), (1, 5, 3), (2,))]
)
def test_shapes_that_do_not_fit_are_refused(hidden, head, targets):
    with pytest.raises(ValueError, match="do not fit"):
        cross_entropy(jnp.zeros(hidden), jnp.zeros(head), jnp.zeros(targets, jnp.int32))


def test_unknown_implementation_and_float_targets_are_refused():
    hidden, head, targets, *_ = example((3,))
    with pytest.raises(ValueError, match="there are chunked, reference"):
        cross_entropy(hidden, head, targets, implementation="fast")
    with pytest.raises(ValueError, match="expected integers"):
        cross_entropy(hidden, head, targets.astype(jnp.float32))
