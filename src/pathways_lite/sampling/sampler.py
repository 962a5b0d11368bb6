"""Sample many texts: a queue of requests, a batch of rows that is refilled as rows end, each prompt read once.

The device draws in chunks of `CHUNK` tokens; between chunks the host takes the rows that have ended, gives their
places to the next requests, and makes the cache longer where it must be. What a sample is does not depend on its
neighbors: its noise comes from the seed, the prompt, the sample's number and the token's, so 64 samples begin with the
same 16. (Up to rounding: the sums of another batch size, or of a longer cache, may differ in their last bits.)
"""

from __future__ import annotations

import functools
import hashlib
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.models.decoder import ONE_DEVICE
from pathways_lite.models.decoding import Cache, StepWeights, empty_cache, merge, step, unstack
from pathways_lite.objectives.prompts import Prompt
from pathways_lite.parallel.sharding import Layout
from pathways_lite.recipe import Model
from pathways_lite.sampling.automaton import FREE, Automaton, combine
from pathways_lite.sampling.rows import LENGTH, RUNNING, Rows, advance
from pathways_lite.sampling.rules import PLAIN, Rules, Sampling, row_keys

CHUNK = 32  # tokens between two looks of the host
_PAD = 64  # prompts and caches are padded to multiples of it
_READ = 256  # tokens of a prompt that are read at once

Finish = Literal["end", "stop", "length", "dead end"]
_FINISHES: tuple[Finish | None, ...] = (None, "end", "stop", "length", "dead end")


@dataclass(frozen=True, eq=False)
class Request:
    """A prompt, and how many texts to draw after it.

    first_sample: the number of the first sample; those before it are left out.
    automaton: what ends or restricts the answers, besides the ends of texts.
    problem: a number below 2**32 for the noise; None: from the prompt's tokens.
    """

    prompt: Prompt
    sampling: Sampling = PLAIN
    max_tokens: int = 256
    samples: int = 1
    first_sample: int = 0
    automaton: Automaton = FREE
    problem: int | None = None

    @property
    def problem_number(self) -> int:
        """The number that tells the noise of this prompt from that of others."""
        if self.problem is not None:
            return self.problem
        digest = hashlib.blake2b(np.asarray(self.prompt.tokens, "<i4").tobytes(), digest_size=4).digest()
        return int.from_bytes(digest, "little")


@dataclass(frozen=True, eq=False)
class Sample:
    """A text that was drawn.

    request: index of the request. number: of the sample, among those of its prompt.
    tokens: int32 [n], with the token that ended it, if one did.
    logp_model, logp_drawn: float32 [n], nats of each token under the model (temperature 1, nothing filtered), and under
        the distribution that it was drawn from.
    """

    request: int
    number: int
    tokens: np.ndarray
    logp_model: np.ndarray
    logp_drawn: np.ndarray
    finish: Finish

    @property
    def answer(self) -> list[int]:
        """The tokens without the one that ended the text."""
        return [int(token) for token in (self.tokens[:-1] if self.finish == "end" else self.tokens)]


@dataclass
class _Slot:
    """What a row of the batch is working on."""

    request: int
    number: int


