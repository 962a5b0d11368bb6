"""Statistics of a step: norms of gradients, updates and parameters per layer and array, and sizes of activations.

They are computed by a program of their own, which does what the train step does but keeps nothing of it. So the train
step is the same program with and without statistics, which no compiler guarantees for one that returns more; and a
step without them costs nothing.

A row of the log, kind "statistics", has for each quantity a number per layer, or one where arrays are not stacked:

    gradient, update, parameter    {array: norms}; the gradient before clipping, both of what is trained alone
    residual_rms, residual_max     of the residual stream after each block: root mean square, largest absolute value
    attention_logit_max            largest absolute q k / sqrt(D) before the soft cap, of 64 queries per sequence
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pathways_lite.batch import Batch
from pathways_lite.ledger import Clock
from pathways_lite.models import ParamSpec
from pathways_lite.models.trainable import Trainable
from pathways_lite.training.gradient import GradientFn
from pathways_lite.training.step import TrainState

StepStatistics = Callable[[TrainState, Batch, Clock], dict[str, Any]]
"""(state, batch, clock) -> arrays by name; [layers trained] or scalars in trees like the parameters."""


def make_statistics(
    gradient_fn: GradientFn, optimizer: optax.GradientTransformationExtraArgs, specs: Any, trainable: Trainable
) -> StepStatistics:
    """Make the function that computes the statistics of the step that comes next.

    Args:
      gradient_fn: of losses that return `models.activations.Activations`.
      specs: `models.param_specs` of the model.
    """
    trained = trainable.arrays(specs)

    def statistics(state: TrainState, batch: Batch, clock: Clock) -> dict[str, Any]:
        gradient = gradient_fn(state.step, state.params, state.method_state, state.key, batch, clock)
        grads = gradient.grads
        extra = {"clock": clock, "grad_norm": optax.tree.norm(grads)}
        updates, _ = optimizer.update(grads, state.opt_state, state.params, **extra)
        activations = gradient.means.activations
        assert activations is not None
        return {
            "gradient": jax.tree.map(_norms, trained, grads),
            "update": jax.tree.map(_norms, trained, updates),
            "parameter": jax.tree.map(_norms, specs, state.params),
            "residual_rms": jnp.sqrt(activations.mean_squares.residual),
            "residual_max": activations.largest.residual,
            "attention_logit_max": activations.largest.attention_logit,
        }

    return statistics


def _norms(spec: ParamSpec, x: jax.Array) -> jax.Array:
    """Return the Euclidean norm of an array, or of each layer of a stacked one, float32."""
    return jnp.sqrt(jnp.sum(jnp.square(jnp.float32(x)), axis=tuple(range(int(spec.stacked), x.ndim))))


def statistics_row(values: Mapping[str, Any], trainable: Trainable, n_layers: int) -> dict[str, Any]:
    """Return the statistics as a row's JSON: lists of all layers, where None stands for a frozen one."""
    row: dict[str, Any] = {}
    for quantity, tree in values.items():
        if not isinstance(tree, dict):
            row[quantity] = np.asarray(tree).tolist()
            continue
        row[quantity] = arrays = {}
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            numbers = np.asarray(leaf).tolist()
            if quantity != "parameter" and name in trainable.trained:
                by_layer = dict(zip(trainable.trained[name], numbers, strict=True))
                numbers = [by_layer.get(layer) for layer in range(n_layers)]
            arrays[name] = numbers
    return row
