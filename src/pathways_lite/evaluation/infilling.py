"""Infilling and prefix-LM scores: fill gaps in held-out text, and continue it from a prefix that is read as a whole.

A gap is some tokens of a held-out document. The model is asked for it in the format that its objective taught it. An
exact match means that greedy decoding would write the gap's tokens and then end the gap, given the right answers to the
gaps before it. The likelihood of the gap's tokens is compared with that of the same tokens read from left to right,
without the text after them, as a causal model reads them.
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
from pathways_lite.keyed import derive_keys, random_words
from pathways_lite.objectives.denoisers import ExampleFormat
from pathways_lite.objectives.prompts import Prompt, PromptFormat, left_to_right
from pathways_lite.objectives.span_corruption import random_partition
from pathways_lite.recipe import Mode, Model

# ---- scores of given answers to given prompts ----

_BATCH_ROWS = 8


class TokenScores(NamedTuple):
    """Scores of an answer's tokens, each given the prompt and the tokens before it; [len(answer)]."""

    nll: np.ndarray  # nats, float64
    likeliest: np.ndarray  # bool: greedy decoding would write this token


def score_tokens(
    config: Model, params: Any, pairs: Sequence[tuple[Prompt, Sequence[int]]], seq_len: int
) -> list[TokenScores]:
    """Score (prompt, answer) pairs, each of at most `seq_len` + 1 tokens, in batches of one shape."""
    results = []
    for first in range(0, len(pairs), _BATCH_ROWS):
        batch = pairs[first : first + _BATCH_ROWS]
        arrays = _to_arrays(batch, seq_len)
        nll, likeliest = (np.asarray(x) for x in _score(config, params, *arrays))
        for row, (prompt, answer) in enumerate(batch):
            predictions = slice(len(prompt.tokens) - 1, len(prompt.tokens) - 1 + len(answer))
            results.append(TokenScores(nll[row, predictions].astype(np.float64), likeliest[row, predictions]))
    return results


def _to_arrays(pairs: Sequence[tuple[Prompt, Sequence[int]]], seq_len: int) -> tuple[np.ndarray, np.ndarray, Spans]:
    """Return tokens, targets and spans [_BATCH_ROWS, seq_len]."""
    windows = np.zeros((_BATCH_ROWS, seq_len + 1), np.int32)
    prefix_length = np.zeros(_BATCH_ROWS, np.int32)
    for row, (prompt, answer) in enumerate(pairs):
        tokens = [*prompt.tokens, *answer]
        if len(tokens) > seq_len + 1:
            raise ValueError(
                f"a prompt of {len(prompt.tokens)} and an answer of {len(answer)} exceed {seq_len + 1} tokens"
            )
        windows[row, : len(tokens)] = tokens
        prefix_length[row] = prompt.prefix_length
    return windows[:, :-1], windows[:, 1:], prefix(full(_BATCH_ROWS, seq_len), prefix_length)


