"""Automata over tokens: stop strings, tries of allowed answers, and small grammars are all the same object.

A state reads a token and goes to another; a final state ends the row, and a state may forbid tokens. Stop strings are
found by their bytes (Aho and Corasick 1975), so that one that spans tokens, or lies inside one, is found on the device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite.errors import UserError


@dataclass(frozen=True, eq=False)
class Automaton:
    """A deterministic automaton of N states over V tokens.

    next: the state after each token, int32 [N, V].
    is_final: whether a state ends the text, bool [N].
    allowed: which tokens a state allows, bool [N, V]; None: all.
    Rows begin in state 0.
    """

    next: np.ndarray
    is_final: np.ndarray
    allowed: np.ndarray | None = None


class Automata(NamedTuple):
    """The automata of all rows in one table, as arrays; rows begin in states of their own."""

    next: jax.Array  # int32 [N, V]
    is_final: jax.Array  # bool [N]
    allowed: jax.Array | None  # bool [N, V]


def combine(automata: Sequence[Automaton], vocab_size: int) -> tuple[Automata, np.ndarray]:
    """Put automata into one table of a model's `vocab_size`; return it with the first state int32 [n] of each.

    Ids that an automaton does not know lead back to its first state, and are not allowed where it allows only some.
    """
    offsets = np.cumsum([0, *(len(a.next) for a in automata[:-1])]).astype(np.int32)
    has_allowed = any(a.allowed is not None for a in automata)
    nexts, finals, alloweds = [], [], []
    for automaton, offset in zip(automata, offsets, strict=True):
        known = min(automaton.next.shape[1], vocab_size)
        padded = np.zeros((len(automaton.next), vocab_size), np.int32)
        padded[:, :known] = automaton.next[:, :known]
        nexts.append(padded + offset)
        finals.append(automaton.is_final)
        if has_allowed:
            allowed = np.full(padded.shape, automaton.allowed is None)
            if automaton.allowed is not None:
                allowed[:, :known] = automaton.allowed[:, :known]
            alloweds.append(allowed)
    allowed_table = jnp.asarray(np.concatenate(alloweds)) if has_allowed else None
    return Automata(jnp.asarray(np.concatenate(nexts)), jnp.asarray(np.concatenate(finals)), allowed_table), offsets


FREE = Automaton(np.zeros((1, 1), np.int32), np.zeros(1, bool))
"""Allows every token, and never ends."""


def stop_strings(stops: Sequence[str], token_bytes: Sequence[bytes]) -> Automaton:
    """Return the automaton that ends after any of `stops`, wherever in tokens they begin and end.

    `token_bytes`: the bytes of every token of the vocabulary. Raises UserError for a stop string that is empty.
    """
    if not stops:
        return FREE
    if any(not stop for stop in stops):
        raise UserError("a stop string is empty: it would end every text before it begins; leave it out")
    goto, ends = _aho_corasick([stop.encode() for stop in stops])
    final = len(goto)  # one more state, which is reached inside a token and stays
    step = np.array(goto, np.int32)  # [states, 256]
    step[np.isin(step, np.flatnonzero(ends))] = final
    step = np.vstack([step, np.full((1, 256), final, np.int32)])
    states = np.arange(len(step), dtype=np.int32)
    table = np.empty((len(step), len(token_bytes)), np.int32)
    for token, content in enumerate(token_bytes):
        state = states
        for byte in content:
            state = step[state, byte]
        table[:, token] = state
    is_final = np.zeros(len(step), bool)
    is_final[final] = True
    return Automaton(table, is_final)


def _aho_corasick(words: Sequence[bytes]) -> tuple[list[list[int]], list[bool]]:
    """Return the complete transitions [states][256] of the words' automaton, and whether a word ends in a state."""
    goto: list[dict[int, int]] = [{}]
    ends = [False]
    for word in words:
        state = 0
        for byte in word:
            if byte not in goto[state]:
                goto[state][byte] = len(goto)
                goto.append({})
                ends.append(False)
            state = goto[state][byte]
        ends[state] = True
    complete: list[list[int]] = [[] for _ in goto]
    complete[0] = [goto[0].get(byte, 0) for byte in range(256)]
    failure = [0] * len(goto)
    queue = deque(goto[0].values())
    while queue:
        state = queue.popleft()
        back = complete[failure[state]]
        ends[state] = ends[state] or ends[failure[state]]
        complete[state] = [goto[state].get(byte, back[byte]) for byte in range(256)]
        for byte, child in goto[state].items():
            failure[child] = back[byte]
            queue.append(child)
    return complete, ends


def first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Return where in `text` the stop string begins that ends first (the longest of several); None without one."""
    found = [(text.index(stop) + len(stop), text.index(stop)) for stop in stops if stop in text]
    return min(found)[1] if found else None


def trie(words: Sequence[Sequence[int]], vocab_size: int, ends: Sequence[int]) -> Automaton:
    """Return the automaton that allows one of `words` of tokens, and then one of the tokens `ends`.

    Raises ValueError without words, or with an empty one.
    """
    if not words or not all(len(word) for word in words):
        raise ValueError("a trie needs words, none of them empty")
    children: list[dict[int, int]] = [{}]
    complete = {0: False}
    for word in words:
        state = 0
        for token in word:
            state = _child(children, state, int(token))
        complete[state] = True
    final = len(children)
    table = np.zeros((final + 1, vocab_size), np.int32)
    allowed = np.zeros((final + 1, vocab_size), bool)
    for state, edges in enumerate(children):
        followers: dict[int, int] = dict(edges)
        if complete.get(state, False):
            followers |= {int(end): final for end in ends}
        for token, target in followers.items():
            table[state, token], allowed[state, token] = target, True
    table[final] = final
    is_final = np.zeros(final + 1, bool)
    is_final[final] = True
    return Automaton(table, is_final, allowed)


def _child(children: list[dict[int, int]], state: int, token: int) -> int:
    if token not in children[state]:
        children[state][token] = len(children)
        children.append({})
    return children[state][token]


def grammar(transitions: Mapping[tuple[int, int], int], finals: Sequence[int], vocab_size: int) -> Automaton:
    """Return an automaton that allows just the `transitions` (state, token) -> state, and ends in the `finals`."""
    states = 1 + max(max(state, target) for (state, _), target in transitions.items())
    table = np.zeros((states, vocab_size), np.int32)
    allowed = np.zeros((states, vocab_size), bool)
    for (state, token), target in transitions.items():
        table[state, token], allowed[state, token] = target, True
    is_final = np.zeros(states, bool)
    is_final[list(finals)] = True
    return Automaton(table, is_final, allowed)
