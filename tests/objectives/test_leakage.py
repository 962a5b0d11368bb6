"""Nothing leaks: which tokens a position's output and gradient depend on, in a whole model on every backend.

Allowed is `same example and (j <= i or both are inputs)`, derived from the tokens alone.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.denoising_examples import START_TOKENS, TOKENS, make_objective_batch, windows
from pathways_kernels.attention import api, attention
from pathways_kernels.attention.block_sizes import Limits
from pathways_kernels.attention.pallas_gpu import Tile, Tiles, pallas_gpu
from pathways_kernels.attention.pallas_tpu import pallas_tpu
from pathways_lite import models
from pathways_lite.batch import Batch
from pathways_lite.recipe import UL2R, FillInTheMiddle, Model

SMALL = Tiles(forward=Tile(32, 64), dq=Tile(64, 32), dkv=Tile(16, 32))
INTERPRETED = {
    "pallas_tpu interpreted": partial(pallas_tpu, interpret=True, limits=(Limits(256, 128, 1), Limits(128, 256, 1))),
    "pallas_gpu interpreted": partial(pallas_gpu, interpret=True, tiles=SMALL),
}
T = 72


@pytest.fixture(autouse=True, scope="module")
def interpreted():
    with pytest.MonkeyPatch.context() as patch:
        for name, run in INTERPRETED.items():
            patch.setitem(api.BACKENDS, name, api.Backend(run))
        yield


def allowed(batch: Batch, row: int) -> np.ndarray:
    """Derive the mask [T, T] from the tokens: start tokens open examples, a repeated first sentinel ends inputs."""
    tokens = batch.tokens[row]
    used = (batch.loss_weights[row] > 0) | (batch.spans.stop[row] - batch.spans.start[row] > 1)
    example = np.cumsum(np.isin(tokens, START_TOKENS) & (batch.positions[row] == 0)) * used
    is_input = np.zeros(T, bool)
    for number in np.unique(example[used]):
        columns = np.flatnonzero(example == number)
        repeated = [i for i in columns if tokens[i] == TOKENS.first_sentinel]
        if tokens[columns[0]] in (TOKENS.nlu, TOKENS.nlg) and repeated:
            is_input[columns[0] : repeated[1]] = True
        elif tokens[columns[0]] == TOKENS.s2s:  # the split is not in the tokens: where loss begins
            is_input[columns[0] : columns[np.argmax(batch.loss_weights[row, columns])] + 1] = True
    index = np.arange(T)
    both = is_input[:, None] & is_input[None, :]
    same = (example[:, None] == example[None, :]) & used[:, None]
    return (same & ((index[None, :] <= index[:, None]) | both)) | (np.eye(T, dtype=bool) & ~used[:, None])


def make(objective: UL2R | FillInTheMiddle, documents: float) -> Batch:
    return make_objective_batch(objective, windows(6, T, documents))


BATCHES = [make(UL2R(), 3.0), make(UL2R(), 0.0), make(FillInTheMiddle(rate=1), 2.0)]


def test_spans_say_what_is_allowed() -> None:
    for batch in BATCHES:
        for row in range(6):
            start, stop = batch.spans.start[row][:, None], batch.spans.stop[row][:, None]
            sees = (start <= np.arange(T)) & (np.arange(T) < stop)
            np.testing.assert_array_equal(sees, allowed(batch, row))


def one_row_of_each() -> tuple[Batch, np.ndarray]:
    """Return a row of each batch, and its allowed mask."""
    batch = jax.tree.map(lambda *x: np.concatenate([a[:1] for a in x]), *BATCHES)
    return batch, np.stack([allowed(b, 0) for b in BATCHES])


@pytest.mark.parametrize("backend", ["reference", "chunked", *INTERPRETED])
def test_what_attention_depends_on(backend: str) -> None:
    """Only queries that may see a key change with it, to the bit; gradients of one query reach only what it sees."""
    batch, allowed_mask = one_row_of_each()
    q, k, v = (jax.random.normal(jax.random.key(i), (3, T, 1, 8)) for i in range(3))

    @jax.jit
    def run(k: jax.Array, v: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, ...]:
        out, pull_back = jax.vjp(partial(attention, spans=batch.spans, scale=0.3, implementation=backend), q, k, v)
        return out, *pull_back(cotangent)

    before = run(k, v, q)[0]
    for j in (3, 40, T - 2):
        after = run(k.at[:, j].multiply(-3), v.at[:, j].add(1), q)[0]
        np.testing.assert_array_equal(np.asarray(before != after).any((2, 3)), allowed_mask[:, :, j])
        _, d_q, d_k, d_v = run(k, v, jnp.zeros_like(q).at[:, j].set(q[:, j]))
        np.testing.assert_array_equal(np.asarray(d_v != 0).any((2, 3)), allowed_mask[:, j])
        assert not np.asarray(d_k)[~allowed_mask[:, j]].any()
        assert not np.asarray(jnp.delete(d_q, j, axis=1)).any()


def test_what_a_model_depends_on() -> None:
    """The same holds after two layers: information reaches only positions that see the token."""
    config = Model(
        d_model=16, n_layers=2, n_heads=2, head_dim=8, d_ff=16, vocab_size=8, dtype="float32", attention="chunked"
    )
    params = models.init(config, jax.random.key(0))
    batch, allowed_mask = one_row_of_each()

    @jax.jit
    def run(inputs: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return hidden states of rows whose token t has the embedding inputs[row, t], and its gradient."""

        def hidden(inputs: jax.Array) -> jax.Array:
            rows = inputs.reshape(-1, 16)
            tokens = jnp.arange(len(rows), dtype=jnp.int32).reshape(inputs.shape[:2])
            return models.apply(config, {**params, "embedding": rows}, tokens, batch.positions, batch.spans)

        out, pull_back = jax.vjp(hidden, inputs)
        return out, pull_back(cotangent)[0]

    inputs = jax.random.normal(jax.random.key(1), (3, T, 16))
    zero = jnp.zeros(inputs.shape)
    before, _ = run(inputs, zero)
    for j in (3, 40, T - 2):
        after, gradient = run(inputs.at[:, j].multiply(-2), zero.at[:, j].set(inputs[:, j]))
        np.testing.assert_array_equal(np.asarray(before != after).any(-1), allowed_mask[:, :, j])
        np.testing.assert_array_equal(np.asarray(gradient != 0).any(-1), allowed_mask[:, j])
