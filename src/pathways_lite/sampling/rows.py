"""The state of rows that are being sampled, and what may be done to them, all on the device.

B rows, N tokens of a row at most, S entries of the cache, V vocabulary. The last token of a row has not been read yet:
its keys are not in the cache, and the next step reads it. So going back (`rewind`), branching (`fork`) and adding given
tokens (`force`) change arrays of positions and copy rows, but never have to read a token again.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pathways_lite.models.decoder import ONE_DEVICE
from pathways_lite.models.decoding import Cache, Shared, StepWeights, empty_cache, merge, step, step_logits
from pathways_lite.parallel.sharding import Layout
from pathways_lite.recipe import Model
from pathways_lite.sampling.automaton import Automata
from pathways_lite.sampling.rules import Rules, draw, draw_key, drawn_log_probs

RUNNING, END, STOP, LENGTH, DEAD_END = range(5)
"""Why a row has ended: not yet; a token that ends texts; the automaton's final state; its limit; no token allowed."""


class Rows(NamedTuple):
    """The rows of a batch. Arrays per token have the value of token i of a row at [b, i]."""

    cache: Cache
    tokens: jax.Array  # int32 [B, N]
    length: jax.Array  # int32 [B], of tokens
    limit: jax.Array  # int32 [B], the length at which a row ends
    is_drawn: jax.Array  # bool [B, N]; others were given
    logp_model: jax.Array  # float32 [B, N], nats of drawn tokens under the model: temperature 1, nothing filtered
    logp_drawn: jax.Array  # float32 [B, N], under the distribution that they were drawn from
    states: jax.Array  # int32 [B, N], of the automaton after each token
    finish: jax.Array  # int32 [B], see RUNNING and after
    rules: Rules
    keys: jax.Array  # PRNG keys [B], one per row, whatever shares its batch
    epoch: jax.Array  # int32 [B], raised when a row's path changes, so that no noise is used twice
    ends: jax.Array  # int32 [B, E], tokens that end a text; -1: none
    shared: Shared | None = None  # prompts whose keys and values are not in `cache`

    @property
    def start(self) -> jax.Array:
        """The number of entries that a row sees in the shared prompts and in the cache, int32 [B]."""
        return self.length - 1

    @property
    def in_cache(self) -> jax.Array:
        """The number of those in the cache, int32 [B]."""
        return self.start if self.shared is None else self.start - self.shared.place.length

    @property
    def drawn(self) -> jax.Array:
        """The number of tokens drawn, int32 [B]."""
        return jnp.sum(self.is_drawn & (jnp.arange(self.tokens.shape[1]) < self.length[:, None]), axis=1)


@functools.partial(jax.jit, static_argnums=(0, 4), static_argnames=("layout",), donate_argnums=2)
def advance(
    config: Model, weights: StepWeights, rows: Rows, automata: Automata, steps: int, *, layout: Layout = ONE_DEVICE
) -> Rows:
    """Draw up to `steps` tokens in every running row. The cache must have room for them."""
    batch = rows.tokens.shape[0]
    cache, shared, start, in_cache, drawn = rows.cache, rows.shared, rows.start, rows.in_cache, rows.drawn
    each = jnp.arange(batch)

    def is_unfinished(carry: tuple[jax.Array, Cache, Rows]) -> jax.Array:
        count, _, rows = carry
        return (count < steps) & jnp.any(rows.finish == RUNNING)

    def draw_one(carry: tuple[jax.Array, Cache, Rows]) -> tuple[jax.Array, Cache, Rows]:
        count, recent, rows = carry
        pending = rows.tokens[each, rows.length - 1]
        hidden, recent = step(
            config, weights, cache, recent, pending[:, None], start, count, shared=shared, layout=layout
        )
        logits = step_logits(config, weights, hidden[:, 0])
        state = rows.states[each, rows.length - 1]
        allowed = logits if automata.allowed is None else jnp.where(automata.allowed[state], logits, -jnp.inf)
        log_probs = drawn_log_probs(allowed, rows.rules)
        token = draw(draw_key(rows.keys, rows.epoch, drawn + count), log_probs)
        pick = functools.partial(jnp.take_along_axis, indices=token[:, None], axis=-1)
        logp_model = pick(logits)[:, 0] - jax.nn.logsumexp(logits, axis=-1)
        is_dead = ~jnp.any(allowed > -jnp.inf, axis=-1)
        is_running = rows.finish == RUNNING
        rows = _append(rows, token, is_running & ~is_dead, logp_model, pick(log_probs)[:, 0], automata)
        rows = rows._replace(finish=jnp.where(is_running & is_dead, DEAD_END, rows.finish))
        return count + 1, recent, rows

    # The loop reads the cache, which is written once after it.
    first = jnp.int32(0), empty_cache(config, batch, steps), rows._replace(cache=(), shared=None)
    _, recent, rows = lax.while_loop(is_unfinished, draw_one, first)
    return rows._replace(cache=merge(cache, recent, in_cache, rows.start - start, layout=layout), shared=shared)


