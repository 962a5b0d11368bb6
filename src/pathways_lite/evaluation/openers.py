"""Causal loss by what opens a document, its own or a mode token, and by position: its first tokens, and the rest.

Every example of UL2R begins with a mode token, so that training no longer shows EOD (or BOS) as an opener. A rise of
the causal loss behind it can therefore be the opener's; a model is judged by the opener that it reads best.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pathways_lite.batch import Batch
from pathways_lite.evaluation.bits import Evaluator, ScoredDocument, pack_windows, windows_to_batch
from pathways_lite.evaluation.paired import clustered_mean
from pathways_lite.objectives.denoisers import ExampleFormat
from pathways_lite.objectives.prompts import PromptFormat

FIRST_TOKENS = 16
"""Predictions of a document that count as its first."""
BEST = "best"


def openers(prompt_format: PromptFormat) -> dict[str, int]:
    """Return the tokens that can open a text to be read from left to right: EOD or BOS, and a mode token if any.

    The mode is that of the prefix LM, which reads like a causal model after its prefix; without one the first mode.
    """
    special, denoisers = prompt_format.special, prompt_format.denoisers
    modes = [d.mode for d in denoisers if d.mode is not None and d.format is ExampleFormat.PREFIX]
    modes += [d.mode for d in denoisers if d.mode is not None]
    own = "eod" if special.frame.closes is None else "bos"
    return {own: special.frame.opens, **({modes[0]: special.id(modes[0])} if modes else {})}


def score_openers(
    evaluator: Evaluator,
    params: Any,
    documents: Sequence[ScoredDocument],
    openers: Mapping[str, int],
    *,
    between_batches: Callable[[int, int], None] | None = None,
) -> dict[str, list[np.ndarray]]:
    """Score `documents` from left to right behind each of `openers`; behind the first it is the held-out loss.

    A mode token stands in the place of the document's own, and in that of the token before each later window of a long
    document, as in training.

    Returns:
      By opener the nats of each document's predictions, float64.
    """
    return {
        name: _score_documents(evaluator, params, documents, token if number else None, between_batches)
        for number, (name, token) in enumerate(openers.items())
    }


def summarize_openers(nll: Mapping[str, Sequence[np.ndarray]]) -> dict[str, dict[str, Any]]:
    """Average what `score_openers` returned for some documents, one or more.

    Returns:
      By opener, and as `best` for the one with the lowest loss (`opener`: its name): `loss`, `first_16_loss` of the
      first 16 predictions of a document, `rest_loss` (nats per token), with `tokens`, `first_16_tokens`, `rest_tokens`,
      and `documents`. For all but the first, `difference` from it and `standard_error` over documents (left out for
      one). A loss of no tokens is left out.
    """
    results: dict[str, dict[str, Any]] = {}
    own = next(iter(nll))
    for name, losses in nll.items():
        results[name] = _summarize(losses)
        if name != own:
            document = np.repeat(np.arange(len(losses)), [len(values) for values in losses])
            difference, error = clustered_mean(np.concatenate(losses) - np.concatenate(nll[own]), document)
            results[name] |= {"difference": difference} | ({} if np.isnan(error) else {"standard_error": error})
    best = min(results, key=lambda name: float(results[name]["loss"]))
    return results | {BEST: {"opener": best, **_summarize(nll[best])}}


def _summarize(losses: Sequence[np.ndarray]) -> dict[str, Any]:
    """Average the nats of each document's predictions: all, the first ones and the others."""
    first = np.concatenate([values[:FIRST_TOKENS] for values in losses])
    rest = np.concatenate([values[FIRST_TOKENS:] for values in losses])
    result: dict[str, Any] = {"documents": len(losses)}
    parts = {"": np.concatenate([first, rest]), f"first_{FIRST_TOKENS}_": first, "rest_": rest}
    for part, values in parts.items():
        if len(values):
            result[f"{part}loss"] = float(values.mean())
        result[f"{part}tokens"] = len(values)
    return result


def _score_documents(
    evaluator: Evaluator,
    params: Any,
    documents: Sequence[ScoredDocument],
    opener: int | None,
    between_batches: Callable[[int, int], None] | None,
) -> list[np.ndarray]:
    """Return the nats of each document's predictions, in order; `opener` replaces the first token of each window."""
    windows, owner = [], []
    for number, document in enumerate(documents):
        for window in document.windows(evaluator.seq_len):
            tokens = window.tokens if opener is None else np.append(np.int32(opener), window.tokens[1:])
            windows.append(window._replace(tokens=tokens))
            owner.append(number)
    rows = pack_windows([len(window.tokens) for window in windows], evaluator.seq_len)
    chunks = [rows[first : first + evaluator.rows] for first in range(0, len(rows), evaluator.rows)]

    def batches() -> Iterator[Batch]:
        for chunk in chunks:
            yield windows_to_batch([[windows[i] for i in row] for row in chunk], evaluator.rows, evaluator.seq_len)

    nll: list[np.ndarray] = [np.zeros(0)] * len(windows)
    scored = evaluator.losses(params, batches(), len(chunks), between_batches=between_batches)
    for chunk, (_, losses) in zip(chunks, scored, strict=True):
        for row, indices in zip(losses, chunk, strict=False):
            column = 0
            for index in indices:
                nll[index] = row[column : column + len(windows[index].tokens)]
                column += len(windows[index].tokens)
    by_document: list[list[np.ndarray]] = [[] for _ in documents]
    for number, losses in zip(owner, nll, strict=True):
        by_document[number].append(losses)
    return [np.concatenate(losses) for losses in by_document]
