"""Batches as a pure function of the step, read ahead by Grain."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from pathways_kernels.attention import Spans
from pathways_lite.batch import Batch
from pathways_lite.data.child_process import end_with_parent
from pathways_lite.data.mixture import MixedOrder, resolve_phases
from pathways_lite.data.order import DataCursor, Order, first_example, locate_rows
from pathways_lite.data.store import Store
from pathways_lite.errors import UserError
from pathways_lite.ledger import Timeline
from pathways_lite.objectives.batches import make_batch
from pathways_lite.parallel.sharding import FULL_BATCH, BatchShard
from pathways_lite.recipe import Causal, Data, Objective


class BatchRows(NamedTuple):
    """Where the rows of a batch come from; integers [B] each, but for their length."""

    length: int  # T, tokens that each row predicts
    example: np.ndarray  # global number of the example that the row is, or is a part of
    epoch: np.ndarray  # of the corpus, or of the domain under a mixture
    domain: np.ndarray
    first_token: np.ndarray  # offset of the row's first token in its domain's stream
    number: np.ndarray  # key of the objective's choices: the example's number, without a warm-up


@dataclass(frozen=True)
class DataStream:
    """The batches of a stage by step: indexable, picklable, without any state of its own.

    Attributes:
      store: the corpus.
      data: sequence length, order and boundaries; its workers, threads and prefetch say how Grain reads.
      timeline: the batch size and sequence length of each step.
      objective: makes a batch from windows of tokens; resolved, so that it knows its special tokens.
      cursor: the example that step 0 begins with, and the sequences that are skipped.
      shard: the rows of each batch that this process reads.
    """

    store: Store
    data: Data
    timeline: Timeline
    objective: Objective = field(default_factory=Causal)
    cursor: DataCursor = field(default_factory=DataCursor)
    shard: BatchShard = FULL_BATCH

    @cached_property
    def order(self) -> Order | MixedOrder:
        """The order of the examples. Raises UserError where the corpus is too small for one sequence."""
        windows, seed = windows_per_domain(self.store, self.data.seq_len), self.data.shuffle_seed
        if (mixture := self.data.mixture) is None:
            return Order(windows, seed, self.data.rs2_fraction or 1.0)
        cursor = self.cursor
        mixed = resolve_phases(mixture, windows, self.store.domains, self.timeline, cursor.skips, cursor.first_sequence)
        return MixedOrder(windows, mixed, seed, cursor.consumed)

    def rows_at(self, step: int) -> BatchRows:
        """Return where this process's rows of the batch of `step` come from."""
        timeline, seq_len, length = self.timeline, self.data.seq_len, self.timeline.seq_len_at(step)
        rows = self.shard.rows(timeline.sequences_at(step))
        example, offset = locate_rows(timeline, step, rows, self.cursor.skips, self.cursor.first_sequence)
        epoch, domain, window = self.order.locate(example)
        number = (example * seq_len + offset) // length
        return BatchRows(length, example, epoch, domain, window * seq_len + offset, number)

    def batch_at(self, step: int) -> Batch:
        """Return this process's rows of the batch of `step`."""
        rows = self.rows_at(step)
        return self.make_batch(self.read_windows(rows), rows)

    def read_windows(self, rows: BatchRows) -> np.ndarray:
        """Read the window of each row, int32 [B, T + 1]."""
        names = self.store.domains
        starts = [(names[d], first) for d, first in zip(rows.domain.tolist(), rows.first_token.tolist(), strict=True)]
        return self.store.read_many(starts, "train", rows.length + 1)

    def make_batch(self, windows: np.ndarray, rows: BatchRows) -> Batch:
        """Make the batch of the stage's objective from the rows' windows, [B, T + 1]."""
        frame, boundaries, seed = self.store.frame, self.data.boundaries, self.data.shuffle_seed
        return make_batch(self.objective, windows, frame, boundaries, rows.domain, rows.number, seed)

    def read(self, first_step: int, stop_step: int) -> Generator[Batch, None, None]:
        """Yield the batches of steps `first_step` .. `stop_step` - 1, read ahead; bit for bit those of `batch_at`.

        Close the generator to stop the reading. Raises UserError where the corpus is too small for one sequence.
        """
        self.order  # noqa: B018  raises here what is wrong with the corpus, not in a reading thread
        return _read_ahead(_Steps(self, first_step, stop_step), self.data)

    def epochs(self) -> dict[str, float]:
        """Return the number of passes over each domain in the whole stage: sequences read / sequences in the domain."""
        windows, total = windows_per_domain(self.store, self.data.seq_len), self.timeline.total_steps
        if isinstance(self.order, MixedOrder):
            first, end = (first_example(self.timeline, step, (), self.cursor.first_sequence) for step in (0, total))
            read = (self.order.counts(end) - self.order.counts(first)).tolist()
        else:  # every domain alike, on average
            read = [self.timeline.sequences_before(total) * n / sum(windows) for n in windows]
        return {name: r / n for name, r, n in zip(self.store.domains, read, windows, strict=True) if n}


@dataclass(frozen=True)
class _Steps:
    """Steps first .. stop-1 of `stream`, as the random-access source that Grain reads from."""

    stream: DataStream
    first: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.first

    def __getitem__(self, index: Any) -> Batch:
        end_with_parent()  # where this is one of Grain's worker processes
        return self.stream.batch_at(self.first + int(index))


def windows_per_domain(store: Store, seq_len: int) -> list[int]:
    """Count the windows of `seq_len` + 1 tokens in each domain's training stream.

    Window w is tokens [w T, w T + T]: neighbours share one token, so that every token but the stream's first
    is predicted exactly once per epoch. A last stretch of fewer than T tokens is left out.
    """
    windows = [max(0, store.tokens(domain) - 1) // seq_len for domain in store.domains]
    if not sum(windows):
        longest = max(store.tokens(domain) for domain in store.domains)
        raise UserError(
            f"corpus {store.address} has no domain with the {seq_len + 1} training tokens that one sequence of "
            f"seq_len={seq_len} needs (the largest has {longest}); use more text or a smaller seq_len"
        )
    return windows


def _copy_out(batch: Batch) -> Batch:
    """Copy a batch out of the workers' shared memory, which must not be held until the process ends."""
    arrays = {name: np.array(value) for name, value in batch._asdict().items() if name != "spans"}
    return Batch(spans=Spans(*map(np.array, batch.spans)), **arrays)


def _read_ahead(steps: _Steps, data: Data) -> Generator[Batch, None, None]:
    # Seconds to import, and of no use to those who want single batches.
    import grain
    from absl import flags

    options = grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=max(data.prefetch, data.threads))
    dataset = grain.MapDataset.source(steps).to_iter_dataset(options)
    if data.workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain asks absl for its flags, which only absl programs parse
        buffer = -(-data.prefetch // data.workers)
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(data.workers, per_worker_buffer_size=buffer))
    iterator = iter(dataset)
    try:
        yield from map(_copy_out, iterator) if data.workers else iterator
    finally:
        iterator.close()
