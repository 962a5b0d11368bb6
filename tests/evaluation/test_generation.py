import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pathways_kernels.attention import Spans
from pathways_lite import models
from pathways_lite.errors import UserError
from pathways_lite.evaluation.generation import Sampling, Stops, Writer, generate
from pathways_lite.recipe import Model
from pathways_lite.sampling import stop_strings

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
    greedy = continue_(params, temperature=0)
    assert continue_(params, top_k=1, seed=3) == continue_(params, top_p=1e-6) == continue_(params, min_p=1.0) == greedy


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


@pytest.mark.parametrize("options", [{"temperature": -1}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}, {"min_p": 2.0}])
def test_settings_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        Sampling(**options)


def test_nothing_to_generate_is_refused(params: models.Params) -> None:
    with pytest.raises(UserError, match="max_tokens=0"):
        continue_(params, n=0)


def test_many_prompts_and_samples_are_written_together(params: models.Params) -> None:
    writer = Writer(CONFIG, params, Letters(), key=jax.random.key(0), rows=3)
    prompts, ask = ["abc", "", "zebra"[1:]], {"max_tokens": 9, "samples": 4}
    together = {(r.prompt, r.number): r.text for r in writer.continuations(prompts, Sampling(2.0), **ask)}
    alone = Writer(CONFIG, params, Letters(), key=jax.random.key(0), rows=1)
    for i, prompt in enumerate(prompts):
        texts = {r.number: r.text for r in alone.continuations([prompt], Sampling(2.0), **ask)}
        assert texts == {number: together[i, number] for number in range(4)}
        assert len(set(texts.values())) == 4


def test_a_text_ends_before_a_stop_string(params: models.Params) -> None:
    token_bytes = [b"", *(bytes([ord("a") + i]) for i in range(19))]
    writer = Writer(CONFIG, params, Letters(), key=jax.random.key(0), rows=1)
    ask = {"max_tokens": 20, "samples": 8}
    whole = {result.number: result.text for result in writer.continuations(["abc"], Sampling(2.0), **ask)}
    string = next(text for text in whole.values() if len(text) > 8)[5:7]
    stops = Stops((string,), stop_strings([string], token_bytes))
    for cut in writer.continuations(["abc"], Sampling(2.0), stops=stops, **ask):
        assert (cut.finish == "stop") == (string in whole[cut.number])
        assert cut.text == whole[cut.number].partition(string)[0]
    first = whole[0][0]  # a text that begins with a stop string is empty
    stops = Stops((first,), stop_strings([first], token_bytes))
    (empty,) = writer.continuations(["abc"], Sampling(2.0), stops=stops, max_tokens=20)
    assert (empty.text, empty.finish, len(empty.sample.tokens)) == ("", "stop", 1)
