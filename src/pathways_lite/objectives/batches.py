"""Batches of any objective: causal language modeling, UL2R denoising, fill-in-the-middle, packed into rows.

The way of a window: `packing` chooses examples, `segments` lays each out, `_assemble_rows` copies their tokens. UL2R's
S-, R- and X-denoisers are `PrefixLM` and `SpanCorruption` in `recipe.objective`. "Spans" alone are attention intervals
(`Spans(start, stop)`); the spans that corruption masks are `noise_spans`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pathways_kernels.attention import Spans
from pathways_lite.batch import Batch
from pathways_lite.document_frame import DocumentFrame
from pathways_lite.keyed import derive_keys
from pathways_lite.objectives.causal import Boundaries, causal, sample_ids
from pathways_lite.objectives.denoisers import ExampleFormat, SpecialIds, denoiser_specs
from pathways_lite.objectives.packing import PackedExamples, pack_fixed, pack_greedy, split_documents
from pathways_lite.objectives.segments import NO_TOKEN, Segments, build_segments
from pathways_lite.objectives.span_corruption import group_starts, ragged_arange
from pathways_lite.recipe.objective import Causal, Objective

_BLOCK_TOKENS = 1 << 17  # corrupted together: as many as stay in a core's cache


def make_batch(
    objective: Objective,
    windows: np.ndarray,
    frame: DocumentFrame,
    boundaries: Boundaries,
    domain: np.ndarray,
    example: np.ndarray,
    seed: int,
) -> Batch:
    """Make the batch of `objective` from B windows of T+1 consecutive tokens.

    Args:
      windows, frame, boundaries, domain, example: see `causal`. With boundaries "none" a window is one text; otherwise
        each of its documents becomes an example, made by a denoiser of its own.
      seed: with a window's example number the key of all random choices: a row depends on nothing else.

    An unused position has no loss and sees only itself (`unused_fraction`).
    """
    if isinstance(objective, Causal):
        return causal(windows, frame, boundaries, domain, example)
    rows, length = len(windows), windows.shape[1] - 1
    key = derive_keys("corruption", seed, example)
    block = max(1, _BLOCK_TOKENS // length)
    slices = [slice(first, first + block) for first in range(0, rows, block)]
    blocks = [_corrupt(objective, np.ascontiguousarray(windows[s]), frame, boundaries, key[s]) for s in slices]
    tokens, targets, weights, positions, start, stop = (np.concatenate(values) for values in zip(*blocks, strict=True))
    return Batch(
        tokens=tokens,
        targets=targets,
        loss_weights=weights,
        positions=positions,
        spans=Spans(start, stop),
        domain=np.asarray(domain, dtype=np.int32),
        sample_id=sample_ids(example),
    )


class TracedBatch(NamedTuple):
    """A batch, and where its tokens come from: indices in the flat windows (B * (T + 1) tokens), -1 for special tokens.

    The tokens around documents are special, except in windows that are one text across documents (boundaries "none").
    """

    batch: Batch
    input_source: np.ndarray  # int64 [B, T], of `batch.tokens`; without meaning at unused positions
    target_source: np.ndarray  # int64 [B, T], of `batch.targets`; -1 where there is no loss

    @property
    def is_content(self) -> np.ndarray:
        """Bool [B, T]: the position predicts a token of the text, with loss."""
        return self.target_source >= 0

    @property
    def is_format(self) -> np.ndarray:
        """Bool [B, T]: the position predicts a sentinel or another special token, or the end, with loss."""
        return (self.target_source < 0) & (self.batch.loss_weights > 0)

    @property
    def follows_later_text(self) -> np.ndarray:
        """Bool [B, T]: the position predicts a token of the text and sees some of the text that comes after it.

        These are a gap's tokens. The last span of T5's span corruption, with which the text ends, is none.
        """
        # Examples of a row are in the order of the text: what earlier ones have seen comes before all of this one.
        seen = np.maximum.accumulate(self.input_source, axis=1)
        latest = np.take_along_axis(seen, np.asarray(self.batch.spans.stop, np.int64) - 1, axis=1)
        return self.is_content & (latest > self.target_source)


def make_traced_batch(
    objective: Objective,
    windows: np.ndarray,
    frame: DocumentFrame,
    boundaries: Boundaries,
    domain: np.ndarray,
    example: np.ndarray,
    seed: int,
) -> TracedBatch:
    """Make the batch of `make_batch`, with the sources of its tokens."""
    # Random choices depend on no token but those around documents, so a batch of the tokens' own indices is laid out in
    # the same way.
    tokens = None if isinstance(objective, Causal) else objective.tokens
    special = [] if tokens is None else [*tokens.named_ids.values(), tokens.first_sentinel]
    base = 1 + max(*frame.ids, 0, *special)
    flat = windows.ravel()
    numbered = base + np.arange(windows.size, dtype=np.int64).reshape(windows.shape)
    if boundaries == "document":
        numbered = np.where(frame.is_frame(windows), windows, numbered)
    batch = make_batch(objective, numbered, frame, boundaries, domain, example, seed)

    def sources(ids: np.ndarray) -> np.ndarray:
        return np.where(ids >= base, ids.astype(np.int64) - base, -1)

    def text(ids: np.ndarray) -> np.ndarray:
        return np.where(ids >= base, flat[np.maximum(sources(ids), 0)], ids).astype(np.int32)

    targets = text(batch.targets)
    # Where a window is one text, the numbers also hide what opens documents in it.
    weights = np.where(frame.carries_loss(targets), batch.loss_weights, np.float32(0))
    return TracedBatch(
        batch._replace(tokens=text(batch.tokens), targets=targets, loss_weights=weights),
        sources(batch.tokens),
        np.where(weights > 0, sources(batch.targets), -1),
    )


def unused_fraction(batch: Batch) -> float:
    """Return the fraction of a NumPy batch's positions that are padding."""
    return float(np.mean(is_unused(batch)))


