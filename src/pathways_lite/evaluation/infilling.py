"""Infilling and prefix-LM scores: fill gaps in held-out text, and continue it from a prefix that is read as a whole.

A gap is some tokens of a held-out document. The model is asked for it in the format that its objective taught it. An
exact match means that greedy decoding would write the gap's tokens and then end the gap, given the right answers to the
gaps before it. Each token of a gap is paired with itself read from left to right by the same model, without the text
after it, as a causal model reads it; their mean difference has a standard error over documents.

The gaps are cut in the same places for every model, in all windows of all documents; training need not have shown so
many, or such long ones. Gaps as in training are in `evaluation.as_trained`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from pathways_lite.evaluation.paired import GapScores, PairedLosses, join_pairs
from pathways_lite.evaluation.token_scores import Score, TokenScores, score_answers
from pathways_lite.keyed import derive_keys, random_words
from pathways_lite.objectives.denoisers import ExampleFormat
from pathways_lite.objectives.prompts import Prompt, PromptFormat
from pathways_lite.objectives.span_corruption import random_partition
from pathways_lite.recipe import Mode


class GapTask(NamedTuple):
    """The gaps that are cut out of each window of a document."""

    n_gaps: int
    gap_length: int  # tokens


TASKS = {"single": GapTask(1, 8), "several": GapTask(4, 3)}
LEFT_TO_RIGHT = "Left to right: the same tokens, by the same model, given only the text before them."
_MIN_TOKENS = 32  # of a window, so that there is text around the gaps


class Piece(NamedTuple):
    """A stretch of a document."""

    document: int
    window: int  # number in the document
    before: int  # the token before it, in the document
    text: np.ndarray


def score_gaps(
    score: Score, prompt_format: PromptFormat, documents: Sequence[np.ndarray], seq_len: int, opener: int
) -> dict[str, GapScores]:
    """Score each of `TASKS` over all windows of `documents` (int32, [opening token, t1 .. tn]) of at least 32 tokens.

    A task is left out if the model cannot be asked to fill that many gaps, or if no document is long enough. `opener`
    opens a text that is read from left to right (`evaluation.openers`).
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
            results[name] = _score_task(score, prompt_format, texts, seq_len, opener)
    return results


def score_continuations(
    score: Score, prompt_format: PromptFormat, documents: Sequence[np.ndarray], seq_len: int, opener: int
) -> GapScores | None:
    """Score each window's second half given its first, read as a prefix; None for a model without a prefix LM."""
    modes = [denoiser.mode for denoiser in prompt_format.denoisers if denoiser.format is ExampleFormat.PREFIX]
    mode: Mode | None = "s2s" if "s2s" in modes or not modes else modes[0]
    pieces = [piece for piece in _pieces(documents, seq_len) if len(piece.text) >= _MIN_TOKENS]
    if not pieces or not modes:
        return None
    halves = [np.array_split(piece.text, 2) for piece in pieces]
    with_prefix = [(prompt_format.continuation(first.tolist(), mode), second.tolist()) for first, second in halves]
    scores = score_answers(score, with_prefix, seq_len)
    causal_nll = _left_to_right(score, prompt_format, pieces, seq_len, opener)
    pairs = [
        _pair(scored.nll, nll[-len(scored.nll) :], piece)
        for piece, scored, nll in zip(pieces, scores, causal_nll, strict=True)
    ]
    return GapScores(join_pairs(pairs), np.zeros(0, bool), np.zeros(0, int), {})


def _pieces(documents: Sequence[np.ndarray], length: int) -> Iterator[Piece]:
    """Cut each document (the opening token first) into pieces of at most `length` tokens of its text."""
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


def _score_task(
    score: Score, prompt_format: PromptFormat, texts: Sequence[tuple[Piece, list[list[int]]]], seq_len: int, opener: int
) -> GapScores:
    """Score one task over pieces and their stretches from `_split_text`."""
    prompts = [prompt_format.infill(stretches[:-1:2]) for _, stretches in texts]
    gaps = [stretches[1:-1:2] for _, stretches in texts]
    answers = [
        [*prompt_format.expected_answer(text_gaps), prompt.end] for prompt, text_gaps in zip(prompts, gaps, strict=True)
    ]
    scores = score_answers(score, list(zip(prompts, answers, strict=True)), seq_len)
    causal_nll = _left_to_right(score, prompt_format, [piece for piece, _ in texts], seq_len, opener)
    pairs, exact, exact_document = [], list[bool](), list[int]()
    for (piece, stretches), text_gaps, answer, answer_scores, nll in zip(
        texts, gaps, answers, scores, causal_nll, strict=True
    ):
        gap_scores = _score_answered_gaps(text_gaps, answer, answer_scores)
        exact += [is_exact for _, is_exact in gap_scores]
        exact_document += [piece.document] * len(gap_scores)
        pairs.append(_pair(np.concatenate([gap for gap, _ in gap_scores]), nll[_is_in_gap(stretches)], piece))
    return GapScores(join_pairs(pairs), np.array(exact), np.array(exact_document), {})


def _left_to_right(
    score: Score, prompt_format: PromptFormat, pieces: Sequence[Piece], seq_len: int, opener: int
) -> list[np.ndarray]:
    """Return the nats of each piece's tokens, read from left to right after the token before it, or a mode token."""
    frame = prompt_format.special.frame
    starts = [piece.before if opener == frame.opens else opener for piece in pieces]
    pairs = [(Prompt([start], 0, frame.end), piece.text.tolist()) for start, piece in zip(starts, pieces, strict=True)]
    return [scores.nll for scores in score_answers(score, pairs, seq_len)]


def _pair(nll: np.ndarray, left_to_right: np.ndarray, piece: Piece) -> PairedLosses:
    return PairedLosses(nll, left_to_right, np.full(len(nll), piece.document))


def _score_answered_gaps(
    gaps: Sequence[list[int]], answer: Sequence[int], scores: TokenScores
) -> list[tuple[np.ndarray, bool]]:
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
