"""Train a tiny model for three steps on one CPU device and on many meshes of eight, and print how they differ.

    python -m helpers.eight_devices.train CASE...      # names of CASES

The output is one JSON object. For each case: the relative error of the metrics of all steps and of the final state
against one device's, the collectives of the compiled step, the replicated parameters, and whether replicas are equal
bit for bit.
"""

import json
import os
import sys

os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np

from pathways_kernels.attention import Spans
from pathways_lite.batch import Batch
from pathways_lite.planner.collectives import count_collectives
from pathways_lite.recipe import (
    EMA,
    SGD,
    Adafactor,
    AdamW,
    Causal,
    Constant,
    Data,
    LinUpper,
    Mesh,
    Model,
    ParameterGroup,
    Recipe,
    Reweighting,
    Stage,
    Statistics,
    Steps,
    TopLosses,
)
from pathways_lite.training.components import Components
from pathways_lite.training.stage import StageSpec

B, T, V, STEPS = 16, 16, 64, 3

PALM = {"n_kv_heads": 1, "remat": "full"}
LLAMA = {"n_kv_heads": 2, "block": "serial", "tie_embeddings": False, "qk_norm": True}
GEMMA = {
    "n_kv_heads": 2, "block": "serial", "norm_position": "both", "qk_norm": True, "activation": "geglu_tanh",
    "embedding_scale": 2.0, "window": (4, None), "local_rope_base": 50.0, "remat": "attention",
}  # fmt: skip
OLMO = {
    "n_kv_heads": 2, "block": "serial", "norm_position": "post", "qk_norm": True, "qk_norm_over": "all_heads",
    "bias": ("qkv", "attention_out"), "tie_embeddings": False,
}  # fmt: skip
NEOX = {
    "n_kv_heads": 8, "parallel_norms": 2, "norm": "layer", "bias": ("qkv", "attention_out", "mlp", "norm"),
    "activation": "gelu", "rope_fraction": 0.5, "tie_embeddings": False, "remat": "up",
}  # fmt: skip
WEIGHTS = Reweighting(rule=LinUpper(), sample="document", burn_in=Steps(n=1))
GROUPS = SGD(
    learning_rate=1.0, schedule=Constant(), clip_norm=None,
    groups=(ParameterGroup(parameters=("layers.1",), rate=0.5, weight_decay=0.01),),
)  # fmt: skip
OBSERVED = Statistics(every=1)
FROZEN = {"freeze": ("embedding", "layers.0.mlp"), "ema": EMA(decay=0.5)}
CASES = {
    "fsdp": (Mesh(), PALM),
    "data": (Mesh(data=8, fsdp=1), LLAMA),
    "tensor": (Mesh(tensor=8), LLAMA),  # two key/value heads on eight devices
    "context": (Mesh(context=8), PALM),
    "fsdp x tensor": (Mesh(tensor=2), PALM),
    "fsdp x context": (Mesh(context=2), LLAMA),
    "context x tensor": (Mesh(context=2, tensor=4), PALM),
    "pod x fsdp x tensor": (Mesh(pod=2, tensor=2), PALM),
    "data x fsdp x tensor": (Mesh(data=2, tensor=2), LLAMA),
    "data x context x tensor": (Mesh(data=2, context=2, tensor=2), LLAMA),
    "context x tensor, gemma": (Mesh(context=2, tensor=2), GEMMA),
    "tensor, olmo": (Mesh(tensor=8), OLMO),
    "data x fsdp x tensor, neox": (Mesh(data=2, tensor=2), NEOX),
    "fsdp, in slices": (Mesh(), LLAMA | {"microbatch": 8, "window": (4, None)}),
    "fsdp x tensor, adamw": (Mesh(tensor=2), LLAMA | {"optimizer": AdamW(learning_rate=1e-2), "dropout": 0.1}),
    "fsdp x tensor, reweighted": (Mesh(tensor=2), PALM | {"reweighting": WEIGHTS}),
    "fsdp, reweighted in slices": (Mesh(), LLAMA | {"microbatch": 8, "reweighting": WEIGHTS}),
    "fsdp, a selection": (
        Mesh(),
        LLAMA | {"reweighting": Reweighting(rule=TopLosses(fraction=0.5), burn_in=Steps(n=0))},
    ),
    "fsdp x tensor, smoothed": (
        Mesh(tensor=2),
        LLAMA | {"stochastic_depth": 0.5, "objective": Causal(label_smoothing=0.1)},
    ),
    "fsdp x tensor, frozen in part": (Mesh(tensor=2), LLAMA | {"optimizer": GROUPS, **FROZEN}),
    "data x context x tensor, observed": (
        Mesh(data=2, context=2, tensor=2),
        LLAMA | {"statistics": Statistics(every=1)},
    ),
    "fsdp, observed in slices": (Mesh(), PALM | {"microbatch": 8, "statistics": Statistics(every=1), **FROZEN}),
    "fsdp x tensor, adafactor": (Mesh(tensor=2), PALM | {"optimizer": Adafactor(), "tokens": 8}),
}


