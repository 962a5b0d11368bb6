"""Infilling and prefix-LM scores: fill gaps in held-out text, and continue it from a prefix that is read as a whole.

A gap is some tokens of a held-out document. The model is asked for it in the format that its objective taught it. An
exact match means that greedy decoding would write the gap's tokens and then end the gap, given the right answers to the
gaps before it. Each token of a gap is paired with itself read from left to right by the same model, without the text
after it, as a causal model reads it; their mean difference has a standard error over documents.

Gaps are those of the objective's own training examples (`evaluate_as_trained`), or cut in the same places for every
model (`evaluate_infilling`), whose number and length training need not have shown. All windows of all documents are
used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from pathways_lite.evaluation.denoisers import join_windows
from pathways_lite.evaluation.paired import PairedLosses, join_pairs, summarize_pairs
from pathways_lite.evaluation.token_scores import Score, TokenScores, score_answers, score_rows
from pathways_lite.keyed import derive_keys, random_words
from pathways_lite.objectives.batches import TracedBatch, make_traced_batch
from pathways_lite.objectives.causal import Boundaries, causal
from pathways_lite.objectives.denoisers import ExampleFormat
from pathways_lite.objectives.prompts import Prompt, PromptFormat
from pathways_lite.objectives.span_corruption import random_partition
from pathways_lite.recipe import Mode, Objective


class GapTask(NamedTuple):
    """The gaps that are cut out of each window of a document."""

    n_gaps: int
    gap_length: int  # tokens


TASKS = {"single": GapTask(1, 8), "several": GapTask(4, 3)}
AS_TRAINED = "as_trained"
LEFT_TO_RIGHT = "Left to right: the same tokens, by the same model, given only the text before them."
_MIN_TOKENS = 32  # of a window, so that there is text around the gaps
_CHUNK_ROWS = 256  # rows of `evaluate_as_trained` made at once


class Piece(NamedTuple):
    """A stretch of a document."""

    document: int
    window: int  # number in the document
    before: int  # the token before it: EOD, or the document's
    text: np.ndarray


def evaluate_infilling(
    score: Score, prompt_format: PromptFormat, documents: Sequence[np.ndarray], seq_len: int, opener: int
) -> dict[str, dict[str, float]]:
    """Evaluate each of `TASKS` over all windows of `documents` (int32 tokens, EOD first) of at least 32 tokens.

    A task is left out if the model cannot be asked to fill that many gaps, or if no document is long enough. `opener`
    opens a text that is read from left to right (`evaluation.openers`).

    Returns:
      By task what `summarize_pairs` says of the gaps' tokens, `exact` (fraction of the gaps) and `gaps` (their number).
    """
    results = {}
    for name, task in TASKS.items():
        if not prompt_format.can_fill(task.n_gaps):
            continue
        # A gap takes two sentinels and an end token; 4 more for the other special tokens.
        pieces = _pieces(documents, seq_len + 1 - 3 * task.n_gaps - 4)
        split = [(piece, _split_text(piece, task)) for piece in pieces]
        texts = [(piece, stretches) for piece, stretches in split if stretches is not None]
        if texts:
            results[name] = _evaluate_task(score, prompt_format, texts, seq_len, opener)
    return results


def evaluate_prefix(
    score: Score, prompt_format: PromptFormat, documents: Sequence[np.ndarray], seq_len: int, opener: int
) -> dict[str, float]:
    """Evaluate the loss of each window's second half given its first, which is read as a prefix.

    Returns what `summarize_pairs` says of the second halves' tokens; empty for a model without a prefix LM.
    """
    modes = [denoiser.mode for denoiser in prompt_format.denoisers if denoiser.format is ExampleFormat.PREFIX]
    mode: Mode | None = "s2s" if "s2s" in modes or not modes else modes[0]
    pieces = [piece for piece in _pieces(documents, seq_len) if len(piece.text) >= _MIN_TOKENS]
    if not pieces or not modes:
        return {}
    halves = [np.array_split(piece.text, 2) for piece in pieces]
    with_prefix = [(prompt_format.continuation(first.tolist(), mode), second.tolist()) for first, second in halves]
    scores = score_answers(score, with_prefix, seq_len)
    causal_nll = _left_to_right(score, prompt_format, pieces, seq_len, opener)
    pairs = [
        _pair(scored.nll, nll[-len(scored.nll) :], piece)
        for piece, scored, nll in zip(pieces, scores, causal_nll, strict=True)
    ]
    return summarize_pairs(join_pairs(pairs))


def evaluate_as_trained(
    score: Score,
    objective: Objective,
    documents: Sequence[np.ndarray],
    seq_len: int,
    *,
    eod: int,
    opener: int,
    boundaries: Boundaries,
    seed: int,
) -> dict[str, float]:
    """Evaluate the gaps of the training examples that `objective`, a denoiser, makes of held-out documents.

    The documents are joined to one stream and cut into windows, as for `denoiser_losses`. A gap's tokens are those that
    the model predicts having read text that comes after them: not the last span of T5's span corruption, with which the
    text ends. From left to right the same windows are read, without the denoiser.

    Returns:
      What `summarize_pairs` says of the gaps' tokens; `exact` and `gaps`; `content_loss` and `format_loss` with
      `content_tokens` and `format_tokens`, of all tokens of the text with loss and of all others (sentinels, the end).
      Empty if there is no gap.
    """
    windows, document = join_windows(documents, seq_len), _documents_of_windows(documents, seq_len)
    pairs, exact = list[PairedLosses](), list[bool]()
    nll = {"content": 0.0, "format": 0.0}
    tokens = dict.fromkeys(nll, 0)
    for first in range(0, len(windows), _CHUNK_ROWS):
        chunk = windows[first : first + _CHUNK_ROWS]
        example = first + np.arange(len(chunk))
        traced = make_traced_batch(objective, chunk, eod, boundaries, np.zeros_like(example), example, seed)
        batch = traced.batch
        scores = score_rows(score, batch.tokens, batch.targets, batch.positions, batch.spans)
        for part, chosen in {"content": traced.is_content, "format": traced.is_format}.items():
            nll[part] += float(np.sum(scores.nll, where=chosen))
            tokens[part] += int(chosen.sum())
        # Token t of a window is predicted at position t - 1; nothing predicts the first.
        left_to_right = np.full(chunk.shape, np.nan)
        left_to_right[:, 1:] = _read_windows(score, chunk, eod, opener, boundaries)
        gap = traced.follows_later_text
        source = traced.target_source[gap]
        paired = ~np.isnan(left_to_right.flat[source])
        owner = document[first : first + _CHUNK_ROWS].ravel()
        pairs.append(PairedLosses(scores.nll[gap][paired], left_to_right.flat[source[paired]], owner[source[paired]]))
        exact += _exact_gaps(traced, scores.likeliest)
    if not sum(len(pair.nll) for pair in pairs):
        return {}
    parts = {f"{part}_loss": nll[part] / tokens[part] for part in nll if tokens[part]}
    counts = {f"{part}_tokens": count for part, count in tokens.items()}
    return {"exact": float(np.mean(exact)), **summarize_pairs(join_pairs(pairs)), "gaps": len(exact), **parts, **counts}


# ---- as trained ----


def _documents_of_windows(documents: Sequence[np.ndarray], seq_len: int) -> np.ndarray:
    """Return the number of each token's document in the windows of `join_windows`, [n, T + 1]."""
    return join_windows([np.full(len(document), number) for number, document in enumerate(documents)], seq_len)


