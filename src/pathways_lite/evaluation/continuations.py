"""Score continuations of contexts, each context read once for all of its continuations.

B rows, P prompts, T tokens of a continuation. A score is the same whatever shares its batch, up to rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite.evaluation.token_scores import TokenScores
from pathways_lite.models.decoder import ONE_DEVICE
from pathways_lite.models.decoding import Cache, StepWeights, empty_cache, step, step_logits
from pathways_lite.objectives.prompts import Prompt
from pathways_lite.parallel.sharding import Layout
from pathways_lite.recipe import Model
from pathways_lite.sampling.prefixes import read_prompts

_SHORTEST = 8  # tokens of a row; longer ones are padded to a power of two


class Continuation(NamedTuple):
    """Tokens that may follow a prompt; at least one."""

    prompt: Prompt
    tokens: Sequence[int]


def encode_pair(encode: Callable[[str], list[int]], context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Return the tokens of a context and of what follows it, cut where the tokens of the whole text are cut.

    A token that reaches across the border belongs to the continuation, which so has at least one token: a space at the
    end of a context, for tokenizers that join it with the word after it.

    Raises ValueError for a continuation without text.
    """
    if not continuation:
        raise ValueError("a continuation has no text")
    whole, before = encode(context + continuation), encode(context)
    common = 0
    while common < min(len(before), len(whole) - 1) and before[common] == whole[common]:
        common += 1
    return whole[:common], whole[common:]


class ContinuationScorer:
    """Scores continuations by a model.

    Args:
      rows: continuations that are scored at the same time, rounded up to what the layout divides.
      layout: of the weights, and of rows, as that of a `Sampler`.
    """

    def __init__(self, config: Model, weights: StepWeights, *, rows: int = 16, layout: Layout = ONE_DEVICE) -> None:
        shards = layout.size("batch")
        self._config, self._weights, self._layout = config, weights, layout
        self._rows = -(-rows // shards) * shards

    def score(
        self, continuations: Sequence[Continuation], report: Callable[[int], None] = lambda scored: None
    ) -> list[TokenScores]:
        """Return the scores of each continuation's tokens, [len(tokens)]. `report` is told how many are new."""
        scores: dict[int, TokenScores] = {}
        for groups in self._batches(continuations):
            prompts = [continuations[group[0]].prompt for group in groups]
            cache = read_prompts(self._config, self._weights, prompts, layout=self._layout)
            owned = [(index, owner) for owner, group in enumerate(groups) for index in group]
            for first in range(0, len(owned), self._rows):
                part = owned[first : first + self._rows]
                chosen = [continuations[index] for index, _ in part]
                new = self._score_rows(cache, chosen, [owner for _, owner in part])
                scores |= dict(zip((index for index, _ in part), new, strict=True))
                report(len(part))
        return [scores[index] for index in range(len(continuations))]

    def _batches(self, continuations: Sequence[Continuation]) -> Iterator[list[list[int]]]:
        """Yield the prompts to read at once, each as the indices of its continuations; the longest come first.

        All continuations of a batch fit into its rows, unless a single prompt has more.
        """
        groups: dict[tuple[tuple[int, ...], int], list[int]] = {}
        for index, (prompt, _) in enumerate(continuations):
            groups.setdefault((tuple(prompt.tokens), prompt.prefix_length), []).append(index)

        def size(group: list[int]) -> tuple[int, int]:
            return len(continuations[group[0]].prompt.tokens), max(len(continuations[i].tokens) for i in group)

        batch: list[list[int]] = []
        for group in sorted(groups.values(), key=size, reverse=True):
            if batch and sum(map(len, batch)) + len(group) > self._rows:
                yield batch
                batch = []
            batch.append(group)
        if batch:
            yield batch

    def _score_rows(
        self, cache: Cache, continuations: Sequence[Continuation], owners: Sequence[int]
    ) -> list[TokenScores]:
        longest = max(len(each.tokens) for each in continuations)
        width = max(_SHORTEST, 1 << (longest - 1).bit_length())
        tokens = np.zeros((self._rows, width + 1), np.int32)
        start, owner = np.zeros(self._rows, np.int32), np.zeros(self._rows, np.int32)
        for row, (prompt, following) in enumerate(continuations):
            tokens[row, : 1 + len(following)] = [prompt.tokens[-1], *following]
            start[row], owner[row] = len(prompt.tokens) - 1, owners[row]
        nll, likeliest = map(
            np.asarray, _score_after(self._config, self._weights, cache, owner, start, tokens, layout=self._layout)
        )
        return [
            TokenScores(nll[row, : len(each.tokens)].astype(np.float64), likeliest[row, : len(each.tokens)])
            for row, each in enumerate(continuations)
        ]


@functools.partial(jax.jit, static_argnums=0, static_argnames=("layout",))
def _score_after(
    config: Model,
    weights: StepWeights,
    cache: Cache,
    owner: jax.Array,
    start: jax.Array,
    tokens: jax.Array,
    *,
    layout: Layout,
) -> tuple[jax.Array, jax.Array]:
    """Score all but the first of `tokens` int32 [B, T + 1], which is the last one of the prompt `owner` int32 [B].

    Returns:
      The nats of each token float32 [B, T], and whether it is the likeliest one, bool [B, T].
    """
    own = jax.tree.map(lambda part: layout.constrain(part[owner], "batch", "kv", None, None), cache)
    recent = empty_cache(config, tokens.shape[0], tokens.shape[1] - 1)
    hidden, _ = step(config, weights, own, recent, tokens[:, :-1], start, layout=layout)

    def score(row: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        hidden, targets = row  # one row at a time, because its logits are [T, V]
        logits = step_logits(config, weights, hidden)
        picked = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
        return jax.nn.logsumexp(logits, axis=-1) - picked, jnp.argmax(logits, axis=-1) == targets

    nll, likeliest = jax.lax.map(score, (hidden, tokens[:, 1:]))
    return layout.constrain(nll, None, None), layout.constrain(likeliest, None, None)
