"""Many small minimisations at once: BFGS in lanes, one evaluation per lane and tick.

Each lane is a state machine (a line search by bracketing and bisection under the weak Wolfe conditions, then the
BFGS update: Lewis and Overton 2013, who show that it also copes with objectives that have kinks, which Huber losses
nearly and absolute losses really have). All lanes are advanced together, and a lane that is done makes room for the
next task, so that no lane waits for the slowest one. Nothing is compared with an absolute tolerance: a lane
is done when BFGS expects a decrease below 1e-14 of the objective, and again so after forgetting its curvature.
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
EVALUATIONS_PER_CHECK = 16  # evaluations between two looks at which lanes are done
LANE_COUNTS = (1, 8, 32, 512)  # lanes side by side: few choices, as each is a program to compile
FEW_LANES = 32


class _Lane(NamedTuple):
    x: Any  # [p] position
    f: Any  # [] objective
    g: Any  # [p] gradient
    H: Any  # [p, p] inverse Hessian's estimate
    H_at_end: Any  # [p, p] that estimate when the lane first seemed to be at an end
    d: Any  # [p] search direction
    t: Any  # [] step being tried
    low: Any  # [] longest step known to be too short
    high: Any  # [] shortest step known to be too long
    search_evaluations: Any  # [] evaluations in this line search
    resets: Any  # [] how often curvature was forgotten since the last progress
    evaluations_left: Any  # [] evaluations left
    done: Any  # []


class Minima(NamedTuple):
    """Where the lanes ended: `x` [tasks, p], `f` [tasks]; `converged` is False where evaluations ran out.

    `H` [tasks, p, p] is the inverse Hessian as it was estimated there.
    """

    x: np.ndarray
    f: np.ndarray
    converged: np.ndarray
    H: np.ndarray


def minimize(
    objective: Callable[[Any, Any, Any], Any],
    shared: Any,
    starts: np.ndarray,
    own: np.ndarray,
    *,
    max_evaluations: int,
    curvature: np.ndarray | None = None,
) -> Minima:
    """Minimise `objective(x, own[i], shared)` from `starts[i]`, for every task i, in the precision in force.

    `objective` must be hashable by what it computes (it is compiled once per shape); `shared` is a pytree of arrays
    that all tasks read, `own` [tasks, ...] what differs between them. `curvature` [p, p] is what is known of the
    inverse Hessian beforehand. Starts where the objective is not finite end at once with f = inf.
    """
    tasks, p = starts.shape
    lanes = next((width for width in LANE_COUNTS if width >= tasks), LANE_COUNTS[-1])
    found = Minima(np.array(starts), np.full(tasks, np.inf), np.zeros(tasks, bool), np.zeros((tasks, p, p)))
    known = np.full((p, p), np.nan) if curvature is None else curvature

    def begin(chosen: np.ndarray) -> _Lane:
        begun = _init_lanes(objective, starts[chosen], own[chosen], shared, known, max_evaluations)
        return jax.tree.map(np.array, begun)

    task_of = np.arange(lanes) % tasks
    owned, lane = np.array(own[task_of]), begin(task_of)
    lane.done[tasks:] = True
    running = np.arange(lanes) < tasks
    next_task = min(lanes, tasks)
    while True:
        for i in np.flatnonzero(running & lane.done):
            for result, value in zip(
                found, (lane.x[i], lane.f[i], lane.evaluations_left[i] > 0, lane.H_at_end[i]), strict=True
            ):
                result[task_of[i]] = value
        running &= ~lane.done
        free = np.flatnonzero(lane.done)[: tasks - next_task]
        if len(free):
            coming = np.arange(next_task, next_task + len(free))
            next_task += len(free)
            for old, new in zip(lane, begin(np.resize(coming, lanes)), strict=True):
                old[free] = new[: len(free)]
            owned[free], task_of[free], running[free] = own[coming], coming, True
        elif not running.any():
            return found
        elif lanes >= 2 * FEW_LANES and running.sum() <= FEW_LANES:
            # The slowest few go on among themselves.
            lanes = FEW_LANES
            kept = np.argsort(~running, kind="stable")[:lanes]
            lane = jax.tree.map(operator.itemgetter(kept), lane)
            owned, task_of, running = owned[kept], task_of[kept], running[kept]
        else:
            lane = jax.tree.map(np.array, _advance_lanes(objective, lane, owned, shared))


@functools.partial(jax.jit, static_argnums=0)
def _init_lanes(objective: Any, x: Any, own: Any, shared: Any, known: Any, evaluations: int) -> _Lane:
    f, g = jax.vmap(jax.value_and_grad(objective), in_axes=(0, 0, None))(x, own, shared)
    lanes, p = x.shape
    finite = jnp.isfinite(f) & jnp.isfinite(g).all(-1)
    length = jnp.linalg.norm(g, axis=-1)
    # The first step is half a unit long: working coordinates are logarithms and exponents, all of order one.
    scale = jnp.where(length > 0, 0.5 / jnp.where(length > 0, length, 1), 1.0)
    H = jnp.broadcast_to(jnp.eye(p, dtype=x.dtype), (lanes, p, p)) * scale[:, None, None]
    H = jnp.where(jnp.isnan(known), H, known)
    zero, one = jnp.zeros(lanes, x.dtype), jnp.ones(lanes, x.dtype)
    count = jnp.zeros(lanes, jnp.int32)
    left = jnp.full(lanes, evaluations, jnp.int32)
    return _Lane(
        x=x, f=jnp.where(finite, f, jnp.inf), g=g, H=H, H_at_end=H, d=-jax.vmap(_matvec)(H, g),
        t=one, low=zero, high=one * jnp.inf,
        search_evaluations=count, resets=count, evaluations_left=left, done=~finite | (length == 0),
    )  # fmt: skip


@functools.partial(jax.jit, static_argnums=0)
def _advance_lanes(objective: Any, lanes: _Lane, own: Any, shared: Any) -> _Lane:
    evaluate = jax.vmap(jax.value_and_grad(objective), in_axes=(0, 0, None))

    def tick(_: Any, lane: _Lane) -> _Lane:
        f, g = evaluate(lane.x + lane.t[:, None] * lane.d, own, shared)
        moved = jax.vmap(_advance_lane)(lane, f, g)
        return jax.tree.map(lambda old, new: jnp.where(_expand_like(lane.done, old), old, new), lane, moved)

    return jax.lax.fori_loop(0, EVALUATIONS_PER_CHECK, tick, lanes)


# Products of vectors of a few elements each: sums that fuse are faster than calls of a matrix library per lane.
def _dot(a: Any, b: Any) -> Any:
    return (a * b).sum(-1)


def _matvec(H: Any, v: Any) -> Any:
    return (H * v).sum(-1)


def _expand_like(flags: Any, array: Any) -> Any:
    return flags.reshape(flags.shape + (1,) * (array.ndim - flags.ndim))


def _advance_lane(lane: _Lane, f: Any, g: Any) -> _Lane:
    """One lane after an evaluation at x + t d gave f and g."""
    slope = _dot(lane.g, lane.d)
    finite = jnp.isfinite(f) & jnp.isfinite(g).all()
    lower = finite & (f <= lane.f + ARMIJO * lane.t * slope)
    flat = _dot(g, lane.d) >= WOLFE * slope
    low = jnp.where(lower & ~flat, lane.t, lane.low)
    high = jnp.where(lower, lane.high, lane.t)
    exhausted = (lane.search_evaluations >= MAX_SEARCH_EVALUATIONS) | (high - low <= 1e-14 * high)
    arrived = lower & (flat | exhausted)
    step = jnp.where(jnp.isinf(high), 2 * low, 0.5 * (low + high))
    searching = lane._replace(t=step, low=low, high=high, searched=lane.search_evaluations + 1)
    stuck = ~arrived & exhausted
    after = _end_line_search(lane, f, g, arrived, stuck)
    go_on = ~(arrived | stuck)
    chosen = jax.tree.map(lambda a, b: jnp.where(go_on, a, b), searching, after)
    left = lane.evaluations_left - 1
    return chosen._replace(ticks=left, done=chosen.done | (left <= 0))


def _end_line_search(lane: _Lane, f: Any, g: Any, arrived: Any, stuck: Any) -> _Lane:
    """The end of a line search: the next position, curvature and direction."""
    s = lane.t * lane.d
    y = g - lane.g
    sy, yy = _dot(s, y), _dot(y, y)
    good = arrived & (sy > 0) & (yy > 0)
    gamma = jnp.where(good, sy / jnp.where(yy > 0, yy, 1), 1.0)
    eye = jnp.eye(len(s), dtype=s.dtype)
    # The first update rescales the identity (Nocedal and Wright, eq. 6.20).
    first = (lane.H[0, 0] == lane.H[-1, -1]) & (jnp.abs(lane.H - lane.H[0, 0] * eye).max() == 0)
    H = jnp.where(first & good, gamma * eye, lane.H)
    rho = jnp.where(good, 1 / jnp.where(good, sy, 1), 0.0)
    Hy = _matvec(H, y)
    H = H + rho * ((1 + rho * _dot(y, Hy)) * s[:, None] * s - Hy[:, None] * s - s[:, None] * Hy)
    gain = jnp.where(arrived, lane.f - f, 0.0)
    x, f, g = (jnp.where(arrived, new, old) for new, old in ((lane.x + s, lane.x), (f, lane.f), (g, lane.g)))
    expected = _dot(g, _matvec(H, g))
    at_end = stuck | (expected <= 1e-14 * jnp.abs(f)) | ~jnp.isfinite(expected)
    resets = jnp.where(gain > 1e-10 * jnp.abs(f), 0, lane.resets) + at_end
    length = jnp.linalg.norm(g)
    fresh = jnp.where(good, gamma, 1e-3 / jnp.where(length > 0, length, 1)) * eye
    kept = jnp.where((resets <= at_end), H, lane.H_at_end)
    H = jnp.where(at_end, fresh, H)
    zero = jnp.zeros_like(f)
    return lane._replace(
        x=x, f=f, g=g, H=H, kept=kept, d=-_matvec(H, g),
        t=zero + 1, low=zero, high=zero + jnp.inf, searched=jnp.zeros_like(lane.search_evaluations),
        resets=resets, done=(resets >= 2) | (length == 0),
    )  # fmt: skip
