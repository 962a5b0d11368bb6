#!/usr/bin/env python3
"""What the boundary between a stage and a grown one costs: seconds and peak memory. Prints one JSON line.

    python tools/bench_growth.py --shape palm_small --operator stack         in memory, as a stage's start
    python tools/bench_growth.py --shape palm_small --operator zero --wider  d_model, heads and d_ff doubled, too
    python tools/bench_growth.py --files --shape llama3_8b                   from checkpoint to checkpoint, in bfloat16
    python tools/bench_growth.py --depths 4 16 64                            compiling the train step, by depth

The shape is that of the grown model; the source has a quarter of its layers. `peak_rss_bytes` is the whole process's,
with 0.5 GB for JAX; that of the source and the target alone are `source_bytes` and `target_bytes`.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np

from pathways_lite import models
from pathways_lite.checkpoints import StreamedArray, write_streamed
from pathways_lite.conversion.grow_and_merge import grow_offline
from pathways_lite.data.order import DataCursor
from pathways_lite.ledger import Ledger, Seconds
from pathways_lite.models import presets
from pathways_lite.recipe import AdamW, Data, Grow, Model, Recipe, Stage, apply_overrides
from pathways_lite.training.components import Components
from pathways_lite.training.init_growth import grow_function
from pathways_lite.training.initialize import CheckpointState
from pathways_lite.training.load import load_model
from pathways_lite.training.spike_guard import GuardState
from pathways_lite.training.stage import StageSpec
from pathways_lite.training.step import TrainState

FACTOR = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="palm_tiny", help="a function of models.presets: the grown model")
    parser.add_argument("--operator", default="stack", help="its kind")
    parser.add_argument("--wider", action="store_true", help="the source has half of d_model, heads and d_ff, too")
    parser.add_argument("--files", action="store_true", help="from checkpoint to checkpoint")
    parser.add_argument("--directory", type=Path, help="where these lie; default: a temporary one")
    parser.add_argument("--depths", type=int, nargs="+", help="layers of the train steps to compile")
    arguments = parser.parse_args()
    target: Model = getattr(presets, arguments.shape)()
    if arguments.depths:
        print(json.dumps({"compile_s": {depth: compile_seconds(target, depth) for depth in arguments.depths}}))
        return
    smaller = {"n_layers": max(1, target.n_layers // FACTOR)}
    if arguments.wider:
        smaller |= {name: getattr(target, name) // 2 for name in ("d_model", "n_heads", "d_ff")}
    components = Components(StageSpec(_recipe(target.model_copy(update=smaller), target, arguments.operator), 1))
    if arguments.files:
        with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
            row = bench_files(components, Path(directory))
    else:
        row = bench_memory(components)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"shape": arguments.shape, "operator": arguments.operator, **row, "peak_rss_bytes": peak}))


def bench_memory(components: Components) -> dict[str, Any]:
    """Seconds to compile growth and to carry it out, of parameters on the device."""
    source = components.spec.recipe.stages[0].model
    params = jax.block_until_ready(models.init(source, jax.random.key(0)))
    start = time.perf_counter()
    compiled = grow_function(components).lower(params, None, ()).compile()
    compiled_at = time.perf_counter()
    state = jax.block_until_ready(compiled(params, None, ()))
    end = time.perf_counter()
    sizes = {"source_bytes": _nbytes(params), "target_bytes": _nbytes(state.params)}
    return {**sizes, "compile_s": round(compiled_at - start, 3), "grow_s": round(end - compiled_at, 3)}


def bench_files(components: Components, directory: Path) -> dict[str, Any]:
    """Seconds from a checkpoint of random bfloat16 parameters to the grown one."""
    small = Components(StageSpec(components.spec.recipe, 0))
    model, target = small.stage.model, components.stage.model
    arrays = {f"params.{array.name}": _random(model, array) for array in jax.tree.leaves(models.param_specs(model))}
    state = TrainState(step=1, params=(), opt_state=(), method_state=(), key=())
    meta = CheckpointState(state, DataCursor(), GuardState(), Seconds(), Ledger(), None).to_meta(small.spec)
    path = write_streamed(directory / "source", 1, arrays, meta, check=lambda: None)
    start = time.perf_counter()
    grown = grow_offline(
        load_model(path, examined=False), _start(components), target, directory / "grown", report=lambda line: None
    )  # fmt: skip
    seconds = time.perf_counter() - start
    manifest = load_model(grown, examined=False).manifest
    return {
        "source_bytes": sum(array.nbytes for array in arrays.values()),
        "target_bytes": manifest.nbytes,
        "largest_array_bytes": max(array.nbytes for array in manifest.arrays.values()),
        "grow_s": round(seconds, 1),
        "mb_per_s": round(manifest.nbytes / 1e6 / seconds),
    }


def compile_seconds(model: Model, layers: int) -> float:
    """Measure the seconds to compile the train step of the model with `layers` layers."""
    deep = model.model_copy(update={"n_layers": layers})
    components = Components(StageSpec(_recipe(deep, deep, "stack"), 0))
    lowered = components.lower_step(1)
    start = time.perf_counter()
    lowered.compile()
    return round(time.perf_counter() - start, 2)


def _random(model: Model, array: models.ParamSpec) -> StreamedArray:
    """Random numbers, a block at a time."""
    shape = ((model.n_layers,) if array.stacked else ()) + array.shape
    chunk_shape = (1, *array.shape) if array.stacked else array.shape

    def make() -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
        data = np.random.default_rng(0).integers(0, 1 << 14, chunk_shape, np.uint16).view(ml_dtypes.bfloat16)
        for block in range(model.n_layers if array.stacked else 1):
            yield (block, *[0] * (len(shape) - 1)), data

    return StreamedArray(shape, "bfloat16", chunk_shape, make)


def _recipe(source: Model, target: Model, operator: str) -> Recipe:
    stage = functools.partial(
        Stage, data=Data(corpus="none", seq_len=128), optimizer=AdamW(), batch_size=1, budget="1000 steps"
    )
    start = apply_overrides(Grow(), [f"operator={operator}"])
    return Recipe(
        name="bench", stages=(stage(name="small", model=source), stage(name="large", model=target, start=start))
    )


def _start(components: Components) -> Grow:
    start = components.stage.start
    assert isinstance(start, Grow)
    return start


def _nbytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


if __name__ == "__main__":
    main()