def _read_windows(score: Score, windows: np.ndarray, eod: int, opener: int, boundaries: Boundaries) -> np.ndarray:
    """Return the nats of windows [B, T + 1] read from left to right, float64 [B, T]."""
    number = np.arange(len(windows))
    batch = causal(windows, eod, boundaries, number, number)
    opens = batch.tokens == eod
    if boundaries == "none":
        opens[:, 1:] = False  # a window is one text, in which EOD is a token like others
    tokens = np.where(opens, np.int32(opener), batch.tokens)
    return score_rows(score, tokens, batch.targets, batch.positions, batch.spans).nll


def _exact_gaps(traced: TracedBatch, likeliest: np.ndarray) -> list[bool]:
    """Return for every gap whether greedy decoding would write its tokens and then what ends it."""
    gap, result = traced.follows_later_text, []
    for row in range(len(gap)):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], gap[row], [False]]).astype(np.int8)))
        for start, stop in edges.reshape(-1, 2):
            # A special token ends a gap, so the position after its last token is still one of the example's.
            result.append(bool(likeliest[row, start : stop + 1].all()))
    return result


# ---- gaps and continuations in windows of a document ----


def _pieces(documents: Sequence[np.ndarray], length: int) -> Iterator[Piece]:
    """Cut each document (EOD first) into pieces of at most `length` tokens of its text."""
    for number, document in enumerate(documents):
        for window, start in enumerate(range(1, len(document), max(1, length))):
            yield Piece(number, window, int(document[start - 1]), document[start : start + max(1, length)])


