"""Quantization of trained weights: rounding to nearest, and GPTQ on calibration text. docs/quantization.md."""

from pathways_lite.methods.quantization.blocks import (
    Calibration,
    Method,
    Quantization,
    QuantizedBlock,
    decoded,
    quantize_block,
    quantize_params,
)
from pathways_lite.methods.quantization.gptq import output_error, quantize_gptq
from pathways_lite.methods.quantization.nearest import Quantized, effective_bits, quantize_nearest
from pathways_lite.methods.quantization.places import Place, block_names, left_out, places

__all__ = [
    "Calibration", "Method", "Place", "Quantization", "Quantized", "QuantizedBlock", "block_names", "decoded",
    "effective_bits", "left_out", "output_error", "places", "quantize_block", "quantize_gptq", "quantize_nearest",
    "quantize_params",
]  # fmt: skip
