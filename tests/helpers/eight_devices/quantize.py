"""Quantize a tiny model by GPTQ on one CPU device and on meshes of eight, and print how they differ.

    python -m helpers.eight_devices.quantize

The output is one JSON object: by case, the largest relative difference of a Hessian, and the share of equal codes.
"""

import json
import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np

from pathways_kernels.attention.spans import causal
from pathways_lite import models
from pathways_lite.methods.quantization import Calibration, Quantization, block_names, places, quantize_block
from pathways_lite.models.block_by_block import BlockByBlock, Texts
from pathways_lite.parallel.mesh import device_mesh
from pathways_lite.parallel.sharding import Layout
from pathways_lite.recipe import Mesh, Model

MODEL = Model(
    d_model=32, n_layers=1, n_heads=8, n_kv_heads=2, head_dim=8, d_ff=64, vocab_size=64, dtype="float32",
    block="serial", tie_embeddings=False,
)  # fmt: skip
CASES = {"fsdp": Mesh(), "tensor": Mesh(tensor=2), "context": Mesh(context=2)}
B, T = 8, 16


def quantize(layout: Layout) -> tuple[dict[str, np.ndarray], np.ndarray]:
    params = jax.tree.map(np.asarray, models.init(MODEL, jax.random.key(1)))
    tokens = np.random.default_rng(0).integers(0, 64, (B, T), dtype=np.int32)
    positions = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T))
    text = Texts(tokens, positions, causal(B, T), np.ones((B, T), np.float32))
    calibration = Calibration(BlockByBlock(MODEL, layout), [text], params["embedding"])
    names = block_names(MODEL)
    block = dict(zip(names, (leaf[0] for leaf in jax.tree.leaves(params["layers"])), strict=True))
    hessians = calibration.hessians(0, block, {place.read for place in places(MODEL).values()})
    result = quantize_block(MODEL, Quantization("gptq", 3, 16), 0, block, calibration)
    return hessians, np.concatenate([kernel.codes.ravel() for kernel in result.kernels.values()])


def main() -> None:
    hessians, codes = quantize(Layout())
    found = {name: quantize(Layout(device_mesh(mesh))) for name, mesh in CASES.items()}
    result = {}
    for name, (sharded, same) in found.items():
        off = max(float(np.abs(sharded[read] - h).max() / np.abs(h).max()) for read, h in hessians.items())
        result[name] = {"hessians": off, "codes": float(np.mean(same == codes))}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
