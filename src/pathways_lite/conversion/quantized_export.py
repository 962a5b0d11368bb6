"""Write a quantized copy of a checkpoint: its weights as what the codes stand for, with the codes beside them.

Blocks are quantized one after another, and each is kept in a file as soon as it is; so a command that was killed
continues with the next block. Then the checkpoint is written from these files, which go.

Of each quantized array NAME the checkpoint has, beside `params.NAME` in float32:

    codes.NAME    uint8, shaped like the array
    scales.NAME   float32 [L, G, ...], of G groups along what is summed over, by output
    zeros.NAME    uint8 [L, G, ...]

and params = scale (code - zero), bit for bit. `meta.quantized` of the manifest says how they were made.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pathways_lite import models
from pathways_lite.atomic_file import replace_atomically
from pathways_lite.checkpoints import (
    StreamedArray,
    open_checkpoint,
    require_absent,
    require_undamaged,
    write_streamed,
)
from pathways_lite.conversion.average_export import read_parameter
from pathways_lite.conversion.blocks import stream_blocks
from pathways_lite.conversion.grow_and_merge import meta_from, next_stage, require_parameters
from pathways_lite.conversion.stored_masks import read_masks
from pathways_lite.errors import UserError
from pathways_lite.methods.quantization import (
    Calibration,
    Place,
    Quantization,
    Quantized,
    QuantizedBlock,
    block_names,
    decoded,
    left_out,
    places,
    quantize_block,
)
from pathways_lite.models.accounting import parameter_count
from pathways_lite.models.block_by_block import BlockByBlock
from pathways_lite.recipe import Restore
from pathways_lite.training.calibration_text import CalibrationText
from pathways_lite.training.load import TrainedModel

WORK = ".quantizing"
"""Directory below OUT with the blocks that are quantized so far."""
ERRORS = ("errors", "errors_of_nearest")


def convert_quantized(
    trained: TrainedModel,
    how: Quantization,
    text: CalibrationText | None,
    out: Path,
    report: Callable[[str], None],
) -> Path:
    """Write a quantized copy of `trained` into a new checkpoint below `out`. Returns its directory.

    Raises UserError where the model is quantized already or computes with other parameters than are stored, where a
    Hessian cannot be inverted, and where `out` has such a checkpoint; DamagedError where the source is not what was
    saved.
    """
    require_absent(out)
    if "quantized" in trained.manifest.meta:
        raise UserError(
            f"{trained.path} is quantized already; quantize the checkpoint that it was made of, "
            f"{trained.stage.start.path if isinstance(trained.stage.start, Restore) else 'its parent'}"
        )
    if trained.average:
        trained.require_full_growth("take a later checkpoint")
    else:
        trained.require_stored_params("train it to the end without it")
    source = _Source(trained)
    blocks = _quantized_blocks(source, how, text, out / WORK, report)
    model = trained.stage.model
    quantized = places(model)
    arrays: dict[str, StreamedArray] = {}
    for array in jax.tree.leaves(models.param_specs(model)):
        info = source.manifest.arrays[f"params.{array.name}"]
        if array.name not in quantized:
            read = functools.partial(source.read, array)
            arrays[f"params.{array.name}"] = stream_blocks(array, info.shape, info.dtype, read)
        else:
            arrays |= _stream_quantized(source, blocks, quantized[array.name], how)
    restored = Restore(
        path=str(trained.path), digest=trained.manifest.digest, weights="average" if trained.average else None
    )
    spec = next_stage(trained, "quantized", start=restored)
    meta = meta_from(trained, spec)
    parent = trained.manifest.meta
    meta |= {name: parent[name] for name in ("imported", "tokenizer") if name in parent}  # what exports ask for
    meta["quantized"] = _description(source, how, text, blocks)
    check = functools.partial(require_undamaged, trained.path, source.reader)
    path = write_streamed(out, 0, arrays, meta, check, trained.files_to_carry())
    shutil.rmtree(out / WORK)
    return path


class _Source:
    """The arrays of the checkpoint that is quantized."""

    def __init__(self, trained: TrainedModel) -> None:
        self.trained = trained
        self.manifest, self.reader = open_checkpoint(trained.path)
        require_parameters(trained, self.manifest)
        self.masks = read_masks(self.manifest, self.reader)
        self._specs = {array.name: array for array in jax.tree.leaves(models.param_specs(trained.stage.model))}

    def read(self, array: models.ParamSpec, block: int | None) -> np.ndarray:
        """Read an array, or one block [1, ...] of it, and put zeros where it is pruned."""
        values = read_parameter(self.trained, self.reader, array, block)
        if (mask := self.masks.get(array.name)) is None:
            return values
        return np.where(mask if block is None else mask[block : block + 1], values, 0).astype(values.dtype)

    def block(self, index: int) -> dict[str, np.ndarray]:
        """Read the arrays of one block by name, without the axis of layers."""
        return {name: self.read(self._specs[name], index)[0] for name in block_names(self.trained.stage.model)}

    def embedding(self) -> np.ndarray:
        return self.read(self._specs["embedding"], None)


@dataclass(frozen=True)
class _BlockFiles:
    """The quantized blocks of one copy, a file each."""

    directory: Path

    def path(self, index: int) -> Path:
        return self.directory / f"block_{index:05d}.npz"

    def open(self, key: dict[str, Any], report: Callable[[str], None]) -> None:
        """Make the directory for a copy described by `key`; remove what is there of another one."""
        file, text = self.directory / "key.json", json.dumps(key, sort_keys=True)
        if self.directory.is_dir() and (not file.is_file() or file.read_text(encoding="utf-8") != text):
            report(f"{self.directory} has blocks of another copy, which are removed")
            shutil.rmtree(self.directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        with replace_atomically(file) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def save(self, index: int, block: QuantizedBlock) -> None:
        values: dict[str, Any] = {
            f"{part}/{name}": value
            for name, kernel in block.kernels.items()
            for part, value in zip(Quantized._fields, kernel, strict=True)
        }
        for prefix in ERRORS:
            values |= {f"{prefix}/{name}": error for name, error in getattr(block, prefix).items()}
        with replace_atomically(self.path(index)) as temporary, temporary.open("wb") as file:
            np.savez(file, **values)

    def kernel(self, index: int, name: str) -> Quantized:
        """Read a quantized kernel."""
        with np.load(self.path(index)) as file:
            return Quantized(*(file[f"{part}/{name}"] for part in Quantized._fields))

    def errors(self, index: int, prefix: str) -> dict[str, float]:
        """Read the relative errors of a block's kernels; {} where there was no text to measure them on."""
        with np.load(self.path(index)) as file:
            return {
                key.removeprefix(f"{prefix}/"): float(file[key]) for key in file.files if key.startswith(f"{prefix}/")
            }


