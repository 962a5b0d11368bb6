"""What denoising is for: filling gaps in held-out text, and continuing it from a prefix that is read as a whole.

A gap is some tokens of a held-out document. The model is asked for it in the form that its objective taught it. Exact:
greedy decoding would write the gap's tokens and then end it, given the right answers to the gaps before it. Next to the
likelihood of the gap's tokens stands that of the same tokens read from left to right, without what follows them: what a
causal model can do.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pathways_kernels.attention import Spans
from pathways_kernels.attention.spans import full, prefix
from pathways_lite import models
from pathways_lite.keyed import keys, words
from pathways_lite.objectives.denoisers import ExampleFormat
from pathways_lite.objectives.prompts import Prompt, PromptFormat, left_to_right
from pathways_lite.objectives.span_corruption import random_partition
from pathways_lite.recipe import Mode, Model

# How a model scores given answers to given prompts: likelihood of every token, and whether it is the likeliest.


_ROWS = 8


class TokenScores(NamedTuple):
    """Of an answer's tokens, each given the prompt and those before it; [len(answer)]."""

    nll: np.ndarray  # nats, float64
    likeliest: np.ndarray  # bool: greedy decoding would have written it


def score_tokens(
    config: Model, params: Any, pairs: Sequence[tuple[Prompt, Sequence[int]]], seq_len: int
) -> list[TokenScores]:
    """Score (prompt, answer) pairs of at most `seq_len` + 1 tokens together, in batches of one shape."""
    results = []
    for first in range(0, len(pairs), _ROWS):
        some = pairs[first : first + _ROWS]
        arrays = _rows(some, seq_len)
        nll, likeliest = (np.asarray(x) for x in _score(config, params, *arrays))
        for row, (prompt, answer) in enumerate(some):
            here = slice(len(prompt.tokens) - 1, len(prompt.tokens) - 1 + len(answer))
            results.append(TokenScores(nll[row, here].astype(np.float64), likeliest[row, here]))
    return results


def _rows(pairs: Sequence[tuple[Prompt, Sequence[int]]], seq_len: int) -> tuple[np.ndarray, np.ndarray, Spans]:
    """Tokens, targets and spans [_ROWS, seq_len]."""
    whole = np.zeros((_ROWS, seq_len + 1), np.int32)
    together = np.zeros(_ROWS, np.int32)
    for row, (prompt, answer) in enumerate(pairs):
        tokens = [*prompt.tokens, *answer]
        if len(tokens) > seq_len + 1:
            raise ValueError(
                f"a prompt of {len(prompt.tokens)} and an answer of {len(answer)} exceed {seq_len + 1} tokens"
            )
        whole[row, : len(tokens)] = tokens
        together[row] = prompt.prefix_length
    return whole[:, :-1], whole[:, 1:], prefix(full(_ROWS, seq_len), together)


@partial(jax.jit, static_argnums=0)
def _score(
    config: Model, params: Any, tokens: jax.Array, targets: jax.Array, spans: Spans
) -> tuple[jax.Array, jax.Array]:
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    hidden = models.apply(config, params, tokens, positions, spans)

    def row(of: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """One row at a time, as its logits are [T, V]."""
        logits = models.logits(config, params, of[0])
        nll = jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, of[1][:, None], axis=-1)[:, 0]
        return nll, jnp.argmax(logits, axis=-1) == of[1]

    return jax.lax.map(row, (hidden, targets))


class GapTask(NamedTuple):
    """How many gaps a document gets, and of how many tokens."""

    number: int
    length: int


TASKS = {"single": GapTask(1, 8), "several": GapTask(4, 3)}
LEFT_TO_RIGHT = "Left to right: the same tokens, by the same model, given only what is before them."
_SHORTEST = 32  # tokens of a document, so that there is something around the gaps


def evaluate_infilling(
    config: Model, params: Any, prompt_format: PromptFormat, documents: Sequence[np.ndarray], seq_len: int
) -> dict[str, dict[str, float]]:
    """By task, over `documents` (int32 tokens, EOD first), of which those with at least 32 tokens count.

    `exact` (share of the gaps), `loss` and `loss_left_to_right` (nats per token of the gaps), `gaps`. Left out are
    tasks of more gaps than the model can be asked to fill, and those that no document is long enough for.
    """
    results = {}
    for name, task in TASKS.items():
        if not prompt_format.can_fill(task.number):
            continue
        split = [_split(document[1:], number, task, seq_len) for number, document in enumerate(documents)]
        chosen = [parts for parts in split if parts is not None]
        if chosen:
            results[name] = _one_task(config, params, prompt_format, chosen, seq_len)
    return results