def _append(
    rows: Rows, token: jax.Array, where: jax.Array, logp_model: jax.Array, logp_drawn: jax.Array, automata: Automata
) -> Rows:
    """Append a drawn `token` int32 [B] to the rows `where` bool [B], and tell which of them have ended."""
    each, at = jnp.arange(len(token)), rows.length

    def put(array: jax.Array, value: jax.Array) -> jax.Array:
        return array.at[each, at].set(jnp.where(where, value, array[each, at]), mode="drop")

    state = automata.next[rows.states[each, at - 1], token]
    finish = jnp.select(
        [jnp.any(token[:, None] == rows.ends, axis=1), automata.is_final[state], at + 1 >= rows.limit],
        [END, STOP, LENGTH],
        RUNNING,
    )
    return rows._replace(
        tokens=put(rows.tokens, token),
        length=rows.length + where,
        is_drawn=put(rows.is_drawn, jnp.ones_like(where)),
        logp_model=put(rows.logp_model, logp_model),
        logp_drawn=put(rows.logp_drawn, logp_drawn),
        states=put(rows.states, state),
        finish=jnp.where(where, finish, rows.finish),
    )


def _read(
    config: Model, weights: StepWeights, rows: Rows, tokens: jax.Array, layout: Layout
) -> tuple[jax.Array, Cache]:
    """Read the pending token and all but the last of `tokens` [B, T].

    Returns:
      The log probabilities float32 [B, T] of `tokens` under the model, and the recent entries of what was read.
    """
    batch, count = tokens.shape
    pending = rows.tokens[jnp.arange(batch), rows.length - 1]
    inputs = jnp.concatenate([pending[:, None], tokens[:, :-1]], axis=1)
    recent = empty_cache(config, batch, count)
    hidden, recent = step(config, weights, rows.cache, recent, inputs, rows.start, shared=rows.shared, layout=layout)

    def score(row: tuple[jax.Array, jax.Array]) -> jax.Array:
        hidden, targets = row  # one row at a time, because its logits are [T, V]
        logits = step_logits(config, weights, hidden)
        return jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0] - jax.nn.logsumexp(logits, axis=-1)

    return lax.map(score, (hidden, tokens)), recent


@functools.partial(jax.jit, static_argnums=0, static_argnames=("layout",))
def score(
    config: Model, weights: StepWeights, rows: Rows, tokens: jax.Array, *, layout: Layout = ONE_DEVICE
) -> jax.Array:
    """Return the log probabilities float32 [B, T] of the tokens int32 [B, T], were they to follow the rows."""
    return _read(config, weights, rows, tokens, layout)[0]


@functools.partial(jax.jit, static_argnums=0, static_argnames=("layout",), donate_argnums=2)
def force(
    config: Model,
    weights: StepWeights,
    rows: Rows,
    automata: Automata,
    tokens: jax.Array,
    count: jax.Array,
    *,
    layout: Layout = ONE_DEVICE,
) -> Rows:
    """Append the first `count` int32 [B] of the given `tokens` int32 [B, T] to each row, whether it has ended or not.

    They do not count as drawn, so the draws that follow have the same noise as without them. Cache and tokens must
    have room. A row runs on afterwards, unless it is at its limit.
    """
    logp, recent = _read(config, weights, rows, tokens, layout)
    cache = merge(rows.cache, recent, rows.in_cache, count, layout=layout)
    at = jnp.arange(rows.tokens.shape[1])[None, :] - rows.length[:, None]
    is_new = (at >= 0) & (at < count[:, None])
    given = jnp.clip(at, 0, tokens.shape[1] - 1)

    def put(array: jax.Array, values: jax.Array) -> jax.Array:
        return jnp.where(is_new, jnp.take_along_axis(values, given, axis=1), array)

    def read(state: jax.Array, token: jax.Array) -> tuple[jax.Array, jax.Array]:
        state = automata.next[state, token]
        return state, state

    first = rows.states[jnp.arange(len(count)), rows.length - 1]
    _, states = lax.scan(read, first, tokens.T)
    length = rows.length + count
    is_given = count > 0
    finish = jnp.where(length >= rows.limit, LENGTH, RUNNING)
    return rows._replace(
        cache=cache,
        tokens=put(rows.tokens, tokens),
        length=length,
        is_drawn=rows.is_drawn & ~is_new,
        logp_model=put(rows.logp_model, logp),
        logp_drawn=put(rows.logp_drawn, jnp.zeros_like(logp)),
        states=put(rows.states, states.T),
        finish=jnp.where(is_given, finish, rows.finish),
    )


@jax.jit
def fork(rows: Rows, parent: jax.Array) -> Rows:
    """Make row b a copy of row `parent[b]`, int32 [B], that goes on with noise of its own."""

    def copy[T](arrays: T) -> T:
        return jax.tree.map(lambda array: array[parent], arrays)

    shared = rows.shared
    if shared is not None:
        shared = shared._replace(place=copy(shared.place))
    return copy(rows._replace(shared=None))._replace(keys=rows.keys, epoch=rows.epoch + 1, shared=shared)


@jax.jit
def rewind(rows: Rows, length: jax.Array) -> Rows:
    """Cut each row to `length` int32 [B] tokens, at least 1, and let those that were cut go on with new noise.

    What the cache has beyond is overwritten before any token sees it.
    """
    is_cut = length < rows.length
    length = jnp.where(is_cut, length, rows.length)
    shared = rows.shared
    if shared is not None:
        place = shared.place
        shared = shared._replace(place=place._replace(length=jnp.minimum(place.length, length - 1)))
    return rows._replace(
        length=length,
        epoch=rows.epoch + is_cut,
        finish=jnp.where(is_cut, RUNNING, rows.finish),
        shared=shared,
    )