@dataclass
class Sampler:
    """Draws texts from a model.

    ends: tokens that end every text, besides the `end` of its prompt.
    rows: texts that are drawn at the same time, at most.
    key: of the noise.
    layout: how rows and heads are sharded. Rows are rounded up to a multiple of the devices that share a batch;
        parameters that are sharded over `fsdp` are gathered for every token, so `tensor` is the axis for large models.
    """

    config: Model
    weights: StepWeights
    ends: tuple[int, ...]
    rows: int = 16
    key: jax.Array = field(default_factory=lambda: jax.random.key(0))
    layout: Layout = field(default=ONE_DEVICE)
    chunk: int = CHUNK

    def __post_init__(self) -> None:
        # One token at a time cannot be spread over devices: those of `context` take rows instead.
        rules = self.layout.rules
        batch = tuple(dict.fromkeys((*rules["batch"], *rules["seq"])))
        self.layout = Layout(self.layout.mesh, {**rules, "batch": batch, "seq": ()})

    @classmethod
    def of_params(cls, config: Model, params: Any, ends: Collection[int], **options: Any) -> Sampler:
        """Return a sampler of a decoder's parameters, as `models.init` makes them."""
        return cls(config, jax.jit(unstack, static_argnums=0)(config, params), tuple(ends), **options)

    def sample(
        self, requests: Sequence[Request], watch: Callable[[list[Sample]], None] | None = None
    ) -> Iterator[Sample]:
        """Yield the samples of all requests as they end.

        Args:
          watch: is given the unfinished samples after every chunk, for showing them as they grow.

        Raises UserError for a prompt without tokens, or a limit of none.
        """
        for request in requests:
            if not request.prompt.tokens:
                raise UserError("a prompt has no tokens; there is nothing to go on from")
            if request.max_tokens < 1:
                raise UserError(f"max_tokens={request.max_tokens} must be at least 1")
        queue = deque(
            _Slot(index, request.first_sample + i)
            for index, request in enumerate(requests)
            for i in range(request.samples)
        )
        if not queue:
            return
        shards = self.layout.size("batch")
        yield from _Batch(self, requests, -(-min(self.rows, len(queue)) // shards) * shards).run(queue, watch)


class _Batch:
    """The rows of one call, and what each works on."""

    def __init__(self, sampler: Sampler, requests: Sequence[Request], size: int) -> None:
        self._sampler, self._requests, self._size = sampler, requests, size
        distinct = list({id(request.automaton): request.automaton for request in requests}.values())
        self._automata, first_states = combine(distinct, sampler.config.vocab_size)
        self._first_state = {id(a): int(state) for a, state in zip(distinct, first_states, strict=True)}
        capacity = _round_up(max(len(request.prompt.tokens) + request.max_tokens for request in requests))
        self._slots: list[_Slot | None] = [None] * size
        self._cache_length = 0
        self._rows = self._empty(capacity)
        self._prefixes: dict[int, tuple[Cache, int]] = {}  # by request: the caches that it is in, and its row there

    def run(self, queue: deque[_Slot], watch: Callable[[list[Sample]], None] | None) -> Iterator[Sample]:
        """Draw all samples of the queue."""
        while queue or any(self._slots):
            self._refill(queue)
            finish, length, limit = (np.asarray(x) for x in (self._rows.finish, self._rows.length, self._rows.limit))
            is_running = finish == RUNNING
            steps = min(self._sampler.chunk, _power_of_two(int((limit - length)[is_running].max())))
            self._make_room(int(length[is_running].max()) + steps)
            self._rows = advance(
                self._sampler.config,
                self._sampler.weights,
                self._rows,
                self._automata,
                steps,
                layout=self._sampler.layout,
            )
            is_running = np.asarray(self._rows.finish) == RUNNING
            at_work = [row for row, slot in enumerate(self._slots) if slot is not None]
            if watch is not None:
                watch(self._samples([row for row in at_work if is_running[row]]))
            ended = [row for row in at_work if not is_running[row]]
            finished = self._samples(ended)
            for row in ended:
                self._slots[row] = None
            yield from finished

    def _samples(self, which: Sequence[int]) -> list[Sample]:
        """Return what the rows `which` have written so far. Rows are fetched from the device only if there are any."""
        if not which:
            return []
        rows = self._rows
        arrays = [np.asarray(x) for x in (rows.finish, rows.length, rows.tokens, rows.logp_model, rows.logp_drawn)]
        samples = []
        for row in which:
            slot = self._slots[row]
            assert slot is not None
            finish, length, tokens, logp_model, logp_drawn = (array[row] for array in arrays)
            part = slice(len(self._requests[slot.request].prompt.tokens), int(length))
            sample = Sample(
                slot.request, slot.number, tokens[part].copy(), logp_model[part].copy(), logp_drawn[part].copy(),
                _FINISHES[int(finish)] or "length",
            )  # fmt: skip
            samples.append(sample)
        return samples

    # ---- filling rows ----

    def _refill(self, queue: deque[_Slot]) -> None:
        free = [row for row, slot in enumerate(self._slots) if slot is None][: len(queue)]
        if not free:
            return
        for row in free:
            self._slots[row] = queue.popleft()
        slots = {row: slot for row in free if (slot := self._slots[row]) is not None}
        self._read_prompts({slot.request for slot in slots.values()})
        is_new = np.zeros(self._size, bool)
        is_new[free] = True
        fresh = self._fresh(slots)
        groups: dict[int, list[int]] = {}
        for row, slot in slots.items():
            groups.setdefault(id(self._prefixes[slot.request][0]), []).append(row)
        self._rows = _replace_rows(self._rows, fresh, is_new)
        for rows in groups.values():
            cache = self._prefixes[slots[rows[0]].request][0]
            self._make_room(cache[0].keys.shape[2])
            owner, here = np.zeros(self._size, np.int32), np.zeros(self._size, bool)
            for row in rows:
                owner[row], here[row] = self._prefixes[slots[row].request][1], True
            self._rows = _insert_prefix(self._rows, cache, owner, here)
        waiting = {slot.request for slot in queue}
        self._prefixes = {request: prefix for request, prefix in self._prefixes.items() if request in waiting}

    def _read_prompts(self, requests: set[int]) -> None:
        """Read the prompts that are new, all of them together."""
        new = sorted(request for request in requests if request not in self._prefixes)
        if not new:
            return
        prompts = [self._requests[request].prompt for request in new]
        cache = read_prompts(self._sampler.config, self._sampler.weights, prompts, layout=self._sampler.layout)
        for row, request in enumerate(new):
            self._prefixes[request] = cache, row

    def _fresh(self, slots: dict[int, _Slot]) -> Rows:
        """Return rows, without caches, that begin the samples of `slots`."""
        size, capacity = self._size, self._rows.tokens.shape[1]
        tokens, states = np.zeros((size, capacity), np.int32), np.zeros((size, capacity), np.int32)
        length, limit = np.ones(size, np.int32), np.ones(size, np.int32)
        problem, number = np.zeros(size, np.uint32), np.zeros(size, np.uint32)
        ends = np.full((size, len(self._sampler.ends) + 1), -1, np.int32)
        rules = [PLAIN] * size
        for row, slot in slots.items():
            request = self._requests[slot.request]
            length[row] = len(request.prompt.tokens)
            limit[row] = length[row] + request.max_tokens
            tokens[row, : length[row]] = request.prompt.tokens
            states[row, length[row] - 1] = self._first_state[id(request.automaton)]
            problem[row], number[row] = request.problem_number, slot.number
            ends[row] = [*self._sampler.ends, request.prompt.end]
            rules[row] = request.sampling
        return self._rows_of(
            tokens=tokens, length=length, limit=limit, states=states, rules=Rules.of(rules), ends=ends,
            keys=row_keys(self._sampler.key, problem, number),
        )  # fmt: skip

    def _rows_of(self, **given: Any) -> Rows:
        """Return rows without caches, of the `given` arrays; the others begin as zeros."""
        shape = (self._size, given["tokens"].shape[1])
        ids, floats, zeros = np.zeros(shape, np.int32), np.zeros(shape, np.float32), np.zeros(self._size, np.int32)
        fields: dict[str, Any] = {
            "cache": (), "is_drawn": np.zeros(shape, bool), "logp_model": floats, "logp_drawn": floats, "states": ids,
            "finish": zeros, "epoch": zeros,
        }  # fmt: skip
        return Rows(**fields | given)

    def _empty(self, capacity: int) -> Rows:
        """Return rows that have all ended."""
        one = np.ones(self._size, np.int32)
        return self._rows_of(
            cache=empty_cache(self._sampler.config, self._size, 0), tokens=np.zeros((self._size, capacity), np.int32),
            length=one, limit=one, finish=one * LENGTH, rules=Rules.of([PLAIN] * self._size),
            keys=row_keys(self._sampler.key, one, one),
            ends=np.full((self._size, len(self._sampler.ends) + 1), -1, np.int32),
        )  # fmt: skip

    def _make_room(self, length: int) -> None:
        """Make the cache long enough for `length` positions: the next of 64, 128, 256, ..."""
        wanted = max(_PAD, _power_of_two(length))
        if wanted > self._cache_length:
            self._rows = self._rows._replace(cache=_lengthen(self._rows.cache, wanted))
            self._cache_length = wanted


def read_prompts(
    config: Model, weights: StepWeights, prompts: Sequence[Prompt], *, layout: Layout = ONE_DEVICE
) -> Cache:
    """Return a cache with the keys and values of prompts, one per row; there may be more rows than prompts."""
    longest = max(len(prompt.tokens) for prompt in prompts)
    length = max(_PAD, _power_of_two(longest)) if longest <= _READ else -(-longest // _READ) * _READ
    rows = _power_of_two(-(-len(prompts) // layout.size("batch"))) * layout.size("batch")
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
def _insert_prefix(rows: Rows, prefix: Cache, owner: jax.Array, here: jax.Array) -> Rows:
    """Copy the entries of a prompt, row `owner` int32 [B] of `prefix`, into the rows where `here`."""

    def put(old: jax.Array, new: jax.Array) -> jax.Array:
        length = new.shape[2]
        return old.at[:, :, :length].set(jnp.where(here[:, None, None, None], new[owner], old[:, :, :length]))

    return rows._replace(cache=jax.tree.map(put, rows.cache, prefix))


@jax.jit
def _replace_rows(rows: Rows, fresh: Rows, is_new: jax.Array) -> Rows:
    """Take `fresh` rows, which have no cache, where `is_new`."""

    def put(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(is_new.reshape(-1, *(1,) * (old.ndim - 1)), new, old)

    return jax.tree.map(put, fresh, rows._replace(cache=()))._replace(cache=rows.cache)


@functools.partial(jax.jit, static_argnums=1)
def _lengthen(cache: Cache, length: int) -> Cache:
    return jax.tree.map(lambda part: jnp.pad(part, ((0, 0), (0, 0), (0, length - part.shape[2]), (0, 0))), cache)


def _round_up(n: int) -> int:
    return -(-n // _PAD) * _PAD


def _power_of_two(n: int) -> int:
    """Return the smallest power of two that is at least n."""
    return 1 << max(n - 1, 0).bit_length()