@partial(jax.jit, static_argnums=0)
def _score(
    config: Model, params: Any, tokens: jax.Array, targets: jax.Array, spans: Spans
) -> tuple[jax.Array, jax.Array]:
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    hidden = models.apply(config, params, tokens, positions, spans)

    def score_row(row: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Score one row at a time, because its logits are [T, V]."""
        hidden, targets = row
        logits = models.logits(config, params, hidden)
        nll = jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
        return nll, jnp.argmax(logits, axis=-1) == targets

    return jax.lax.map(score_row, (hidden, targets))


# ---- tasks: gaps and continuations ----


class GapTask(NamedTuple):
    """The gaps that are cut out of each document."""

    n_gaps: int
    gap_length: int  # tokens


TASKS = {"single": GapTask(1, 8), "several": GapTask(4, 3)}
LEFT_TO_RIGHT = "Left to right: the same tokens, by the same model, given only the text before them."
_MIN_TOKENS = 32  # of a document, so that there is text around the gaps


def evaluate_infilling(
    config: Model, params: Any, prompt_format: PromptFormat, documents: Sequence[np.ndarray], seq_len: int
) -> dict[str, dict[str, float]]:
    """Evaluate each of `TASKS` over `documents` (int32 tokens, EOD first), those with at least 32 tokens.

    A task is left out if the model cannot be asked to fill that many gaps, or if no document is long enough.

    Returns:
      By task: `exact` (fraction of the gaps), `loss` and `loss_left_to_right` (nats per token of the gaps), `gaps`
      (their number).
    """
    results = {}
    for name, task in TASKS.items():
        if not prompt_format.can_fill(task.n_gaps):
            continue
        split = [_split_text(document[1:], number, task, seq_len) for number, document in enumerate(documents)]
        long_enough = [stretches for stretches in split if stretches is not None]
        if long_enough:
            results[name] = _evaluate_task(config, params, prompt_format, long_enough, seq_len)
    return results


def evaluate_prefix(
    config: Model, params: Any, prompt_format: PromptFormat, documents: Sequence[np.ndarray], seq_len: int
) -> dict[str, float]:
    """Evaluate the loss of each document's second half given its first, which is read as a prefix.

    `loss_left_to_right` is that of the same halves with causal attention. Empty for a model without a prefix LM.
    """
    modes = [denoiser.mode for denoiser in prompt_format.denoisers if denoiser.format is ExampleFormat.PREFIX]
    mode: Mode | None = "s2s" if "s2s" in modes or not modes else modes[0]
    halves = [np.array_split(document[1 : seq_len + 1], 2) for document in documents if len(document) > _MIN_TOKENS]
    if not halves or not modes:
        return {}
    with_prefix = [(prompt_format.continuation(first.tolist(), mode), second.tolist()) for first, second in halves]
    causal = [(left_to_right(first.tolist(), prompt_format.special.eod), second.tolist()) for first, second in halves]
    nll, nll_left_to_right = (
        np.concatenate([scores.nll for scores in score_tokens(config, params, pairs, seq_len)])
        for pairs in (with_prefix, causal)
    )
    return {"loss": float(nll.mean()), "loss_left_to_right": float(nll_left_to_right.mean()), "tokens": len(nll)}


def _split_text(text: np.ndarray, number: int, task: GapTask, seq_len: int) -> list[list[int]] | None:
    """Split the beginning of a text into stretches [text, gap, text, .., text], with the gaps at random places.

    `number` is the document's, the only source of randomness. None if the text is too short.
    """
    # A gap takes two sentinels and an end token; 4 more for the other special tokens.
    n_tokens = min(len(text), seq_len + 1 - 3 * task.n_gaps - 4)
    if n_tokens < max(_MIN_TOKENS, 2 * task.n_gaps * task.gap_length):
        return None
    clean_tokens = n_tokens - task.n_gaps * task.gap_length
    random = random_words(derive_keys("infilling", 0, np.array([number])), 0, np.arange(clean_tokens))
    clean_lengths = random_partition(np.array([clean_tokens]), np.array([task.n_gaps + 1]), random).tolist()
    sizes = [size for length in clean_lengths for size in (length, task.gap_length)][:-1]
    return [stretch.tolist() for stretch in np.split(text[:n_tokens], np.cumsum(sizes)[:-1])]


def _evaluate_task(
    config: Model, params: Any, prompt_format: PromptFormat, texts: Sequence[list[list[int]]], seq_len: int
) -> dict[str, float]:
    """Evaluate one task over texts from `_split_text`."""
    prompts = [prompt_format.infill(stretches[::2]) for stretches in texts]
    answers = [
        [*prompt_format.expected_answer(stretches[1::2]), prompt.end]
        for prompt, stretches in zip(prompts, texts, strict=True)
    ]
    scores = score_tokens(config, params, list(zip(prompts, answers, strict=True)), seq_len)
    gap_scores = [
        gap_score
        for stretches, answer, answer_scores in zip(texts, answers, scores, strict=True)
        for gap_score in _score_gaps(stretches[1::2], answer, answer_scores)
    ]
    start = left_to_right([], prompt_format.special.eod)
    whole_texts = [(start, [token for stretch in stretches for token in stretch]) for stretches in texts]
    causal_scores = score_tokens(config, params, whole_texts, seq_len)
    causal_nll = [
        text_scores.nll[_is_in_gap(stretches)] for stretches, text_scores in zip(texts, causal_scores, strict=True)
    ]
    return {
        "exact": float(np.mean([exact for _, exact in gap_scores])),
        "loss": float(np.concatenate([nll for nll, _ in gap_scores]).mean()),
        "loss_left_to_right": float(np.concatenate(causal_nll).mean()),
        "gaps": len(gap_scores),
    }


def _score_gaps(gaps: Sequence[list[int]], answer: Sequence[int], scores: TokenScores) -> list[tuple[np.ndarray, bool]]:
    """Return for every gap its tokens' nats, and whether greedy decoding would fill and end it exactly."""
    gap_scores, begin = [], 0
    for gap in gaps:
        while list(answer[begin : begin + len(gap)]) != gap:  # skip special tokens
            begin += 1
        stop = begin + len(gap)
        gap_scores.append((scores.nll[begin:stop], bool(scores.likeliest[begin : stop + 1].all())))
        begin = stop
    return gap_scores


def _is_in_gap(stretches: Sequence[list[int]]) -> np.ndarray:
    """Return for each token of the whole text whether it is in a gap."""
    return np.repeat(np.arange(len(stretches)) % 2 == 1, [len(stretch) for stretch in stretches])