def evaluate_prefix(
    config: Model, params: Any, prompt_format: PromptFormat, documents: Sequence[np.ndarray], seq_len: int
) -> dict[str, float]:
    """Loss of each document's second half given its first, read as a whole and (`loss_left_to_right`) as a text."""
    modes = [denoiser.mode for denoiser in prompt_format.denoisers if denoiser.format is ExampleFormat.PREFIX]
    mode: Mode | None = "s2s" if "s2s" in modes or not modes else modes[0]
    halves = [np.array_split(document[1 : seq_len + 1], 2) for document in documents if len(document) > _SHORTEST]
    if not halves or not modes:
        return {}
    asked = [(prompt_format.continuation(first.tolist(), mode), second.tolist()) for first, second in halves]
    plain = [(left_to_right(first.tolist(), prompt_format.special.eod), second.tolist()) for first, second in halves]
    both = [np.concatenate([s.nll for s in score_tokens(config, params, pairs, seq_len)]) for pairs in (asked, plain)]
    return {"loss": float(both[0].mean()), "loss_left_to_right": float(both[1].mean()), "tokens": len(both[0])}


def _split(text: np.ndarray, number: int, task: GapTask, seq_len: int) -> list[list[int]] | None:
    """Text, gap, text, .., text: the beginning of a document, its gaps at random; None for a document too short."""
    room = seq_len + 1 - 3 * task.number - 4  # for sentinels at both places, ends of gaps, and what surrounds all
    n = min(len(text), room)
    if n < max(_SHORTEST, 2 * task.number * task.length):
        return None
    clean = n - task.number * task.length
    random = words(keys("infilling", 0, np.array([number])), 0, np.arange(clean))
    lengths = random_partition(np.array([clean]), np.array([task.number + 1]), random).tolist()
    sizes = [size for length in lengths for size in (length, task.length)][:-1]
    return [part.tolist() for part in np.split(text[:n], np.cumsum(sizes)[:-1])]


def _one_task(
    config: Model, params: Any, prompt_format: PromptFormat, texts: Sequence[list[list[int]]], seq_len: int
) -> dict[str, float]:
    prompts = [prompt_format.infill(parts[::2]) for parts in texts]
    pairs = [(p, [*prompt_format.expected_answer(parts[1::2]), p.end]) for p, parts in zip(prompts, texts, strict=True)]
    found = score_tokens(config, params, pairs, seq_len)
    of_gaps = [
        gap
        for parts, (_, answer), scored in zip(texts, pairs, found, strict=True)
        for gap in _of_gaps(parts[1::2], answer, scored)
    ]
    whole = [[token for part in parts for token in part] for parts in texts]
    plain = score_tokens(
        config, params, [(left_to_right([], prompt_format.special.eod), tokens) for tokens in whole], seq_len
    )
    left = [scored.nll[_in_gaps(parts)] for parts, scored in zip(texts, plain, strict=True)]
    return {
        "exact": float(np.mean([exact for _, exact in of_gaps])),
        "loss": float(np.concatenate([nll for nll, _ in of_gaps]).mean()),
        "loss_left_to_right": float(np.concatenate(left).mean()),
        "gaps": len(of_gaps),
    }


def _of_gaps(gaps: Sequence[list[int]], answer: Sequence[int], scored: TokenScores) -> list[tuple[np.ndarray, bool]]:
    """Of every gap its tokens' nats, and whether it would be filled and ended exactly."""
    found, at = [], 0
    for gap in gaps:
        while list(answer[at : at + len(gap)]) != gap:  # past special tokens
            at += 1
        stop = at + len(gap)
        found.append((scored.nll[at:stop], bool(scored.likeliest[at : stop + 1].all())))
        at = stop
    return found


def _in_gaps(parts: Sequence[list[int]]) -> np.ndarray:
    """Which tokens of the whole text are in gaps."""
    return np.repeat(np.arange(len(parts)) % 2 == 1, [len(part) for part in parts])
