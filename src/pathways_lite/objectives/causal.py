"""The causal language modeling objective: next-token prediction over windows of a token stream."""

from __future__ import annotations

from typing import Literal

import numpy as np

from pathways_kernels.attention import Spans
from pathways_lite.batch import Batch
from pathways_lite.document_frame import DocumentFrame

Boundaries = Literal["document", "none"]
"""Whether attention stops at document boundaries."""


def causal(
    windows: np.ndarray, frame: DocumentFrame, boundaries: Boundaries, domain: np.ndarray, example: np.ndarray
) -> Batch:
    """Make the batch of B windows of T+1 consecutive tokens: position t sees tokens up to t and predicts t+1.

    Every token has weight 1, also the one that the last token of a document predicts: it says that the document ends.
    Where a token closes documents, the opening one after it has weight 0. A window that begins in the middle of a
    document begins at position 0.

    Args:
      windows: integers `[B, T+1]`, cut anywhere out of a stream of documents.
      frame: the tokens that open and close each of them.
      boundaries: "document": attention and positions restart at every document, so that packing equals training on
        separate documents; "none": plain causal attention across documents (PaLM section 5).
      domain: integers `[B]`.
      example: global example numbers, integers `[B]`, below 2**64.
    """
    tokens = np.ascontiguousarray(windows[:, :-1], dtype=np.int32)
    index = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    start = document_starts(tokens, frame.opens) if boundaries == "document" else np.zeros(tokens.shape, np.int32)
    targets = np.ascontiguousarray(windows[:, 1:], dtype=np.int32)
    return Batch(
        tokens=tokens,
        targets=targets,
        loss_weights=frame.carries_loss(targets).astype(np.float32),
        positions=index - start,
        spans=Spans(start=start, stop=index + np.int32(1)),
        domain=np.asarray(domain, dtype=np.int32),
        sample_id=sample_ids(example),
    )


def sample_ids(example: np.ndarray) -> np.ndarray:
    """Split example numbers `[B]` into their high and low words, uint32 `[B, 2]`."""
    example = np.asarray(example).astype(np.uint64)
    high_and_low = [example >> np.uint64(32), example & np.uint64(0xFFFFFFFF)]
    return np.stack(high_and_low, axis=-1).astype(np.uint32)


def document_starts(tokens: np.ndarray, opens: int) -> np.ndarray:
    """Return the index, int32 `[B, T]`, of the token that `opens` each position's document; 0 before the first one."""
    index = np.arange(tokens.shape[1], dtype=np.int32)
    return np.maximum.accumulate(np.where(tokens == opens, index, np.int32(0)), axis=1)
