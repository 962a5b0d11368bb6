"""Grow a tiny model on one CPU device and on meshes of eight, and print how they differ.

    python -m helpers.eight_devices.grow CASE...      # names of CASES

The output is one JSON object. For each case: the largest relative difference of any array, whether all arrays have the
expected sharding, the largest share of the largest array that one device of the compiled growth holds, and the number
of elements of the largest all-gather.
"""

import json
import math
import os
import re
import sys

os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true"
)
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np

from pathways_lite import models
from pathways_lite.methods import growth
from pathways_lite.recipe import (
    AdamW,
    Compose,
    Data,
    Grow,
    LiGO,
    MaskedGrowth,
    Mesh,
    Model,
    Net2Net,
    Recipe,
    Stage,
    VocabularyGrowth,
    ZeroInit,
)
from pathways_lite.training.components import Components
from pathways_lite.training.init_growth import abstract_on, grow_function
from pathways_lite.training.stage import StageSpec

SMALL = Model(
    d_model=32, n_layers=2, n_heads=8, n_kv_heads=2, head_dim=8, d_ff=64, vocab_size=64, dtype="float32",
    block="serial", tie_embeddings=False,
)  # fmt: skip
DEEP, WIDE = {"n_layers": 4}, {"d_model": 64, "n_heads": 16, "d_ff": 128}
CASES = {
    "stack": (Mesh(tensor=2), Grow(noise=0.1, optimizer="grow"), DEEP),
    "direct": (Mesh(), Grow(operator=Compose(width=Net2Net(split="uneven")), optimizer="grow"), DEEP | WIDE),
    "zero": (Mesh(context=2, tensor=2), Grow(operator=ZeroInit()), DEEP | WIDE),
    "random": (Mesh(data=2, tensor=2), Grow(operator=MaskedGrowth()), DEEP | WIDE),
    "learned": (Mesh(tensor=2), Grow(operator=LiGO(steps=0)), DEEP | WIDE),
    "vocabulary": (Mesh(tensor=2), Grow(operator=VocabularyGrowth(), optimizer="grow"), {"vocab_size": 96}),
}


def recipe(mesh: Mesh, start: Grow, larger: dict) -> Recipe:
    common = {"data": Data(corpus="none", seq_len=16), "optimizer": AdamW(), "batch_size": 16, "mesh": mesh}
    base = Stage(name="base", model=SMALL, budget="1 steps", **common)
    big = Model.model_validate(dict(SMALL) | larger)
    return Recipe(name="tiny", stages=(base, Stage(name="big", start=start, model=big, budget="100 steps", **common)))


def grow(mesh: Mesh, start: Grow, larger: dict, devices: list[jax.Device]) -> tuple:
    """Return the compiled growth, its components and the state that it makes."""
    components = Components(StageSpec(recipe(mesh, start, larger), 1), devices)
    like = abstract_on(components.layout, models.abstract_params(SMALL), models.logical_axes(SMALL))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, like)
    params = jax.jit(lambda: models.init(SMALL, jax.random.key(1)), out_shardings=shardings)()
    moments = ()
    if start.optimizer != "reset":
        moments = jax.jit(lambda p: jax.tree.map(lambda x: x + 1, components.optimizer.init(p)))(params)
    maps = (
        growth.initial_maps(components.spec.growth_plan, components.spec.keys()[0])
        if isinstance(start.operator, LiGO)
        else None
    )
    compiled = grow_function(components).lower(params, maps, moments).compile()
    return compiled, components, compiled(params, maps, moments)


def largest_share(text: str, components: Components) -> float:
    """Return the size of the largest array of a device's program, divided by that of the state's largest array."""
    on_device = max(math.prod(map(int, shape.split(","))) for shape in re.findall(r"= f32\[([\d,]+)\]", text))
    return on_device / max(leaf.size for leaf in jax.tree.leaves(components.abstract_state))


def largest_all_gather(text: str) -> int:
    """Return the number of elements of the largest result of an all-gather."""
    shapes = re.findall(r"= f32\[([\d,]+)\]\S* all-gather", text)
    return max((math.prod(map(int, shape.split(","))) for shape in shapes), default=0)


def relative_error(actual: object, expected: object) -> float:
    """Return the largest difference of any array, relative to the array's largest value."""

    def leaf_error(a: object, b: object) -> float:
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))

    return max(jax.tree.leaves(jax.tree.map(leaf_error, jax.device_get(actual), jax.device_get(expected))))


def main() -> None:
    result = {}
    for name in sys.argv[1:] or CASES:
        mesh, start, larger = CASES[name]
        compiled, components, state = grow(mesh, start, larger, jax.devices())
        *_, single = grow(Mesh(), start, larger, jax.devices()[:1])
        placed = jax.tree.map(lambda x, like: x.sharding == like.sharding, state, components.abstract_state)
        result[name] = {
            "off": relative_error(state, single),
            "share": largest_share(compiled.as_text(), components),
            "gathered": largest_all_gather(compiled.as_text()),
            "placed": jax.tree.all(placed),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
