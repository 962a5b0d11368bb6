"""A bigram model whose train steps compile in milliseconds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from pathways_kernels.attention import Spans
from pathways_lite.batch import Batch
from pathways_lite.ledger import Timeline
from pathways_lite.models import TokenLosses
from pathways_lite.recipe import AdamW, Constant, Ramp, Steps
from pathways_lite.training.optimizers import build_optimizer, learning_rate_fn
from pathways_lite.training.step import init_state, make_train_step

V, E, B, T = 7, 5, 8, 6
AXES = {"embedding": ("vocab", "embed"), "head": ("vocab", "embed")}
TIMELINE = Timeline(Ramp(steps=((0, B),)), seq_len=T, flops_per_token=1, active_parameters=1, budget=Steps(n=100))
CONFIG = AdamW(learning_rate=0.02, schedule=Constant(warmup=Steps(n=5)))
OVERFLOW = V - 1  # a target with a finite loss and a NaN gradient


def initial_params():
    keys = jax.random.split(jax.random.key(0))
    return {name: jax.random.normal(key, (V, E)) for name, key in zip(AXES, keys, strict=True)}


def bigram_losses(params, batch, key):
    """Losses of every position; of `OVERFLOW` finite, with a NaN gradient."""
    del key
    logits = params["embedding"][batch.tokens] @ params["head"].T
    log_z = jax.nn.logsumexp(logits, axis=-1)
    loss = log_z - jnp.take_along_axis(logits, batch.targets[..., None], axis=-1)[..., 0]
    # 0 * sqrt(0) leaves the loss as it is and makes the gradient NaN.
    nll = loss + 0.0 * jnp.sqrt(jnp.where(batch.targets == OVERFLOW, 0.0 * loss, 1.0))
    return TokenLosses(nll, log_z)


def make_batch(seed, size=B):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, V, (size, T)).astype(np.int32)
    weights = rng.choice([0.0, 0.25, 1.0], (size, T)).astype(np.float32)
    weights[0] = 0.0  # rows and micro-batches differ in weight
    position = np.broadcast_to(np.arange(T, dtype=np.int32), (size, T))
    return Batch(
        tokens=tokens,
        targets=(tokens * 2 % OVERFLOW).astype(np.int32),
        loss_weights=weights,
        positions=position,
        spans=Spans(np.zeros_like(position), position + 1),
        domain=np.zeros(size, np.int32),
        sample_id=np.zeros((size, 2), np.uint32),
    )


@functools.cache
def jitted_step(
    config=CONFIG, microbatch=None, z_loss=1e-2, loss_fn=bigram_losses, donate=False, reparameterize=None, weights=None
):
    step = make_train_step(
        loss_fn,
        build_optimizer(config, TIMELINE, AXES),
        learning_rate=learning_rate_fn(config, TIMELINE),
        z_loss=z_loss,
        microbatch=microbatch,
        reparameterize=reparameterize,
        sample_weights=weights,
    )
    return jax.jit(step, donate_argnums=0 if donate else ())


def initial_state(config=CONFIG):
    return init_state(initial_params(), build_optimizer(config, TIMELINE, AXES), jax.random.key(3))


def take_steps(step, state, batches):
    losses = []
    for k, batch in enumerate(batches):
        state, metrics = step(state, batch, TIMELINE.clock(k))
        losses.append(float(metrics["loss"]))
    return state, losses


def assert_same_bits(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
