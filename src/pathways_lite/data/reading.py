"""Which step reads which text: the source of every row of a batch, and the rows that read a document.

Both are arithmetic on the data order; nothing is recorded while training. Shapes: B rows, T positions.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pathways_lite.batch import Batch
from pathways_lite.data.order import rows_of_example
from pathways_lite.data.pipeline import BatchRows, DataStream, windows_per_domain
from pathways_lite.data.store import Split, Store
from pathways_lite.errors import UserError, closest_names, did_you_mean
from pathways_lite.recipe import Causal

_COMPARED, _SHOWN = 10_000, 5  # ids that are compared with one that is not there, and shown
_MARK = 1 << 30  # above every token id: marks a token by its index in the windows of a batch


# ---- the rows of a batch ----


@dataclass(frozen=True)
class BatchSource:
    """A batch, and where each of its rows and tokens comes from."""

    batch: Batch
    rows: BatchRows
    offsets: np.ndarray  # [B, T], of each input token in its domain's stream; -1: padding and tokens of no text


def batch_source(stream: DataStream, step: int) -> BatchSource:
    """Return the batch of a step, `stream.batch_at(step)`, with its sources."""
    rows = stream.rows_at(step)
    windows = stream.read_windows(rows)
    batch, first = stream.make_batch(windows, rows), rows.first_token[:, None]
    if isinstance(stream.objective, Causal):  # which copies the window
        offsets = first + np.arange(rows.length)
        return BatchSource(batch, rows, np.where(stream.store.frame.is_frame(batch.tokens), -1, offsets))
    # What an objective does depends on where documents begin and end, not on other tokens: marks show where they go.
    index = np.arange(windows.size, dtype=np.int32).reshape(windows.shape)
    marked = np.where(stream.store.frame.is_frame(windows), windows, _MARK + index).astype(np.int32)
    tokens = stream.make_batch(marked, rows).tokens
    column = (tokens - _MARK) - np.arange(len(windows))[:, None] * windows.shape[1]
    return BatchSource(batch, rows, np.where(tokens >= _MARK, first + column, -1))


@dataclass(frozen=True)
class DocumentPart:
    """Tokens [start, stop) of a training document, counted from the one that opens it, which is token 0."""

    domain: str
    document: int  # its number in the domain
    id: str
    start: int
    stop: int


def documents_between(store: Store, domain: str, start: int, stop: int) -> Iterator[DocumentPart]:
    """Yield the parts of documents in the tokens [start, stop) of a domain's training stream."""
    starts = _Starts(store, domain)
    document = bisect.bisect_right(starts, start) - 1
    while start < stop:
        begin, end = starts[document], min(stop, starts[document + 1])
        name = store.document_id(domain, "train", document)
        yield DocumentPart(domain, document, name, start - begin, end - begin)
        start, document = end, document + 1


class _Starts:
    """The documents' starts in a stream, read one by one: a large corpus has a hundred million."""

    def __init__(self, store: Store, domain: str) -> None:
        self._array = store.array(domain, "train", "starts")
        self._length = store.counts(domain).documents + 1

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> int:
        return int(self._array.read(index, index + 1)[0])


# ---- the rows that read a document ----


@dataclass(frozen=True)
class Read:
    """A row of a step's batch whose window has tokens [start, stop) of a document."""

    step: int
    row: int
    epoch: int
    start: int
    stop: int


def find_document(store: Store, name: str) -> DocumentPart:
    """Find a whole training document by its id, or by `DOMAIN#NUMBER`. Raises UserError where it is not unique."""
    domain, _, number = name.rpartition("#")
    if domain in store.domains and number.isdecimal():
        if int(number) >= (count := store.counts(domain).documents):
            raise UserError(f"{store.address} has {count:,} training documents in {domain!r}, numbered from 0")
        found = [(domain, int(number))]
    else:
        found = [(d, i) for d in store.domains for i in _documents_called(store, d, "train", name)]
    if not found and any(list(_documents_called(store, d, "held_out", name)) for d in store.domains):
        raise UserError(f"{name!r} is a held-out document of {store.address}: no step reads it")
    if not found:
        raise UserError(
            f"{store.address} has no document {name!r}; give an id as `data inspect` and `data batch` show it, or "
            f"DOMAIN#NUMBER.{_similar_documents(store, name)}"
        )
    if len(found) > 1:
        places = ", ".join(f"{d}#{i}" for d, i in found[:5])
        raise UserError(f"{len(found)} documents of {store.address} are called {name!r}; name one of {places}")
    ((domain, document),) = found
    starts = _Starts(store, domain)
    length = starts[document + 1] - starts[document]
    return DocumentPart(domain, document, store.document_id(domain, "train", document), 0, length)


def _similar_documents(store: Store, name: str) -> str:
    """Return a hint at documents that a name may mean: those of a domain with a similar name, or similar ids."""
    _, mark, number = name.rpartition("#")
    if mark and number.isdecimal():
        return did_you_mean(name, [f"{other}#{number}" for other in store.domains])
    ids = [other for each in store.domains for other in store.document_ids(each)]
    alike = [other for other in ids if name.lower() in other.lower()] or closest_names(name, ids[:_COMPARED], _SHOWN)
    if alike:
        return f" Alike are: {', '.join(alike[:_SHOWN])}"
    return f" Ids are such as: {', '.join(ids[:_SHOWN])}" if ids else ""


def _documents_called(store: Store, domain: str, split: Split, name: str) -> Iterator[int]:
    """Yield the numbers of the documents of this id. Their ids are stored as one text."""
    if not store.counts(domain, split).documents or not name:
        return
    text = store.array(domain, split, "ids").read_whole().tobytes()
    starts = store.array(domain, split, "id_starts").read_whole().astype(np.int64)
    key = name.encode()
    place = text.find(key)
    while place >= 0:
        document = int(np.searchsorted(starts, place, side="right")) - 1
        if starts[document] == place and starts[document + 1] == place + len(key):
            yield document
        place = text.find(key, place + 1)


def reads_of(stream: DataStream, steps: int, part: DocumentPart) -> list[Read]:
    """Return the rows of the first `steps` steps that read some of a document's tokens, in order of steps.

    Their windows have the tokens; an objective may leave some of a window out.
    """
    length, store = stream.data.seq_len, stream.store
    begin = _Starts(store, part.domain)[part.document]
    first, stop = begin + part.start, begin + part.stop
    domain = store.domains.index(part.domain)
    n_windows = windows_per_domain(store, length)[domain]
    cursor, timeline = stream.cursor, stream.timeline
    begin_example, end_example = (cursor.end_example(timeline, step) for step in (0, steps))
    reads = []
    for window in range(max(0, -(-(first - length) // length)), min(n_windows, (stop - 1) // length + 1)):
        for example in stream.order.examples_of(domain, window, begin_example, end_example):
            epoch = int(stream.order.locate(np.array([example])).epoch[0])
            for row in rows_of_example(timeline, example, steps, cursor.skips, cursor.first_sequence):
                row_start = window * length + row.offset
                row_stop = row_start + timeline.seq_len_at(row.step) + 1
                if max(first, row_start) < min(stop, row_stop):
                    tokens = max(first, row_start) - begin, min(stop, row_stop) - begin
                    reads.append(Read(row.step, row.row, epoch, *tokens))
    return sorted(reads, key=lambda read: (read.step, read.row))
