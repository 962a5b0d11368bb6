"""Stream arrays into a new checkpoint a block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from pathways_lite import models
from pathways_lite.checkpoints import StreamedArray

Block = tuple[tuple[int, ...], np.ndarray]


def stream_blocks(
    array: models.ParamSpec, shape: tuple[int, ...], dtype: str, read: Callable[[int | None], np.ndarray]
) -> StreamedArray:
    """Stream an array a block at a time where it is stacked; `read(block)` returns a block, or all of it for None."""

    def make() -> Iterator[Block]:
        rest = (0,) * (len(shape) - 1)
        if not array.stacked:
            yield (0, *rest), read(None)
            return
        for block in range(shape[0]):
            yield (block, *rest), read(block)

    return StreamedArray(shape, dtype, (1, *shape[1:]) if array.stacked else shape, make)