def stage(mesh: Mesh, options: dict) -> Stage:
    """Return a stage whose parameters move by its gradients: plain SGD, unless `options` name another optimizer."""
    fields = dict(options)
    optimizer = fields.pop("optimizer", SGD(learning_rate=1.0, schedule=Constant(), clip_norm=None))
    microbatch, length = fields.pop("microbatch", None), fields.pop("tokens", T)
    method = {name: fields.pop(name, None) for name in ("reweighting", "freeze", "ema", "statistics")}
    method["objective"] = fields.pop("objective", Causal())
    model = Model(d_model=32, n_layers=2, n_heads=8, head_dim=8, d_ff=64, vocab_size=V, dtype="float32", **fields)
    data = Data(corpus="none", seq_len=length)
    return Stage(
        model=model, data=data, optimizer=optimizer, batch_size=B, microbatch=microbatch, budget="3 steps", mesh=mesh,
        **method,
    )  # fmt: skip


def batch(step: int, length: int) -> Batch:
    """Draw two documents per row, the first with a bidirectional prefix; some positions carry no loss."""
    rng = np.random.default_rng(step)
    tokens, targets = rng.integers(0, V, (2, B, length)).astype(np.int32)
    position, cut = np.arange(length), rng.integers(1, length, (B, 1))
    prefix = rng.integers(0, cut + 1)
    start = np.where(position < cut, 0, cut).astype(np.int32)
    stop = np.where(position < prefix, prefix, position + 1).astype(np.int32)
    return Batch(
        tokens, targets, (rng.random((B, length)) < 0.8).astype(np.float32), (position - start).astype(np.int32),
        Spans(start, stop), np.zeros(B, np.int32), np.zeros((B, 2), np.uint32),
    )  # fmt: skip


def train(mesh: Mesh, options: dict, devices: list[jax.Device]) -> tuple:
    """Return the compiled step, its components, all steps' metrics, the final state, and whether replicas are equal."""
    components = Components(StageSpec(Recipe(name="tiny", stages=(stage(mesh, options),)), 0), devices)
    step, state, metrics = components.compile_step(B), components.fresh_state(), []
    observe = components.compile_statistics(B, components.stage.data.seq_len) if components.stage.statistics else None
    for number in range(STEPS):
        placed = components.layout.place_batch(batch(number, components.stage.data.seq_len))
        clock = components.timeline.clock(number)
        statistics = observe(state, placed, clock) if observe else {}
        state, step_metrics = step(state, placed, clock)
        metrics.append(jax.device_get(step_metrics | statistics))
    return step, components, metrics, jax.device_get(state), all(map(replicas_equal, jax.tree.leaves(state)))


def replicas_equal(array: jax.Array) -> bool:
    """Return whether all devices that hold the same shard of an array hold the same bits."""
    first = {}
    shards = ((str(shard.index), np.asarray(shard.data)) for shard in array.addressable_shards)
    return all(np.array_equal(first.setdefault(index, data), data) for index, data in shards)


def relative_error(actual: object, expected: object) -> float:
    """Return the largest difference of any array, relative to the array's largest value."""

    def leaf_error(a: np.ndarray, b: np.ndarray) -> float:
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))

    return max(jax.tree.leaves(jax.tree.map(leaf_error, actual, expected)))


def replicated_arrays(components: Components) -> list[str]:
    """Return the names of the state's replicated arrays, scalars aside."""
    leaves = jax.tree_util.tree_flatten_with_path(components.abstract_state)[0]
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator=".")  # noqa: E731
    return [name(path) for path, leaf in leaves if leaf.ndim and leaf.sharding.is_fully_replicated]


def main() -> None:
    single: dict = {}
    result = {}
    for name in sys.argv[1:] or CASES:
        mesh, options = CASES[name]
        key = repr(options)
        if key not in single:
            single[key] = train(Mesh(), options, jax.devices()[:1])[2:4]
        step, components, metrics, state, equal = train(mesh, options, jax.devices())
        collectives = count_collectives(step.as_text(), components.layout.mesh, at_least=1024)
        result[name] = {
            "metrics": relative_error(metrics, single[key][0]),
            "state": relative_error(state, single[key][1]),
            "collectives": {f"{kind} {' x '.join(axes)}": number for (kind, axes), number in collectives.items()},
            "whole": replicated_arrays(components),
            "copies_equal": equal,
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
