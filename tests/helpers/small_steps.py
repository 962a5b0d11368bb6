"""Train steps of a tiny decoder on one device, with any field of its stage or model changed."""

import jax
import numpy as np

from helpers.small_recipes import make_recipe, make_stage
from pathways_kernels.attention import Spans
from pathways_lite.batch import Batch
from pathways_lite.recipe import Data, Model
from pathways_lite.training.components import Components
from pathways_lite.training.stage import StageSpec

B, T, V = 4, 16, 31
MODEL = Model(d_model=16, n_layers=4, n_heads=2, n_kv_heads=1, head_dim=8, d_ff=24, vocab_size=V, dtype="float32")


def components(**fields):
    """Components of a stage; `fields` are of the stage or of its model."""
    model = MODEL.model_copy(update={name: fields.pop(name) for name in list(fields) if name in Model.model_fields})
    stage = make_stage(
        **{"model": model, "data": Data(corpus="x", seq_len=T), "batch_size": B, "budget": "10 steps", **fields}
    )
    return Components(StageSpec(make_recipe(stage), 0), jax.devices()[:1])


def batch(seed=0):
    """A batch of random tokens."""
    tokens = np.random.default_rng(seed).integers(0, V, (B, T + 1)).astype(np.int32)
    positions = np.tile(np.arange(T, dtype=np.int32), (B, 1))
    return Batch(
        tokens[:, :-1], tokens[:, 1:], np.ones((B, T), np.float32), positions,
        Spans(np.zeros_like(positions), positions + 1), np.zeros(B, np.int32), np.zeros((B, 2), np.uint32),
    )  # fmt: skip


def take_steps(parts, n, state=None):
    """Return the first state, the state after n steps and the last metrics, in host memory."""
    state = parts.fresh_state() if state is None else state
    start, step, metrics = jax.device_get(state), jax.jit(parts.step_function), {}
    for number in range(n):
        state, metrics = step(state, batch(number), parts.timeline.clock(number))
    return start, jax.device_get(state), jax.device_get(metrics)
