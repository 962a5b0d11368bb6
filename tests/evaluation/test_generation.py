import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathways_kernels.attention import Spans
from pathways_lite import models
from pathways_lite.errors import UserError
from pathways_lite.evaluation.generation import Sampling, generate, sample
from pathways_lite.recipe import Model

CONFIG = Model(
    d_model=16, n_layers=2, n_heads=2, head_dim=8, d_ff=32, vocab_size=20, dtype="float32", window=(None, 8),
    tie_embeddings=False,  # with tied embeddings an untrained model would repeat the previous token
)  # fmt: skip


class Letters:
    """Tokens 1 .. 19 are the letters from a on."""

    eod = 0

    def encode(self, text: str) -> list[int]:
        return [ord(c) - ord("a") + 1 for c in text]

    def decode(self, tokens: list[int]) -> str:
        return "".join(chr(ord("a") + token - 1) for token in tokens)


@pytest.fixture(scope="module")
def params() -> models.Params:
    params = jax.jit(models.init, static_argnums=0)(CONFIG, jax.random.key(1))
    return params | {"head": params["head"].at[Letters.eod].set(0)}  # never the likeliest token, so that texts are long


choose = jax.jit(sample, static_argnums=2)


def continue_(params: models.Params, prompt: str = "abc", *, n: int = 20, seed: int = 0, **options: float) -> str:
    return generate(CONFIG, params, Letters(), prompt, max_tokens=n, key=jax.random.key(seed), **options)


@jax.jit
def next_token(params: models.Params, padded: jax.Array, count: jax.Array) -> jax.Array:
    index = jnp.arange(padded.shape[0])[None]
    hidden = models.apply(CONFIG, params, padded[None], index, Spans(jnp.zeros_like(index), index + 1))
    return jnp.argmax(models.logits(CONFIG, params, hidden)[0, count - 1])


def greedy_by_full_passes(params: models.Params, prompt: str, n: int) -> str:
    """Generate the likeliest tokens, each by a full forward pass without a cache."""
    tokens, length = [Letters.eod, *Letters().encode(prompt)], 64
    start = len(tokens)
    for _ in range(n):
        padded = np.zeros(length, np.int32)
        padded[: len(tokens)] = tokens
        tokens.append(int(next_token(params, padded, len(tokens))))
        if tokens[-1] == Letters.eod:
            break
    return Letters().decode([token for token in tokens[start:] if token != Letters.eod])


@pytest.mark.parametrize("prompt", ["", "abc", "cabbagefeedsafish"])
def test_greedy_is_the_likeliest_token_of_whole_passes(params: models.Params, prompt: str) -> None:
    text = continue_(params, prompt, temperature=0)
    assert text == greedy_by_full_passes(params, prompt, 20)
    assert len(set(text)) > 1


def test_a_single_candidate_is_greedy(params: models.Params) -> None:
    assert continue_(params, top_k=1, seed=3) == continue_(params, temperature=0)
    logits = jax.random.normal(jax.random.key(0), (100, 20))
    for sampling in (Sampling(top_k=1), Sampling(top_p=1e-6), Sampling(top_k=5, top_p=1e-6)):
        assert jnp.array_equal(choose(logits, jax.random.key(1), sampling), jnp.argmax(logits, axis=-1))


def test_the_key_decides(params: models.Params) -> None:
    texts = [continue_(params, seed=seed, temperature=2.0) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith(continue_(params, n=5, seed=1, temperature=2.0)), "a longer text begins as a shorter one"


def test_it_stops_where_the_document_ends(params: models.Params) -> None:
    indifferent = {**params, "head": jnp.zeros_like(params["head"])}
    assert continue_(indifferent, temperature=0) == "", "all logits are equal: the first token, EOD, is taken"
    texts = [continue_(indifferent, seed=seed, n=64, temperature=2.0) for seed in range(30)]
    assert all(chr(ord("a") - 1) not in text for text in texts), "EOD is no letter"
    # The number of letters before an EOD of probability 1/20 is geometric with mean 19, cut at 64.
    assert 10 < np.mean([len(text) for text in texts]) < 30


LOGITS = jnp.log(jnp.array([0.05, 0.4, 0.1, 0.25, 0.2]))


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), [0.05, 0.4, 0.1, 0.25, 0.2]),
        (Sampling(temperature=0.5), np.array([0.05, 0.4, 0.1, 0.25, 0.2]) ** 2 / 0.275),
        (Sampling(top_k=2), [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0]),
        (Sampling(top_k=99), [0.05, 0.4, 0.1, 0.25, 0.2]),
        (Sampling(top_p=0.6), [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0]),
        (Sampling(top_p=1.0), [0.05, 0.4, 0.1, 0.25, 0.2]),
        (Sampling(top_k=4, top_p=0.85), [0, 0.4 / 0.85, 0, 0.25 / 0.85, 0.2 / 0.85]),
    ],
)
def test_samples_follow_the_distribution(sampling: Sampling, expected: np.ndarray) -> None:
    n = 20_000
    tokens = choose(jnp.broadcast_to(LOGITS, (n, 5)), jax.random.key(0), sampling)
    counts = np.bincount(np.asarray(tokens), minlength=5)
    expected = np.asarray(expected, float)
    assert np.all(counts[expected == 0] == 0)
    spread = np.sqrt(n * expected * (1 - expected))
    assert np.all(np.abs(counts - n * expected) <= 4.5 * spread + 1e-9)


@settings(max_examples=20)
@given(st.lists(st.integers(-3, 3), min_size=6, max_size=6), st.sampled_from([1, 3]), st.integers(0, 100))
def test_top_k_is_exact_where_logits_are_equal(values: list[int], k: int, seed: int) -> None:
    logits = jnp.array(values, jnp.float32)
    allowed = np.argsort(-np.array(values), kind="stable")[:k]
    tokens = choose(jnp.broadcast_to(logits, (50, 6)), jax.random.key(seed), Sampling(top_k=k))
    assert set(np.asarray(tokens).tolist()) <= set(allowed.tolist())


@pytest.mark.parametrize(
    "options", [{"temperature": -1}, {"temperature": float("nan")}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}]
)
def test_settings_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        Sampling(**options)


def test_nothing_to_generate_is_refused(params: models.Params) -> None:
    with pytest.raises(UserError, match="max_tokens=0"):
        continue_(params, n=0)
