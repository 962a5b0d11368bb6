"""Prune a tiny model on one CPU device and on a mesh of eight, and print how they differ.

    python -m helpers.eight_devices.prune CASE...      # names of CASES

The output is one JSON object. For each case: whether all masks are equal bit for bit, the number of active weights and
the ledger's count, the largest share of a mask that one device holds, and the number of elements of the largest
collective of the update.
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

from pathways_lite.methods import pruning
from pathways_lite.recipe import (
    NM,
    SGD,
    Channels,
    Constant,
    Data,
    FirstOrder,
    Heads,
    Mesh,
    Model,
    Prune,
    RandomScores,
    Recipe,
    Regrowth,
    Stage,
)
from pathways_lite.training.components import Components
from pathways_lite.training.stage import StageSpec

STEPS = 4
ONCE = {"sparsity": 0.5, "begin": 0.5, "end": 0.5}
CASES = {
    "global": Prune(sparsity=0.7, update_every=1, allocation="global", scope=("layers.mlp.*", "layers.attention.q")),
    "tensor": Prune(sparsity=0.7, update_every=1),
    "2:4": Prune(**ONCE, structure=NM()),
    "heads": Prune(**ONCE, structure=Heads()),
    "channels": Prune(**ONCE, structure=Channels(), criterion=FirstOrder(), allocation="global"),
    "random": Prune(sparsity=0.7, update_every=2, criterion=RandomScores()),
    "regrowth": Prune(sparsity=0.7, update_every=1, regrowth=Regrowth(), allocation="global"),
}


def make_setup(prune: Prune, devices: list[jax.Device]) -> Components:
    """Set up a stage that is sharded over `devices`: rows by four, heads and channels by two."""
    model = Model(
        d_model=32, n_layers=2, n_heads=8, n_kv_heads=4, head_dim=8, d_ff=64, vocab_size=64, dtype="float32",
        tie_embeddings=False,
    )  # fmt: skip
    stage = Stage(
        model=model, data=Data(corpus="none", seq_len=16), batch_size=16, budget=f"{STEPS} steps", pruning=prune,
        optimizer=SGD(learning_rate=0.1, schedule=Constant(), momentum=0.5, clip_norm=None),
        mesh=Mesh(tensor=2) if len(devices) > 1 else Mesh(),
    )  # fmt: skip
    return Components(StageSpec(Recipe(name="tiny", stages=(stage,)), 0), devices)


def draw(seed: int, like: dict) -> dict:
    """Draw multiples of 1/8, so that sums are exact and many scores are equal."""
    rng = np.random.default_rng(seed)
    numbers = lambda leaf: np.float32(np.round(rng.normal(size=leaf.shape) * 8) / 8)  # noqa: E731
    return jax.tree.map(lambda leaf: jax.device_put(numbers(leaf), leaf.sharding), like)


def run(prune: Prune, devices: list[jax.Device]) -> tuple:
    """Return the final parameters and optimizer state, the timeline, and the text of the compiled update."""
    components = make_setup(prune, devices)
    like, shardings = components.abstract_state.params, components.shardings

    def begin(params: dict) -> tuple:
        state = components.optimizer.init(params)
        return pruning.apply_masks(state, params), state

    def update(grads: dict, params: dict, state: tuple, clock: tuple) -> tuple:
        updates, state = components.optimizer.update(grads, state, params, clock=clock)
        return jax.tree.map(lambda p, u: p + u, params, updates), state

    out = (shardings.params, shardings.opt_state)
    params, state = jax.jit(begin, out_shardings=out)(draw(0, like))
    compiled = (
        jax.jit(update, out_shardings=out).lower(draw(1, like), params, state, components.timeline.clock(0)).compile()
    )
    for step in range(STEPS):
        params, state = compiled(draw(step + 1, like), params, state, components.timeline.clock(step))
    return params, state, components.timeline, compiled.as_text()


def largest_collective(program: str) -> int:
    """Return the number of elements of the largest result of a collective in a compiled program."""
    results = re.findall(r"= \(?(.*?)\)? (?:all-gather|all-reduce|all-to-all|collective-permute)(?:-start)?\(", program)
    shapes = [re.findall(r"\w+\[([\d,]*)\]", line) for line in results]
    return max((math.prod(int(n) for n in s.split(",") if n) for line in shapes for s in line), default=0)


def compare(prune: Prune) -> dict:
    """Prune on one device and on all, and return how the results differ."""
    single, sharded = run(prune, jax.devices()[:1]), run(prune, jax.devices())
    pairs = [jax.tree.leaves(state.masks) for _, state, _, _ in (single, sharded)]
    share = [shard.data.nbytes / mask.nbytes for mask in pairs[1] for shard in mask.addressable_shards]
    active = sum(int(np.unpackbits(np.asarray(mask)).sum()) for mask in pairs[1])
    pruned = sum(mask.nbytes * 8 for mask in pairs[1])
    total = sum(leaf.size for leaf in jax.tree.leaves(sharded[0]))
    return {
        "equal": all(np.array_equal(a, b) for a, b in zip(*pairs, strict=True)),
        "active": [active + total - pruned, sharded[2].active_parameters_at(STEPS)],
        "share": max(share),
        "largest_collective": largest_collective(sharded[3]),
    }


if __name__ == "__main__":
    print(json.dumps({name: compare(CASES[name]) for name in sys.argv[1:] or CASES}))
