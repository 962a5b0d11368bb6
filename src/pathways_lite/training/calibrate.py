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


def calibrate_stage(spec: StageSpec, like: Speed | None = None) -> Speed:
    """Measure the stage's step and evaluation on this machine; nothing is written but to the compilation cache.

    Parameters are random and the data unmixed, which changes nothing about the time. A ramp of batch sizes is measured
    at its last one. `like`: the speed of a stage of the same family (`stage_family`) that this process has calibrated,
    which then need not prepare everything once more to know what that takes with the compilation cache.
    """
    startup, first = startup_seconds(), _Start(spec)
    train_step, state, batch = first.train_step, first.state, first.batch
    sequences, clock = first.sequences, spec.timeline.clock(spec.timeline.total_steps - 1)
    times: list[float] = []
    while len(times) < 2 or (len(times) < _MAX_STEPS and sum(times) < _SECONDS):
        start = time.perf_counter()
        state, metrics = train_step(state, batch, clock)
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - start)
    cached, preparing = None, first.preparing
    if like is not None and like.cached_compile is not None:
        cached, preparing = min(first.compiling, like.cached_compile), min(first.preparing, like.fixed - startup)
    elif jax.config.jax_compilation_cache_dir:
        again = _Start(spec)
        cached, preparing = min(first.compiling, again.compiling), min(first.preparing, again.preparing)
    return Speed(
        token=float(np.median(times[1:])) / (sequences * spec.stage.data.seq_len),
        evaluated_token=first.evaluated_token,
        save=_SAVE_SECONDS + 12 * parameter_count(spec.stage.model) / _SAVED_BYTES_PER_SECOND,
        compile=first.compiling + first.preparing - preparing,  # preparing compiles small programs too
        fixed=preparing + startup,
        memory=_memory_of_run(),
        calibrated=True,
        cached_compile=cached,
        recompile=first.compiling_step,
    )


class _Start:
    """A stage up to its first step, with the seconds of it. Made again, its programs come from the compilation cache.

    Attributes:
      compiling: seconds to compile the train step and the evaluation.
      compiling_step: those of the train step alone, all that depends on the budget and on rates.
      preparing: seconds of everything else: shapes, the state, a batch.
      evaluated_token: seconds to score a held-out token.
    """

    def __init__(self, spec: StageSpec) -> None:
        begin, timeline = time.perf_counter(), spec.timeline
        last = timeline.total_steps - 1
        self.sequences = timeline.sequences_at(last)
        components = Components(spec)
        compile_begin = time.perf_counter()
        self.train_step = components.compile_step(self.sequences)
        self.compiling = self.compiling_step = time.perf_counter() - compile_begin
        # Without the mixture, which another stage may have yet to learn.
        data, layout = spec.stage.data.model_copy(update={"mixture": None}), components.layout
        stream = DataStream(spec.store, data, timeline, spec.stage.objective, DataCursor(), layout.batch_shard)
        self.batch, self.state = layout.place_batch(stream.batch_at(last)), _random_state(components)
        jax.block_until_ready(self.state)
        evaluation = time.perf_counter()
        first, self.evaluated_token = _evaluation_seconds_per_token(components, self.state.params)
        self.preparing = evaluation - begin - self.compiling
        self.compiling += first


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
