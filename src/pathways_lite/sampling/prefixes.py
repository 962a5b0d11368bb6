"""The prompts of a batch: each is read once, and then copied into its rows, or kept once for all of them.

A copy in each row makes attention one array, but needs memory for every row, and to read all of it for every token.
Where many rows go on from one prompt, its keys and values are kept once, and the queries of all rows are multiplied
with them together (Hydragen: Juravsky et al. 2024, arXiv 2402.05099). The results are the same up to rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite.models.decoder import ONE_DEVICE
from pathways_lite.models.decoding import Cache, Shared, StepWeights, empty_cache, merge, step
from pathways_lite.models.step_cache import SharedPlace
from pathways_lite.objectives.prompts import Prompt
from pathways_lite.parallel.sharding import Layout
from pathways_lite.recipe import Model
from pathways_lite.sampling.rows import Rows

PAD = 64  # prompts and caches are padded to multiples of it
_READ = 256  # tokens of a prompt that are read at once
_SHARED_COST = 0.25
"""Tokens per second, shared against copied, of 64 rows that go on from n prompts on 2 busy CPU cores (the model of
tools/bench_sample.py, best of 3 in turn); the estimates are equal at 4 prompts of 128 tokens and at 7.5 of 512. n = 4,
8, 16 prompts of 128 tokens: 5758/4932, 1699/4945, 1921/3816; of 512 tokens: 1499/650, 583/726, 91/339."""

ReadPrompts = Callable[[Sequence[int]], Cache]
"""Reads the prompts of requests, one per row of a cache."""


class Need(NamedTuple):
    """What a request needs: tokens of its prompt, tokens to draw at most, and samples."""

    prompt: int
    new: int
    samples: int


def places_needed(needs: Sequence[Need], rows: int) -> int:
    """Return how many prompts `rows` go on from at the same time, if a few are waited for."""
    return min(len(needs), -(-rows // max(1, min(need.samples for need in needs))) + 1)


def is_sharing_cheaper(needs: Sequence[Need], rows: int, places: int) -> bool:
    """Return whether shared prompts need less memory than copies in `rows`, and no more time.

    In estimated entries of caches. Every row's query is multiplied with all `places`, most of them of other rows'
    prompts, but all rows at once: an entry then takes `_SHARED_COST` of the time of one that each row has itself. The
    estimate does not look at the machine, so a killed command continues with the same sums.
    """
    prompt = padded_length(max(need.prompt for need in needs))
    own = cache_length(max(need.new for need in needs))
    copied = cache_length(max(need.prompt + need.new for need in needs))
    needs_less_memory = places < rows and places * prompt + rows * own < rows * copied
    return needs_less_memory and _SHARED_COST * places * prompt + own <= copied


class Prompts(Protocol):
    """The prompts of a batch. Requests are numbers."""

    def claim(self, request: int, at_work: Collection[int]) -> bool:
        """Return whether there is room for the prompt of a request beside those `at_work`."""
        ...

    def open(self, rows: Rows, requests: Mapping[int, int], waiting: Collection[int]) -> Rows:
        """Let rows, by number, begin after the prompts of `requests`; those `waiting` will need theirs again."""
        ...


class CopiedPrompts:
    """Prompts whose entries are copied into the cache of every row."""

    def __init__(self, read: ReadPrompts) -> None:
        self._read_prompts = read
        self._read: dict[int, tuple[Cache, int]] = {}  # by request: the cache that it is in, and its row there

    def claim(self, request: int, at_work: Collection[int]) -> bool:
        return True

    def open(self, rows: Rows, requests: Mapping[int, int], waiting: Collection[int]) -> Rows:
        if new := sorted(set(requests.values()) - set(self._read)):
            cache = self._read_prompts(new)
            self._read |= {request: (cache, row) for row, request in enumerate(new)}
        groups: dict[int, list[int]] = {}
        for row, request in requests.items():
            groups.setdefault(id(self._read[request][0]), []).append(row)
        size = rows.tokens.shape[0]
        for group in groups.values():
            cache = self._read[requests[group[0]]][0]
            owner, is_new = np.zeros(size, np.int32), np.zeros(size, bool)
            for row in group:
                owner[row], is_new[row] = self._read[requests[row]][1], True
            rows = _copy(make_room(rows, cache[0].keys.shape[2]), cache, owner, is_new)
        self._read = {request: place for request, place in self._read.items() if request in waiting}
        return rows


class SharedPrompts:
    """Prompts whose entries are kept once, in one of a few places, while rows go on from them.

    Args:
      lengths: of all prompts, in tokens. places: how many of them there is room for.
    """

    def __init__(self, config: Model, read: ReadPrompts, lengths: Sequence[int], places: int, layout: Layout) -> None:
        self._read_prompts, self._lengths, self._layout = read, lengths, layout
        self._place: dict[int, int] = {}  # of a request's prompt
        self._places, self._room = places, padded_length(max(lengths))
        self._is_read: set[int] = set()
        self._config = config

    def claim(self, request: int, at_work: Collection[int]) -> bool:
        if request not in self._place:
            self._place = {other: place for other, place in self._place.items() if other in at_work}
            self._is_read &= set(self._place)
            free = sorted(set(range(self._places)) - set(self._place.values()))
            if not free:
                return False
            self._place[request] = free[0]
        return True

    def open(self, rows: Rows, requests: Mapping[int, int], waiting: Collection[int]) -> Rows:
        if rows.shared is None:
            empty = jax.tree.map(lambda part: part[0], empty_cache(self._config, 1, self._places * self._room))
            zeros = jnp.zeros(rows.tokens.shape[0], jnp.int32)
            rows = rows._replace(shared=Shared(empty, SharedPlace(zeros, zeros)))
        assert rows.shared is not None
        cache, place = rows.shared
        if new := sorted(set(requests.values()) - self._is_read):
            read = self._read_prompts(new)
            for row, request in enumerate(new):
                cache = _keep(cache, read, row, self._place[request] * self._room, layout=self._layout)
            self._is_read |= set(new)
        begin, count = map(np.copy, self._layout.fetch(tuple(place)))
        for row, request in requests.items():
            begin[row], count[row] = self._place[request] * self._room, self._lengths[request] - 1
        return rows._replace(shared=Shared(cache, SharedPlace(jnp.asarray(begin), jnp.asarray(count))))


def read_prompts(
    config: Model, weights: StepWeights, prompts: Sequence[Prompt], *, layout: Layout = ONE_DEVICE
) -> Cache:
    """Return a cache with the keys and values of prompts, one per row; there may be more rows than prompts."""
    longest = max(len(prompt.tokens) for prompt in prompts)
    length = padded_length(longest)
    rows = power_of_two(-(-len(prompts) // layout.size("batch"))) * layout.size("batch")
    tokens, prefix = np.zeros((rows, length), np.int32), np.zeros(rows, np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt.tokens)] = prompt.tokens
        prefix[row] = prompt.prefix_length
    cache = empty_cache(config, rows, length)
    # Tokens that see each other have to be read at once.
    at_once = length if prefix.any() else min(length, _READ)
    for first in range(0, longest, at_once):
        part = tokens[:, first : first + at_once]
        cache = _read_part(config, weights, cache, part, np.full(rows, first, np.int32), prefix, layout=layout)
    return cache


@functools.partial(jax.jit, static_argnums=0, static_argnames=("layout",), donate_argnums=2)
def _read_part(
    config: Model,
    weights: StepWeights,
    cache: Cache,
    tokens: jax.Array,
    start: jax.Array,
    prefix: jax.Array,
    *,
    layout: Layout,
) -> Cache:
    recent = empty_cache(config, *tokens.shape)
    _, recent = step(config, weights, cache, recent, tokens, start, prefix_length=prefix, layout=layout)
    return merge(cache, recent, start, jnp.full_like(start, tokens.shape[1]), layout=layout)


@functools.partial(jax.jit, donate_argnums=0)
def _copy(rows: Rows, prefix: Cache, owner: jax.Array, is_new: jax.Array) -> Rows:
    """Copy the entries of a prompt, row `owner` int32 [B] of `prefix`, into the rows that are new."""

    def put(old: jax.Array, new: jax.Array) -> jax.Array:
        length = new.shape[2]
        return old.at[:, :, :length].set(jnp.where(is_new[:, None, None, None], new[owner], old[:, :, :length]))

    return rows._replace(cache=jax.tree.map(put, rows.cache, prefix))


@functools.partial(jax.jit, static_argnames=("layout",), donate_argnums=0)
def _keep(shared: Cache, prefix: Cache, row: int, begin: int, *, layout: Layout) -> Cache:
    """Put the entries of row `row` of `prefix` among the shared ones, from `begin` on."""

    def put(old: jax.Array, new: jax.Array) -> jax.Array:
        return layout.constrain(jax.lax.dynamic_update_slice_in_dim(old, new[row], begin, axis=1), "kv", None, None)

    return jax.tree.map(put, shared, prefix)


def make_room(rows: Rows, length: int) -> Rows:
    """Make the rows' caches long enough for `length` entries."""
    wanted = cache_length(length)
    if wanted <= rows.cache[0].keys.shape[2]:
        return rows
    return rows._replace(cache=_lengthen(rows.cache, wanted))


@functools.partial(jax.jit, static_argnums=1)
def _lengthen(cache: Cache, length: int) -> Cache:
    return jax.tree.map(lambda part: jnp.pad(part, ((0, 0), (0, 0), (0, length - part.shape[2]), (0, 0))), cache)


def cache_length(length: int) -> int:
    """Return the entries of a cache that has room for `length`: the next of 64, 128, 256, ..."""
    return max(PAD, power_of_two(length))


def padded_length(longest: int) -> int:
    """Return the entries of a cache for prompts of up to `longest` tokens."""
    return cache_length(longest) if longest <= _READ else -(-longest // _READ) * _READ


def power_of_two(n: int) -> int:
    """Return the smallest power of two that is at least n."""
    return 1 << max(n - 1, 0).bit_length()