def is_unused(batch: Batch) -> np.ndarray:
    """Return which positions of a NumPy batch carry no loss and are seen by no other position, bool [B, T]."""
    alone = np.asarray(batch.spans.stop) - np.asarray(batch.spans.start) == 1
    return alone & (np.asarray(batch.loss_weights) == 0)


def _corrupt(
    objective: Objective, windows: np.ndarray, frame: DocumentFrame, boundaries: Boundaries, key: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Make tokens, targets, loss weights, positions, and starts and stops of spans, [B, T] each, of a few rows."""
    assert not isinstance(objective, Causal)
    specs = denoiser_specs(objective)
    rows, width = windows.shape
    row, source, n_tokens = split_documents(windows, frame, boundaries)
    if objective.layout == "fixed":
        examples = pack_fixed(row, source, specs, key, width - 1)
    else:
        examples = pack_greedy(row, source, n_tokens, specs, key, width - 1)
    special = SpecialIds(frame, objective.tokens)
    formats, min_tokens, start_tokens = (
        np.array(values)[examples.denoiser]
        for values in zip(*((s.format, s.min_tokens, special.start_token(s.mode)) for s in specs), strict=True)
    )
    formats = np.where(examples.n_tokens < min_tokens, ExampleFormat.CAUSAL, formats)
    segments = build_segments(examples, formats, start_tokens, special, key, width)
    return _assemble_rows(windows.ravel(), rows, width - 1, examples, segments, formats, frame)


def _assemble_rows(
    flat_windows: np.ndarray,
    rows: int,
    length: int,
    examples: PackedExamples,
    segments: Segments,
    formats: np.ndarray,
    frame: DocumentFrame,
) -> tuple[np.ndarray, ...]:
    """Copy the segments to their positions, and set what each position predicts and sees."""
    n_special = (segments.special != NO_TOKEN).astype(np.int64)
    n_positions = segments.length + n_special
    source = ragged_arange(segments.source - n_special, n_positions)
    values = flat_windows.take(source, mode="clip").astype(np.int32)  # a special token replaces the one before the text
    has_special = n_special.astype(bool)
    values[group_starts(n_positions)[has_special]] = segments.special[has_special]

    # At its end plain text predicts the window's next token (the end, unless the document was cut), all else the end.
    is_text = (formats == ExampleFormat.CAUSAL) | (formats == ExampleFormat.PREFIX)
    last = np.cumsum(examples.n_positions) - 1
    next_values = np.append(values[1:], np.int32(frame.end))
    next_values[last] = np.where(is_text, flat_windows[examples.source + examples.n_tokens], frame.end)

    # Of every used position: index in the flat rows, first column and inputs of its example, position in the example.
    used = ragged_arange(examples.row * length + examples.column, examples.n_positions)
    column = np.repeat(examples.column, examples.n_positions)
    n_inputs = np.repeat(_count_inputs(examples, formats), examples.n_positions)
    position = ragged_arange(np.zeros_like(examples.n_positions), examples.n_positions)

    own_column = np.tile(np.arange(length, dtype=np.int32), rows)
    tokens, targets, positions = (np.zeros(rows * length, np.int32) for _ in range(3))
    weights = np.zeros(rows * length, np.float32)
    start, stop = own_column.copy(), own_column + np.int32(1)
    tokens[used], targets[used], positions[used] = values, next_values, position
    weights[used] = (position >= n_inputs - 1) & frame.carries_loss(next_values)
    start[used], stop[used] = column, column + np.maximum(position + 1, n_inputs)
    return tuple(x.reshape(rows, length) for x in (tokens, targets, weights, positions, start, stop))


def _count_inputs(examples: PackedExamples, formats: np.ndarray) -> np.ndarray:
    """Count the positions of each example that see each other; the last of them is the first that carries loss."""
    corrupted = 1 + examples.n_tokens - examples.noise_tokens + examples.noise_spans
    in_spans = np.where(formats == ExampleFormat.SPANS, corrupted, 0)
    return np.where(formats == ExampleFormat.PREFIX, 1 + examples.prefix_tokens, in_spans)
