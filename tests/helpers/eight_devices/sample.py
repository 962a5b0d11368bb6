"""Sample from a tiny model on one CPU device and on meshes of up to eight, and print how they differ.

    python -m helpers.eight_devices.sample CASE...      # names of CASES

The output is one JSON object: by case, the share of samples with the same tokens, and the largest difference of a log
probability.
"""

import json
import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np

from pathways_lite import models
from pathways_lite.objectives.prompts import Prompt
from pathways_lite.parallel.mesh import device_mesh
from pathways_lite.parallel.sharding import Layout
from pathways_lite.recipe import Mesh, Model
from pathways_lite.sampling import GREEDY, Request, Sample, Sampler, Sampling

MODEL = Model(
    d_model=32, n_layers=2, n_heads=8, n_kv_heads=2, head_dim=8, d_ff=64, vocab_size=64, dtype="float32",
    block="serial", tie_embeddings=False, window=(6, None),
)  # fmt: skip
CASES = {  # mesh, devices, whether rows share prompts, whether parameters are gathered once
    "fsdp": (Mesh(), 8, True, True), "fsdp, copied": (Mesh(), 8, False, True),
    "tensor": (Mesh(tensor=2), 8, True, True), "kv heads shared": (Mesh(tensor=4), 8, True, True),
    "context": (Mesh(context=2), 8, True, True), "two devices": (Mesh(), 2, True, True),
    "four devices": (Mesh(tensor=2), 4, True, True), "fsdp, sharded": (Mesh(), 8, True, False),
    "tensor, sharded": (Mesh(tensor=2), 8, False, False), "context, sharded": (Mesh(context=2), 8, True, False),
}  # fmt: skip
REQUESTS = [
    Request(Prompt([1, 2, 3], 0, 63), Sampling(top_p=0.9), max_tokens=12, samples=8),
    Request(Prompt(list(range(20)), 20, 63), GREEDY, max_tokens=9, samples=2),
]


def lay_out(params: models.Params, name: str) -> tuple[models.Params, Layout]:
    """Return parameters on the mesh of a case, and its layout."""
    mesh, devices, *_ = CASES[name]
    layout = Layout(device_mesh(mesh, jax.devices()[:devices]))
    abstract = layout.abstract_parameters(models.abstract_params(MODEL), models.logical_axes(MODEL))
    return jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), params, abstract), layout


def sample(params: models.Params, layout: Layout, share: bool, gather: bool = True) -> dict[tuple[int, int], Sample]:
    sampler = Sampler.of_params(MODEL, params, (63,), rows=8, layout=layout, share=share, gather=gather)
    if layout.is_sharded:
        assert any("fsdp" in str(leaf.sharding.spec) for leaf in jax.tree.leaves(sampler.weights)) != gather
    return {(s.request, s.number): s for s in sampler.sample(REQUESTS)}


def main() -> None:
    params = jax.jit(lambda: models.init(MODEL, jax.random.key(1)))()
    expected = sample(params, Layout(), share=False)
    result = {}
    for name in sys.argv[1:] or CASES:
        placed, layout = lay_out(params, name)
        found = sample(placed, layout, *CASES[name][2:])
        equal = [np.array_equal(found[key].tokens, expected[key].tokens) for key in expected]
        off = max(
            float(np.abs(found[key].logp_model - expected[key].logp_model).max())
            for key, same in zip(expected, equal, strict=True)
            if same
        )
        result[name] = {"equal": float(np.mean(equal)), "off": off}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
