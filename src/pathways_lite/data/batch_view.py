"""Rows of a batch for people: which text each row holds, what of it is given and what is predicted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pathways_lite.data.pipeline import DataStream
from pathways_lite.data.reading import BatchSource, DocumentPart, documents_between
from pathways_lite.data.token_texts import token_texts
from pathways_lite.data.tokenizers import Tokenizer
from pathways_lite.document_frame import DocumentFrame
from pathways_lite.recipe import Causal

Role = Literal["input", "predicted"]


@dataclass(frozen=True)
class Stretch:
    """Consecutive tokens of an example that are given to the model, or that it has to predict.

    A token is predicted where the position before it carries loss. Special tokens have names: `⟨eod⟩`, or `⟨bos⟩` and
    `⟨eos⟩`.
    """

    example: int  # counted in the row
    role: Role
    text: str


@dataclass(frozen=True)
class RowView:
    """A row of a batch. The arrays have an entry per position [T]; see `batch.Batch`."""

    row: int
    example: int
    epoch: int
    domain: str
    window: int
    start: int  # the window is the tokens [start, stop) of the domain's stream
    stop: int
    documents: list[DocumentPart]
    stretches: list[Stretch]
    tokens: list[int]
    targets: list[int]
    loss_weights: list[float]
    positions: list[int]
    span_start: list[int]
    span_stop: list[int]
    offsets: list[int]


def view_rows(stream: DataStream, source: BatchSource, rows: Sequence[int]) -> Iterator[RowView]:
    """Yield the view of each of the `rows` of a batch of `stream`."""
    store, length = stream.store, source.rows.length
    tokenizer, names = store.tokenizer(), special_names(stream)
    batch = source.batch
    for row in rows:
        domain, start = store.domains[int(source.rows.domain[row])], int(source.rows.first_token[row])
        arrays: dict[str, Any] = {
            "tokens": batch.tokens[row],
            "targets": batch.targets[row],
            "loss_weights": batch.loss_weights[row],
            "positions": batch.positions[row],
            "span_start": batch.spans.start[row],
            "span_stop": batch.spans.stop[row],
            "offsets": source.offsets[row],
        }
        yield RowView(
            row=row,
            example=int(source.rows.example[row]),
            epoch=int(source.rows.epoch[row]),
            domain=domain,
            window=start // stream.data.seq_len,
            start=start,
            stop=start + length + 1,
            documents=list(documents_between(store, domain, start, start + length + 1)),
            stretches=list(_stretches(tokenizer, names, arrays)),
            **{name: values.tolist() for name, values in arrays.items()},
        )


def special_names(stream: DataStream) -> dict[int, str]:
    """Return the names of the tokens around documents and of the objective's special tokens, by id."""
    names = frame_names(stream.store.frame)
    objective = stream.objective
    if isinstance(objective, Causal) or objective.tokens is None:
        return names
    special = {token: f"⟨{name}⟩" for name, token in objective.tokens.named_ids.items()}
    sentinels = {token: f"⟨sentinel {number}⟩" for number, token in enumerate(objective.tokens.sentinel_ids)}
    return {**sentinels, **special, **names}


def frame_names(frame: DocumentFrame) -> dict[int, str]:
    """Return the names of the tokens around documents, by id."""
    return {frame.opens: "⟨eod⟩"} if frame.closes is None else {frame.opens: "⟨bos⟩", frame.closes: "⟨eos⟩"}


def _stretches(tokenizer: Tokenizer, names: dict[int, str], arrays: dict[str, Any]) -> Iterator[Stretch]:
    """Yield the stretches of a row, without its padding."""
    tokens, weights, positions = arrays["tokens"], arrays["loss_weights"], arrays["positions"]
    is_used = (weights > 0) | (arrays["span_stop"] - arrays["span_start"] > 1)
    begins = [int(i) for i in np.flatnonzero(is_used & (positions == 0))] or [0]
    if begins[0] and is_used[0]:
        begins.insert(0, 0)
    for example, (begin, end) in enumerate(zip(begins, [*begins[1:], len(tokens)], strict=True)):
        stop = begin + int(is_used[begin:end].sum())
        if stop == begin:
            continue
        ids = [*tokens[begin:stop].tolist(), int(arrays["targets"][stop - 1])]
        texts = _texts(tokenizer, names, ids)
        is_predicted = [False, *(weights[begin:stop] > 0).tolist()]
        if not is_predicted[-1]:  # nothing is predicted after the last token
            texts, is_predicted = texts[:-1], is_predicted[:-1]
        yield from _group(example, texts, is_predicted)


def _group(example: int, texts: Sequence[str], is_predicted: Sequence[bool]) -> Iterator[Stretch]:
    first = 0
    for i in range(1, len(texts) + 1):
        if i == len(texts) or is_predicted[i] != is_predicted[first]:
            yield Stretch(example, "predicted" if is_predicted[first] else "input", "".join(texts[first:i]))
            first = i


def _texts(tokenizer: Tokenizer, names: dict[int, str], ids: list[int]) -> list[str]:
    """Return the text of each token; stretches between special tokens are decoded together."""
    texts: list[str] = []
    run: list[int] = []
    for token in ids:
        if token in names:
            texts += [*token_texts(tokenizer, run), names[token]]
            run = []
        else:
            run.append(token)
    return texts + token_texts(tokenizer, run)
