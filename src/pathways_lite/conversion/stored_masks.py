"""Masks of pruning in checkpoints: read them, and carry them from file to file where they keep their meaning.

A checkpoint of training has them in its optimizer's state; a checkpoint that was made from it has them beside its
parameters. They are packed into bits along the last axis (`methods.pruning.pruned_params`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from pathways_lite import models
from pathways_lite.checkpoints import CheckpointReader, Manifest, StreamedArray
from pathways_lite.methods import growth
from pathways_lite.methods.pruning.pruned_params import unpack_np

PREFIXES = ("opt_state.masks.", "masks.")
"""Name prefixes of masks: in a checkpoint of training, and in one that was made from it."""


def mask_arrays(manifest: Manifest) -> dict[str, str]:
    """Return the names of the arrays that hold masks, by the names of the pruned parameters; {} for a dense model."""
    return {
        stored.removeprefix(prefix): stored
        for stored in manifest.arrays
        for prefix in PREFIXES
        if stored.startswith(prefix)
    }


def read_masks(manifest: Manifest, reader: CheckpointReader) -> dict[str, np.ndarray]:
    """Read the masks of a checkpoint, bool, by the names of the pruned arrays; {} for a dense model."""
    return {
        name: unpack_np(_read_bits(stored, manifest, reader), manifest.arrays[f"params.{name}"].shape[-1])
        for name, stored in mask_arrays(manifest).items()
    }


def stream_masks(shape: tuple[int, ...], make: Callable[[], np.ndarray]) -> StreamedArray:
    """Stream one array of packed masks, which `make` makes when it is written."""

    def chunks() -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
        yield (0,) * len(shape), make()

    return StreamedArray(shape, "uint8", shape, chunks)


def grown_masks(
    plan: growth.GrowthPlan, noise: float, manifest: Manifest, reader: CheckpointReader
) -> dict[str, StreamedArray]:
    """Stream the masks of a grown model; {} where growth writes to weights that were pruned.

    Where every pruned array is only copied, block by block, its mask is copied too.
    """
    stored = mask_arrays(manifest)
    arrays = {array.name: array for array in jax.tree.leaves(models.param_specs(plan.target))}
    if not all(growth.is_plain_copy(plan, arrays[name], noise) for name in stored):
        return {}

    def grow(name: str) -> np.ndarray:
        bits = _read_bits(stored[name], manifest, reader)
        return bits[list(plan.depth.blocks)] if arrays[name].stacked else bits

    streamed = {}
    for name in stored:
        shape = manifest.arrays[stored[name]].shape
        shape = (plan.target.n_layers, *shape[1:]) if arrays[name].stacked else shape
        streamed[f"masks.{name}"] = stream_masks(shape, functools.partial(grow, name))
    return streamed


def merged_masks(manifests: Sequence[Manifest], readers: Sequence[CheckpointReader]) -> dict[str, StreamedArray]:
    """Stream the masks of an average: pruned is what all models prune; {} where they do not prune the same arrays."""
    stored = [mask_arrays(manifest) for manifest in manifests]
    if any(names.keys() != stored[0].keys() for names in stored):
        return {}

    def merge(name: str) -> np.ndarray:
        sources = zip(stored, manifests, readers, strict=True)
        return functools.reduce(np.bitwise_or, (_read_bits(names[name], m, r) for names, m, r in sources))

    return {
        f"masks.{name}": stream_masks(manifests[0].arrays[array].shape, functools.partial(merge, name))
        for name, array in stored[0].items()
    }


def _read_bits(stored: str, manifest: Manifest, reader: CheckpointReader) -> np.ndarray:
    return reader.read_slice(stored, tuple(map(slice, manifest.arrays[stored].shape)))