def _quantized_blocks(
    source: _Source, how: Quantization, text: CalibrationText | None, directory: Path, report: Callable[[str], None]
) -> _BlockFiles:
    """Quantize all blocks into files, those that an earlier command left excepted."""
    model, files = source.trained.stage.model, _BlockFiles(directory)
    key = {"source": source.manifest.digest, "average": source.trained.average, **asdict(how)}
    files.open(key | {"text": text and text.digest}, report)
    missing = [index for index in range(model.n_layers) if not files.path(index).exists()]
    if not missing:
        return files
    calibration = None
    if text is not None:
        blocks = BlockByBlock(model, source.trained.components.layout)
        calibration = Calibration(blocks, text.batches, source.embedding())
    for index in range(max(missing) + 1):
        block = source.block(index)
        if index not in missing:
            if calibration is not None:
                block |= {name: decoded(place, files.kernel(index, name), how) for name, place in places(model).items()}
                calibration.pass_block(index, block)
            continue
        masks = {name: mask[index] for name, mask in source.masks.items()}
        result = quantize_block(model, how, index, block, calibration, masks)
        files.save(index, result)
        report(f"block {index + 1} of {model.n_layers}{_errors_text(result)}")
    return files


def _errors_text(result: QuantizedBlock) -> str:
    if not result.errors:
        return ""
    worst = max(result.errors, key=result.errors.__getitem__)
    return (
        f": relative squared error of outputs up to {result.errors[worst]:.2g}, of {worst.removeprefix('layers.')} "
        f"({result.errors_of_nearest[worst]:.2g} by rounding to nearest)"
    )


def _stream_quantized(
    source: _Source, blocks: _BlockFiles, place: Place, how: Quantization
) -> dict[str, StreamedArray]:
    """Stream an array, and its codes, scales and zeros."""
    array, n_layers = place.array, source.trained.stage.model.n_layers

    def part(number: int, block: int | None) -> np.ndarray:
        assert block is not None
        value = blocks.kernel(block, array.name)[number]
        shape = array.shape if number == 0 else (len(value), *place.out_shape)
        return value.reshape(1, *shape)

    def weights(block: int | None) -> np.ndarray:
        assert block is not None
        source.read(array, block)  # the array is verified as a whole, and an earlier command may have read it
        return decoded(place, blocks.kernel(block, array.name), how)[None]

    streams = {f"params.{array.name}": stream_blocks(array, (n_layers, *array.shape), "float32", weights)}
    for number, (name, dtype) in enumerate((("codes", "uint8"), ("scales", "float32"), ("zeros", "uint8"))):
        shape = part(number, 0).shape[1:]
        read = functools.partial(part, number)
        streams[f"{name}.{array.name}"] = stream_blocks(array, (n_layers, *shape), dtype, read)
    return streams


def _description(
    source: _Source, how: Quantization, text: CalibrationText | None, blocks: _BlockFiles
) -> dict[str, Any]:
    """Return what the manifest says of the quantization."""
    model = source.trained.stage.model
    errors = {}
    for prefix in ERRORS if text is not None else ():
        by_block = [blocks.errors(index, prefix) for index in range(model.n_layers)]
        errors[prefix] = {name: [block[name] for block in by_block] for name in by_block[0]}
    calibrated = None if text is None else {"corpus": text.corpus, "tokens": text.tokens, "digest": text.digest}
    return {
        **asdict(how),
        "parameters": parameter_count(model),
        "non_embedding_parameters": parameter_count(model, embedding=False),
        "effective_bits": how.effective_bits(model),
        "bits_per_parameter": how.bits_per_parameter(model),
        "arrays": list(places(model)),
        "left_out": list(left_out(model)),
        "calibration": calibrated,
        **errors,
    }
