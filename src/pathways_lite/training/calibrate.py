"""Calibrate: take a few train steps and score a batch of held-out text, to know what a whole stage would take."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite.data.order import DataCursor
from pathways_lite.data.pipeline import DataStream
from pathways_lite.evaluation.bits import ScoredDocument
from pathways_lite.models.accounting import parameter_count
from pathways_lite.training.components import Components
from pathways_lite.training.speed import Speed, peak_memory, startup_seconds
from pathways_lite.training.stage import StageSpec

_SECONDS, _MAX_STEPS = 3.0, 20
_SAVED_BYTES_PER_SECOND = 200e6  # assumed of the disk, fingerprints included
_FINISHING_BYTES = 150 << 20  # measured: what saving, compressors and the page add to a process of 0.7 M parameters
_SAVE_SECONDS = 0.3  # assumed of any save: files, renames


def calibrate_stage(spec: StageSpec) -> Speed:
    """Measure the stage's step and evaluation on this machine; nothing is written but to the compilation cache.

    Parameters are random and the data unmixed, which changes nothing about the time. A ramp of batch sizes is measured
    at its last one.
    """
    startup, begin = startup_seconds(), time.perf_counter()
    components, timeline = Components(spec), spec.timeline
    last = timeline.total_steps - 1
    sequences = timeline.sequences_at(last)
    compile_begin = time.perf_counter()
    train_step = components.compile_step(sequences)
    compiled = time.perf_counter() - compile_begin
    cached = _seconds_to_compile_again(components, sequences)
    # Without the mixture, which another stage may have yet to learn.
    data = spec.stage.data.model_copy(update={"mixture": None})
    layout = components.layout
    stream = DataStream(spec.store, data, timeline, spec.stage.objective, DataCursor(), layout.batch_shard)
    batch, clock = layout.place_batch(stream.batch_at(last)), timeline.clock(last)
    state = _random_state(components)
    times: list[float] = []
    while len(times) < 2 or (len(times) < _MAX_STEPS and sum(times) < _SECONDS):
        start = time.perf_counter()
        state, metrics = train_step(state, batch, clock)
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - start)
    first, evaluated = _evaluation_seconds_per_token(components, state.params)
    fixed = max(0.0, time.perf_counter() - begin - compiled - (cached or 0.0) - sum(times) - first)
    return Speed(
        token=float(np.median(times[1:])) / (sequences * spec.stage.data.seq_len),
        evaluated_token=evaluated,
        save=_SAVE_SECONDS + 12 * parameter_count(spec.stage.model) / _SAVED_BYTES_PER_SECOND,
        compile=compiled + first,
        fixed=fixed + startup,
        memory=_memory_of_run(),
        calibrated=True,
        cached_compile=cached,
    )


def _memory_of_run() -> int | None:
    """Return the peak so far and, on CPUs, whose memory is that of the process, what the end of a run will add."""
    peak = peak_memory()
    if peak is None or jax.devices()[0].platform != "cpu":
        return peak
    return peak + _FINISHING_BYTES


def _random_state(components: Components) -> Any:
    """Make a fresh state; the method's arrays are zeros."""
    state = components.fresh_state()
    abstract = components.abstract_state.method_state
    zeros = jax.tree.map(lambda x: jax.device_put(jnp.zeros(x.shape, x.dtype), x.sharding), abstract)
    return state._replace(method_state=zeros)


def _seconds_to_compile_again(components: Components, sequences: int) -> float | None:
    """Return the seconds that the train step takes from the compilation cache; None without one."""
    if not jax.config.jax_compilation_cache_dir:
        return None
    start = time.perf_counter()
    components.compile_step(sequences)
    return time.perf_counter() - start


def _evaluation_seconds_per_token(components: Components, params: Any) -> tuple[float, float]:
    """Return the seconds to compile the evaluation, and those of a token: a full batch is scored twice."""
    scorer = components.evaluator.scorer
    document = ScoredDocument(np.zeros(scorer.rows * scorer.seq_len, np.int32), 1)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        scorer(params, [document])
        seconds.append(time.perf_counter() - start)
    return max(0.0, seconds[0] - seconds[1]), seconds[1] / document.predictions
