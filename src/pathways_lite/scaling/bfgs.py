"""Many small minimizations at once: BFGS in parallel lanes, vectorized over one evaluation per lane.

Each lane is a state machine: a line search by bracketing and bisection under the weak Wolfe conditions, then the BFGS
update. Lewis and Overton (2013) show that this also works for objectives with kinks, which absolute losses have and
Huber losses nearly have. All lanes advance together, and a finished lane is given the next task, so that no lane waits
for the slowest one. There is no absolute tolerance: a lane is done when BFGS expects a decrease below 1e-14 of the
objective, and expects it again after its curvature was reset.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

ARMIJO, WOLFE = 1e-4, 0.9
MAX_SEARCH_EVALUATIONS = 40  # evaluations in one line search
EVALUATIONS_PER_CHECK = 16  # evaluations between two checks for finished lanes
LANE_COUNTS = (1, 8, 32, 512)  # few choices, because each is a program to compile
FEW_LANES = 32
MAX_LANE_ELEMENTS = 2**22  # of task data in all lanes: what an evaluation keeps in memory is a few times that


class _Lane(NamedTuple):
    x: Any  # [p] position
    f: Any  # [] objective
    g: Any  # [p] gradient
    H: Any  # [p, p] estimate of the inverse Hessian
    H_at_end: Any  # [p, p] that estimate when the lane first seemed to have converged
    d: Any  # [p] search direction
    t: Any  # [] step size being tried
    low: Any  # [] longest step size known to be too short
    high: Any  # [] shortest step size known to be too long
    search_evaluations: Any  # [] evaluations in this line search
    resets: Any  # [] number of resets of the curvature since the last progress
    evaluations_left: Any  # []
    done: Any  # []


class Minima(NamedTuple):
    """Results by task: position `x` [tasks, p] and objective `f` [tasks].

    `converged` [tasks] is False if the evaluations ran out. `H` [tasks, p, p] is the estimate of the inverse Hessian.
    """

    x: np.ndarray
    f: np.ndarray
    converged: np.ndarray
    H: np.ndarray


def minimize(
    objective: Callable[[Any, Any, Any], Any],
    shared: Any,
    starts: np.ndarray,
    task_data: np.ndarray,
    *,
    max_evaluations: int,
    curvature: np.ndarray | None = None,
) -> Minima:
    """Minimize `objective(x, task_data[i], shared)` from `starts[i]` for every task i, in the current precision.

    `objective` must be hashable by what it computes (it is compiled once per shape). `shared` is a pytree of arrays
    that all tasks read, `task_data` [tasks, ...] is what differs between tasks. `curvature` [p, p] is an initial
    estimate of the inverse Hessian. A start at which the objective is not finite ends at once with f = inf.
    """
    tasks, p = starts.shape
    affordable = max(1, MAX_LANE_ELEMENTS // max(task_data[0].size, 1))
    wanted = next((count for count in LANE_COUNTS if count >= tasks), LANE_COUNTS[-1])
    lanes = max(count for count in LANE_COUNTS if count <= max(1, min(wanted, affordable)))
    minima = Minima(np.array(starts), np.full(tasks, np.inf), np.zeros(tasks, bool), np.zeros((tasks, p, p)))
    initial_curvature = np.full((p, p), np.nan) if curvature is None else curvature

    def init_tasks(task_indices: np.ndarray) -> _Lane:
        initial = _init_lanes(
            objective, starts[task_indices], task_data[task_indices], shared, initial_curvature, max_evaluations
        )
        return jax.tree.map(np.array, initial)

    task_ids = np.arange(lanes) % tasks
    lane_data, lane = np.array(task_data[task_ids]), init_tasks(task_ids)
    lane.done[tasks:] = True
    running = np.arange(lanes) < tasks
    next_task = min(lanes, tasks)
    while True:
        for i in np.flatnonzero(running & lane.done):
            for result, value in zip(
                minima, (lane.x[i], lane.f[i], lane.evaluations_left[i] > 0, lane.H_at_end[i]), strict=True
            ):
                result[task_ids[i]] = value
        running &= ~lane.done
        free = np.flatnonzero(lane.done)[: tasks - next_task]
        if len(free):
            next_tasks = np.arange(next_task, next_task + len(free))
            next_task += len(free)
            for old, new in zip(lane, init_tasks(np.resize(next_tasks, lanes)), strict=True):
                old[free] = new[: len(free)]
            lane_data[free], task_ids[free], running[free] = task_data[next_tasks], next_tasks, True
        elif not running.any():
            return minima
        elif lanes >= 2 * FEW_LANES and running.sum() <= FEW_LANES:
            # The few slowest tasks continue in fewer lanes.
            lanes = FEW_LANES
            kept_lanes = np.argsort(~running, kind="stable")[:lanes]
            lane = jax.tree.map(operator.itemgetter(kept_lanes), lane)
            lane_data, task_ids, running = lane_data[kept_lanes], task_ids[kept_lanes], running[kept_lanes]
        else:
            lane = jax.tree.map(np.array, _advance_lanes(objective, lane, lane_data, shared))


@functools.partial(jax.jit, static_argnums=0)
def _init_lanes(objective: Any, x: Any, task_data: Any, shared: Any, curvature: Any, evaluations: int) -> _Lane:
    f, g = jax.vmap(jax.value_and_grad(objective), in_axes=(0, 0, None))(x, task_data, shared)
    lanes, p = x.shape
    finite = jnp.isfinite(f) & jnp.isfinite(g).all(-1)
    length = jnp.linalg.norm(g, axis=-1)
    # The first step is half a unit long: working coordinates are logarithms and exponents, all of order one.
    scale = jnp.where(length > 0, 0.5 / jnp.where(length > 0, length, 1), 1.0)
    H = jnp.broadcast_to(jnp.eye(p, dtype=x.dtype), (lanes, p, p)) * scale[:, None, None]
    H = jnp.where(jnp.isnan(curvature), H, curvature)
    zero, one = jnp.zeros(lanes, x.dtype), jnp.ones(lanes, x.dtype)
    count = jnp.zeros(lanes, jnp.int32)
    evaluations_left = jnp.full(lanes, evaluations, jnp.int32)
    return _Lane(
        x=x, f=jnp.where(finite, f, jnp.inf), g=g, H=H, H_at_end=H, d=-jax.vmap(_matvec)(H, g),
        t=one, low=zero, high=one * jnp.inf,
        search_evaluations=count, resets=count, evaluations_left=evaluations_left, done=~finite | (length == 0),
    )  # fmt: skip


@functools.partial(jax.jit, static_argnums=0)
def _advance_lanes(objective: Any, lanes: _Lane, task_data: Any, shared: Any) -> _Lane:
    evaluate = jax.vmap(jax.value_and_grad(objective), in_axes=(0, 0, None))

    def evaluate_step(_: Any, lane: _Lane) -> _Lane:
        f, g = evaluate(lane.x + lane.t[:, None] * lane.d, task_data, shared)
        advanced = jax.vmap(_advance_lane)(lane, f, g)
        return jax.tree.map(lambda old, new: jnp.where(_expand_like(lane.done, old), old, new), lane, advanced)

    return jax.lax.fori_loop(0, EVALUATIONS_PER_CHECK, evaluate_step, lanes)


# Products of vectors with a few elements each: fused sums are faster than one call of a matrix library per lane.
def _dot(a: Any, b: Any) -> Any:
    return (a * b).sum(-1)


def _matvec(H: Any, v: Any) -> Any:
    return (H * v).sum(-1)


def _expand_like(flags: Any, array: Any) -> Any:
    return flags.reshape(flags.shape + (1,) * (array.ndim - flags.ndim))


def _advance_lane(lane: _Lane, f: Any, g: Any) -> _Lane:
    """Advance one lane, given f and g at x + t d."""
    slope = _dot(lane.g, lane.d)
    finite = jnp.isfinite(f) & jnp.isfinite(g).all()
    sufficient_decrease = finite & (f <= lane.f + ARMIJO * lane.t * slope)
    is_flat = _dot(g, lane.d) >= WOLFE * slope
    low = jnp.where(sufficient_decrease & ~is_flat, lane.t, lane.low)
    high = jnp.where(sufficient_decrease, lane.high, lane.t)
    exhausted = (lane.search_evaluations >= MAX_SEARCH_EVALUATIONS) | (high - low <= 1e-14 * high)
    accepted = sufficient_decrease & (is_flat | exhausted)
    step = jnp.where(jnp.isinf(high), 2 * low, 0.5 * (low + high))
    searching = lane._replace(t=step, low=low, high=high, search_evaluations=lane.search_evaluations + 1)
    stuck = ~accepted & exhausted
    ended = _end_line_search(lane, f, g, accepted, stuck)
    is_searching = ~(accepted | stuck)
    next_lane = jax.tree.map(lambda a, b: jnp.where(is_searching, a, b), searching, ended)
    evaluations_left = lane.evaluations_left - 1
    return next_lane._replace(evaluations_left=evaluations_left, done=next_lane.done | (evaluations_left <= 0))


def _end_line_search(lane: _Lane, f: Any, g: Any, accepted: Any, stuck: Any) -> _Lane:
    """End a line search: update position, curvature and direction."""
    s = lane.t * lane.d
    y = g - lane.g
    sy, yy = _dot(s, y), _dot(y, y)
    updates_curvature = accepted & (sy > 0) & (yy > 0)
    gamma = jnp.where(updates_curvature, sy / jnp.where(yy > 0, yy, 1), 1.0)
    eye = jnp.eye(len(s), dtype=s.dtype)
    # The first update rescales the identity (Nocedal and Wright, eq. 6.20).
    is_first_update = (lane.H[0, 0] == lane.H[-1, -1]) & (jnp.abs(lane.H - lane.H[0, 0] * eye).max() == 0)
    H = jnp.where(is_first_update & updates_curvature, gamma * eye, lane.H)
    rho = jnp.where(updates_curvature, 1 / jnp.where(updates_curvature, sy, 1), 0.0)
    Hy = _matvec(H, y)
    H = H + rho * ((1 + rho * _dot(y, Hy)) * s[:, None] * s - Hy[:, None] * s - s[:, None] * Hy)
    gain = jnp.where(accepted, lane.f - f, 0.0)
    x, f, g = (jnp.where(accepted, new, old) for new, old in ((lane.x + s, lane.x), (f, lane.f), (g, lane.g)))
    expected_decrease = _dot(g, _matvec(H, g))
    seems_converged = stuck | (expected_decrease <= 1e-14 * jnp.abs(f)) | ~jnp.isfinite(expected_decrease)
    resets = jnp.where(gain > 1e-10 * jnp.abs(f), 0, lane.resets) + seems_converged
    length = jnp.linalg.norm(g)
    reset_H = jnp.where(updates_curvature, gamma, 1e-3 / jnp.where(length > 0, length, 1)) * eye
    H_at_end = jnp.where((resets <= seems_converged), H, lane.H_at_end)
    H = jnp.where(seems_converged, reset_H, H)
    zero = jnp.zeros_like(f)
    return lane._replace(
        x=x, f=f, g=g, H=H, H_at_end=H_at_end, d=-_matvec(H, g),
        t=zero + 1, low=zero, high=zero + jnp.inf, search_evaluations=jnp.zeros_like(lane.search_evaluations),
        resets=resets, done=(resets >= 2) | (length == 0),
    )  # fmt: skip
