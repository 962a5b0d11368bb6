"""Sample many texts: a queue of requests, a batch of rows that is refilled as rows end, each prompt read once.

The device draws in chunks of `CHUNK` tokens; between chunks the host takes the rows that have ended, gives their
places to the next requests, and makes the cache longer where it must be. What a sample is does not depend on its
neighbors: its noise comes from the seed, the prompt, the sample's number and the token's, so 64 samples begin with the
same 16. (Up to rounding: the sums of another batch size, of a longer cache, or of a prompt that is shared, may differ
in their last bits.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite import models
from pathways_lite.errors import UserError
from pathways_lite.models.decoder import ONE_DEVICE
from pathways_lite.models.decoding import Cache, StepWeights, empty_cache, unstack
from pathways_lite.parallel.sharding import Layout
from pathways_lite.recipe import Model
from pathways_lite.sampling.automaton import Automata, combine
from pathways_lite.sampling.prefixes import (
    PAD,
    CopiedPrompts,
    Need,
    Prompts,
    SharedPrompts,
    is_sharing_cheaper,
    make_room,
    places_needed,
    power_of_two,
    read_prompts,
)
from pathways_lite.sampling.requests import Finish, Request, Sample
from pathways_lite.sampling.rows import LENGTH, RUNNING, Rows, advance
from pathways_lite.sampling.rules import PLAIN, Rules, row_keys

CHUNK = 32  # tokens between two looks of the host
_FINISHES: tuple[Finish | None, ...] = (None, "end", "stop", "length", "dead end")


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
    layout: how rows and heads are sharded. Rows are rounded up to a multiple of the devices that share a batch.
    gather: give devices of `fsdp` and `context` all parameters, so `tensor` is the axis for large models. Otherwise
        they stay sharded and are gathered for every token, which needs no more memory than training.
    share: whether rows share their prompts' keys and values (see `prefixes`); None: where that is cheaper.
    """

    config: Model
    weights: StepWeights
    ends: tuple[int, ...]
    rows: int = 16
    key: jax.Array = field(default_factory=lambda: jax.random.key(0))
    layout: Layout = field(default=ONE_DEVICE)
    chunk: int = CHUNK
    share: bool | None = None
    gather: bool = True

    def __post_init__(self) -> None:
        # One token at a time cannot be spread over devices: those of `context` take rows instead.
        rules = self.layout.rules
        batch = tuple(dict.fromkeys((*rules["batch"], *rules["seq"])))
        embed = () if self.gather else rules["embed"]
        self.layout = Layout(self.layout.mesh, {**rules, "batch": batch, "seq": (), "embed": embed})

    @classmethod
    def of_params(cls, config: Model, params: Any, ends: Collection[int], **options: Any) -> Sampler:
        """Return a sampler of a decoder's parameters, as `models.init` makes them, which are laid out for it."""
        sampler = cls(config, StepWeights({}, ()), tuple(ends), **options)
        if (layout := sampler.layout).is_sharded:
            like = layout.abstract_parameters(models.abstract_params(config), models.logical_axes(config))
            params = jax.tree.map(lambda leaf, abstract: jax.device_put(leaf, abstract.sharding), params, like)
        sampler.weights = jax.jit(unstack, static_argnums=0)(config, params)
        return sampler

    def sample(
        self, requests: Sequence[Request], watch: Callable[[list[Sample]], None] | None = None
    ) -> Iterator[Sample]:
        """Yield the samples of all requests as they end.

        Args:
          watch: is given the unfinished samples after every chunk, for showing them as they grow.

        Raises UserError for a prompt without tokens, or a limit of none.
        """
        queue = _queue(requests)
        if queue:
            yield from _Batch(self, requests, self._batch_size(min(self.rows, len(queue)))).run(queue, watch)

    def open(self, requests: Sequence[Request]) -> tuple[Rows, Automata]:
        """Return rows that begin the samples of all requests, in order, for `advance`, `force`, `fork` and `rewind`.

        Their caches have room for all that requests may draw. There are more rows, which have ended, where devices
        share the batch and do not divide it. Raises UserError as `sample`.
        """
        queue = _queue(requests)
        batch = _Batch(self, requests, self._batch_size(len(queue)), places=len(requests))
        return batch.open(queue), batch.automata

    def _batch_size(self, rows: int) -> int:
        shards = self.layout.size("batch")
        return -(-rows // shards) * shards


def _queue(requests: Sequence[Request]) -> deque[_Slot]:
    for request in requests:
        if not request.prompt.tokens:
            raise UserError("a prompt has no tokens; there is nothing to go on from")
        if request.max_tokens < 1:
            raise UserError(f"max_tokens={request.max_tokens} must be at least 1")
    return deque(
        _Slot(index, request.first_sample + i) for index, request in enumerate(requests) for i in range(request.samples)
    )


class _Batch:
    """The rows of one call, and what each works on."""

    def __init__(self, sampler: Sampler, requests: Sequence[Request], size: int, places: int | None = None) -> None:
        self._sampler, self._requests, self._size = sampler, requests, size
        distinct = list({id(request.automaton): request.automaton for request in requests}.values())
        self.automata, first_states = combine(distinct, sampler.config.vocab_size)
        self._first_state = {id(a): int(state) for a, state in zip(distinct, first_states, strict=True)}
        capacity = max(len(request.prompt.tokens) + request.max_tokens for request in requests)
        self._slots: list[_Slot | None] = [None] * size
        self._rows = self._empty(-(-capacity // PAD) * PAD)
        self._prompts = self._prompts_of(places)

    def run(self, queue: deque[_Slot], watch: Callable[[list[Sample]], None] | None) -> Iterator[Sample]:
        """Draw all samples of the queue."""
        while queue or any(self._slots):
            self._refill(queue)
            rows, sampler = self._rows, self._sampler
            finish, length, limit, in_cache = self._fetch((rows.finish, rows.length, rows.limit, rows.in_cache))
            is_running = finish == RUNNING
            steps = min(sampler.chunk, power_of_two(int((limit - length)[is_running].max())))
            rows = make_room(rows, int(in_cache[is_running].max()) + 1 + steps)
            self._rows = advance(sampler.config, sampler.weights, rows, self.automata, steps, layout=sampler.layout)
            is_running = self._fetch(self._rows.finish) == RUNNING
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
        arrays = self._fetch((rows.finish, rows.length, rows.tokens, rows.logp_model, rows.logp_drawn))
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

    def _fetch(self, arrays: Any) -> Any:
        return self._sampler.layout.fetch(arrays)

    # ---- filling rows ----

    def open(self, queue: deque[_Slot]) -> Rows:
        """Return rows that begin all samples of the queue."""
        self._refill(queue)
        rows = self._rows
        return make_room(rows, int(jnp.max(rows.in_cache + rows.limit - rows.length)) + 1)

    def _prompts_of(self, places: int | None) -> Prompts:
        """Return the form of the prompts. `places`: for how many of them there is room if they are shared."""
        sampler, requests = self._sampler, self._requests

        def read(which: Sequence[int]) -> Cache:
            return read_prompts(
                sampler.config, sampler.weights, [requests[i].prompt for i in which], layout=sampler.layout
            )

        needs = [Need(len(request.prompt.tokens), request.max_tokens, request.samples) for request in requests]
        places = places or places_needed(needs, self._size)
        if is_sharing_cheaper(needs, self._size, places) if sampler.share is None else sampler.share:
            return SharedPrompts(sampler.config, read, [need.prompt for need in needs], places, sampler.layout)
        return CopiedPrompts(read)

    def _refill(self, queue: deque[_Slot]) -> None:
        """Give the rows that are free to the next samples of the queue, as far as there is room for their prompts."""
        at_work = {slot.request for slot in self._slots if slot is not None}
        new: dict[int, _Slot] = {}
        for row in [row for row, slot in enumerate(self._slots) if slot is None]:
            if not queue or not self._prompts.claim(queue[0].request, at_work):
                break
            self._slots[row] = new[row] = queue.popleft()
            at_work.add(new[row].request)
        if not new:
            return
        is_new = np.zeros(self._size, bool)
        is_new[list(new)] = True
        rows = self._rows
        replaced = _replace_rows(rows._replace(cache=(), shared=None), self._fresh(new), is_new)
        rows = replaced._replace(cache=rows.cache, shared=rows.shared)
        waiting = {slot.request for slot in queue}
        self._rows = self._prompts.open(rows, {row: slot.request for row, slot in new.items()}, waiting)

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


@jax.jit
def _replace_rows(rows: Rows, fresh: Rows, is_new: jax.Array) -> Rows:
    """Take the `fresh` rows where `is_new`; both without caches."""

    def put(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(is_new.reshape(-1, *(1,) * (old.ndim - 1)), new, old)

    return jax.tree.map(put, fresh, rows)
