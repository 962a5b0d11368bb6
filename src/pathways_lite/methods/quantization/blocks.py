"""Quantize a model block by block, each on what the quantized blocks below it compute.

One block's parameters and Hessians are held at a time; between blocks the residual streams of the calibration text are
kept in host memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite.methods.quantization.gptq import DAMPING, output_error, quantize_gptq
from pathways_lite.methods.quantization.nearest import Quantized, effective_bits, quantize_nearest, require_bits
from pathways_lite.methods.quantization.places import Place, block_names, block_params, places, steps
from pathways_lite.models.accounting import parameter_count
from pathways_lite.models.block_by_block import BlockByBlock, Texts
from pathways_lite.recipe import Model

Method = Literal["nearest", "gptq"]


@dataclass(frozen=True)
class Quantization:
    """How kernels are quantized.

    Attributes:
      method: round to nearest, or GPTQ, which needs calibration text.
      bits: of a code, 2 to 8.
      group: weights along what is summed over that share a scale; None: all.
      damping, act_order: of GPTQ.

    Raises UserError for numbers that cannot be.
    """

    method: Method
    bits: int
    group: int | None = 128
    damping: float = DAMPING
    act_order: bool = False

    def __post_init__(self) -> None:
        require_bits(self.bits, self.group)

    def effective_bits(self, model: Model) -> float:
        """Return the bits per quantized weight of a model, scales and zeros included."""
        sizes = [(place.shape[0], place.shape[0] * place.shape[1]) for place in places(model).values()]
        bits = sum(effective_bits(n, self.bits, self.group) * size for n, size in sizes)
        return bits / sum(size for _, size in sizes)

    def bits_per_parameter(self, model: Model) -> float:
        """Return the bits per parameter of a whole model, whose other arrays have 32 each."""
        quantized = model.n_layers * sum(place.shape[0] * place.shape[1] for place in places(model).values())
        share = quantized / parameter_count(model)
        return share * self.effective_bits(model) + 32 * (1 - share)


class QuantizedBlock(NamedTuple):
    """The quantized kernels of a block, by the names of their arrays.

    `errors` are relative to what is computed with the weights before: |(W - Q)ᵀ x|² / |Wᵀ x|² over the calibration
    text; `errors_of_nearest` those that rounding to nearest would make there. Both are empty without that text.
    """

    kernels: dict[str, Quantized]
    errors: dict[str, float]
    errors_of_nearest: dict[str, float]


class Calibration:
    """Calibration texts and their residual streams below the block that is next.

    Args:
      texts: batches of one shape.
      embedding: [V, E].
    """

    def __init__(self, blocks: BlockByBlock, texts: Sequence[Texts], embedding: np.ndarray) -> None:
        self._blocks, self._texts = blocks, texts
        self._streams = [np.asarray(blocks.embed(embedding, text)) for text in texts]
        self._tokens = float(sum(np.sum(text.counts) for text in texts))

    def hessians(self, index: int, block: dict[str, np.ndarray], reads: Iterable[str]) -> dict[str, np.ndarray]:
        """Return 2 Σ x xᵀ / tokens, float64, by fields of `Read`, of what the kernels of block `index` read."""
        names, params = tuple(sorted(set(reads))), block_params(self._blocks.config, block)
        totals: dict[str, np.ndarray] = {}
        for text, stream in zip(self._texts, self._streams, strict=True):
            for name, moment in self._blocks.second_moments(params, jnp.int32(index), stream, text, names).items():
                totals[name] = totals.get(name, 0.0) + np.asarray(moment, np.float64)
        return {name: 2 * total / self._tokens for name, total in totals.items()}

    def pass_block(self, index: int, block: dict[str, np.ndarray]) -> None:
        """Replace the residual streams by those above block `index`."""
        params = block_params(self._blocks.config, block)
        for number, text in enumerate(self._texts):
            above = self._blocks.run(params, jnp.int32(index), self._streams[number], text)
            self._streams[number] = np.asarray(above)


def quantize_block(
    model: Model,
    how: Quantization,
    index: int,
    block: dict[str, np.ndarray],
    calibration: Calibration | None,
    masks: dict[str, np.ndarray] | None = None,
) -> QuantizedBlock:
    """Quantize the kernels of block `index`, and let the calibration pass it.

    Args:
      block: the block's arrays by name, without the axis of layers; its kernels are replaced by what codes stand for.
      calibration: at this block; None for rounding to nearest without errors.
      masks: bool, by name and shaped like the arrays: weights that are not pruned.

    Raises UserError where a Hessian is not finite or cannot be inverted.
    """
    result = QuantizedBlock({}, {}, {})
    for step in steps(model):
        hessians = {} if calibration is None else calibration.hessians(index, block, [place.read for place in step])
        for place in step:
            weights = place.to_matrix(np.asarray(block[place.name], np.float32))
            kept = None if masks is None or place.name not in masks else place.to_matrix(masks[place.name])
            hessian = hessians.get(place.read)
            nearest = quantize_nearest(weights, how.bits, how.group)
            quantized = nearest
            if how.method == "gptq":
                assert hessian is not None, "GPTQ needs calibration text"
                quantized = quantize_gptq(
                    weights, hessian, how.bits, how.group, damping=how.damping, act_order=how.act_order, kept=kept
                )
            rounded = quantized.decode(how.group)
            if hessian is not None:
                result.errors[place.name] = output_error(weights, rounded, hessian)
                result.errors_of_nearest[place.name] = output_error(weights, nearest.decode(how.group), hessian)
            result.kernels[place.name] = quantized
            block[place.name] = rounded.reshape(place.array.shape)
    if calibration is not None:
        calibration.pass_block(index, block)
    return result


def decoded(place: Place, quantized: Quantized, how: Quantization) -> np.ndarray:
    """Return the kernel that a place's codes stand for, in the shape of its array, float32."""
    return quantized.decode(how.group).reshape(place.array.shape)


def quantize_params(
    blocks: BlockByBlock,
    how: Quantization,
    params: Any,
    texts: Sequence[Texts] | None,
    masks: dict[str, np.ndarray] | None = None,
) -> Any:
    """Return a model's parameters with quantized kernels, NumPy arrays in float32; the others as they are.

    Args:
      texts: to calibrate on; None for rounding to nearest.
      masks: bool, by name and shaped like the stacked arrays: weights that are not pruned.

    Raises UserError as `quantize_block` does.
    """
    model = blocks.config
    names = block_names(model)
    stacked = dict(zip(names, jax.tree.leaves(params["layers"]), strict=True))
    calibration = None if texts is None else Calibration(blocks, texts, params["embedding"])
    rounded: dict[str, list[np.ndarray]] = {name: [] for name in places(model)}
    for index in range(model.n_layers):
        block = {name: np.asarray(stacked[name][index]) for name in names}
        masks_of_block = {name: mask[index] for name, mask in (masks or {}).items()}
        quantize_block(model, how, index, block, calibration, masks_of_block)
        for name, kernels in rounded.items():
            kernels.append(block[name])
    layers = {**stacked, **{name: np.stack(kernels) for name, kernels in rounded.items()}}
    return {**params, "layers": block_params(model, layers)}
