"""What a train step carries from step to step."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pathways_lite.methods.pruning import under_masks


class TrainState(NamedTuple):
    """A pytree of plain arrays: all of it is donated to the next step, and all of it is saved and restored as one."""

    step: Any  # int32 scalar, steps taken (also those whose update was dropped)
    params: Any  # nested dict of float32 arrays
    opt_state: Any
    method_state: Any  # of a training-efficiency method, `weighting.MethodState`; () where there is none
    key: Any  # uint32 key data of a `jax.random` key; each step derives its own from it


def init_state(params: Any, optimizer: optax.GradientTransformation, key: jax.Array) -> TrainState:
    """The state before step 0. It owns `params`, which a donating step consumes. `key`: from `jax.random`."""
    opt_state = optimizer.init(params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=under_masks(opt_state, params),
        opt_state=opt_state,
        method_state=(),
        key=jnp.copy(jax.random.key_data(key)),  # the caller's key outlives the state
    )
