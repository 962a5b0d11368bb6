"""Text on which a trained model is calibrated: windows that its stage reads, or of another corpus of its tokenizer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from pathways_lite.data.order import DataCursor
from pathways_lite.data.pipeline import BatchRows, DataStream, windows_per_domain
from pathways_lite.errors import UserError
from pathways_lite.models.block_by_block import Texts
from pathways_lite.objectives.batches import is_unused
from pathways_lite.training.load import TrainedModel

WINDOWS = 128
"""Windows by default, as many as Frantar et al. 2022 (arXiv 2210.17323, section 5) take, there of 2,048 tokens."""
TOKENS_AT_ONCE = 4096


@dataclass(frozen=True)
class CalibrationText:
    """Batches of one shape, and where they come from."""

    batches: tuple[Texts, ...]
    corpus: str
    tokens: int  # positions, padding left out
    digest: str  # SHA-256 of the tokens, its first 12 digits


def read_calibration_text(model: TrainedModel, tokens: int | None = None, corpus: str | None = None) -> CalibrationText:
    """Read training text, as the model's objective makes examples of it, in the order in which its stage reads it.

    Args:
      tokens: at least so many, if there are; None: `WINDOWS` windows.
      corpus: another one of the model's tokenizer; None: the stage's own. Held-out documents are of neither.

    Raises UserError where there is no corpus, or it has no whole window.
    """
    store, stage, seq_len = model.open_corpus(corpus), model.stage, model.evaluated_seq_len
    given = {"seq_len": seq_len} | ({"mixture": None} if corpus is not None else {})
    cursor = DataCursor() if corpus is not None else DataCursor.from_json(model.manifest.meta["cursor"])
    data = stage.data.model_copy(update=given)
    stream = DataStream(store, data, model.spec.timeline, stage.objective, cursor)
    shards = model.components.layout.batch_shard.total
    rows = max(1, TOKENS_AT_ONCE // seq_len // shards) * shards
    wanted = WINDOWS if tokens is None else -(-tokens // seq_len)
    available = sum(windows_per_domain(store, seq_len)) // rows * rows
    if not available:
        raise UserError(
            f"{store.address} has fewer than {rows} windows of {seq_len:,} tokens to calibrate on; name a larger "
            "corpus with --corpus"
        )
    wanted = min(-(-wanted // rows) * rows, available)
    sha, batches, counted = hashlib.sha256(), [], 0
    for first in range(0, wanted, rows):
        example = cursor.first_sequence + np.arange(first, first + rows)
        epoch, domain, window = stream.order.locate(example)
        places = BatchRows(seq_len, example, epoch, domain, window * seq_len, example)
        batch = stream.make_batch(stream.read_windows(places), places)
        counts = np.float32(~is_unused(batch))
        batches.append(Texts(batch.tokens, batch.positions, batch.spans, counts))
        counted += int(counts.sum())
        sha.update(np.asarray(batch.tokens).astype("<i4").tobytes())
    return CalibrationText(tuple(batches), str(store.address), counted, f"sha256-{sha.hexdigest()[:12]}")