def _split_text(piece: Piece, task: GapTask) -> list[list[int]] | None:
    """Split a text into stretches [text, gap, text, .., text, tail], with the gaps at random places.

    The tail, as long as a gap, is what the last sentinel of span corruption stands for. The places depend only on the
    numbers of the document and the window. None if the text is too short.
    """
    n_tokens = len(piece.text) - task.gap_length
    if n_tokens < max(_MIN_TOKENS - task.gap_length, 2 * task.n_gaps * task.gap_length):
        return None
    clean_tokens = n_tokens - task.n_gaps * task.gap_length
    key = derive_keys("infilling", piece.window, np.array([piece.document]))
    random = random_words(key, 0, np.arange(clean_tokens))
    clean_lengths = random_partition(np.array([clean_tokens]), np.array([task.n_gaps + 1]), random).tolist()
    sizes = [size for length in clean_lengths for size in (length, task.gap_length)]
    return [stretch.tolist() for stretch in np.split(piece.text, np.cumsum(sizes)[:-1])]


def _evaluate_task(
    score: Score, prompt_format: PromptFormat, texts: Sequence[tuple[Piece, list[list[int]]]], seq_len: int, opener: int
) -> dict[str, float]:
    """Evaluate one task over pieces and their stretches from `_split_text`."""
    prompts = [prompt_format.infill(stretches[:-1:2]) for _, stretches in texts]
    gaps = [stretches[1:-1:2] for _, stretches in texts]
    answers = [
        [*prompt_format.expected_answer(text_gaps), prompt.end] for prompt, text_gaps in zip(prompts, gaps, strict=True)
    ]
    scores = score_answers(score, list(zip(prompts, answers, strict=True)), seq_len)
    causal_nll = _left_to_right(score, prompt_format, [piece for piece, _ in texts], seq_len, opener)
    pairs, exact = [], []
    for (piece, stretches), text_gaps, answer, answer_scores, nll in zip(
        texts, gaps, answers, scores, causal_nll, strict=True
    ):
        gap_scores = _score_gaps(text_gaps, answer, answer_scores)
        exact += [is_exact for _, is_exact in gap_scores]
        pairs.append(_pair(np.concatenate([gap for gap, _ in gap_scores]), nll[_is_in_gap(stretches)], piece))
    return {"exact": float(np.mean(exact)), **summarize_pairs(join_pairs(pairs)), "gaps": len(exact)}


def _left_to_right(
    score: Score, prompt_format: PromptFormat, pieces: Sequence[Piece], seq_len: int, opener: int
) -> list[np.ndarray]:
    """Return the nats of each piece's tokens, read from left to right after the token before it, or a mode token."""
    eod = prompt_format.special.eod
    starts = [piece.before if opener == eod else opener for piece in pieces]
    pairs = [(Prompt([start], 0, eod), piece.text.tolist()) for start, piece in zip(starts, pieces, strict=True)]
    return [scores.nll for scores in score_answers(score, pairs, seq_len)]


def _pair(nll: np.ndarray, left_to_right: np.ndarray, piece: Piece) -> PairedLosses:
    return PairedLosses(nll, left_to_right, np.full(len(nll), piece.document))


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
    """Return for each token of [text, gap, .., text, tail] whether it is in a gap; the tail is none."""
    odd = np.arange(len(stretches)) % 2 == 1
    odd[-1] = False
    return np.repeat(odd, [len(stretch) for stretch in stretches])
