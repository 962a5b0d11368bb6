"""Fit any law: minimize one objective from many starts, and refit it to weighted rows.

Public tools often stop too early: with raw coordinates and absolute tolerances most starts of the Chinchilla fit end in
the flat valley next to the optimum (Besiroglu et al. 2024). Here parameters are centered logarithms, the objective is a
sum, and BFGS stops on relative progress alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.scaling.bfgs import Minima, minimize
from pathways_lite.scaling.bootstrap import Resamples
from pathways_lite.scaling.law import Columns, Law, double_precision
from pathways_lite.scaling.losses import LINKS, Link, Loss

SCREENING_EVALUATIONS = 200  # for every start
FINISHING_EVALUATIONS = 4000  # for the starts that are not done then
MAX_RACE_ROWS = 50_000  # starts are compared on this many rows
MAX_WEIGHTS = 2**24  # elements of the weights [fits, rows] that are in memory at once
REACHED_TOLERANCE = 1e-6  # a start reached the best objective if it ended within this fraction of it

Progress = Callable[[str, int, str], AbstractContextManager[Callable[[int], None]]]
"""Shows a part of the work: called with an activity, its total and the unit, gives what is told of finished units."""


@contextmanager
def no_progress(activity: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Show nothing."""
    yield lambda count: None


@dataclass(frozen=True)
class Solution:
    """The result of a fit."""

    law: Law
    link: Link
    loss: Loss
    values: dict[str, float]
    objective: float  # the weighted sum over rows
    starts: int
    reached: int  # starts that ended at the best objective
    converged: bool
    working: np.ndarray  # the parameters in working coordinates
    curvature: np.ndarray  # estimate of the inverse Hessian at `working`

    def predict(self, columns: Columns) -> np.ndarray:
        return predict(self.law, self.values, columns)


@dataclass(frozen=True)
class _Objective:
    """The sum to minimize. Instances with the same law, link, loss and fixed parameters are equal and compiled once."""

    law: Law
    link: Link
    loss: Loss
    fixed: tuple[str, ...] = ()

    def __call__(self, free: Any, weights: Any, shared: Any) -> Any:
        columns, target, centers, fixed = shared
        working = free
        if self.fixed:
            working = jnp.zeros(len(self.law.parameters), free.dtype)
            working = working.at[np.array(self._free_indices)].set(free) if self._free_indices else working
        values = self.law.from_working(working, centers, dict(zip(self.fixed, fixed, strict=True)))
        link = LINKS[self.link]
        return jnp.sum(weights * self.loss(link(self.law.predict(values, columns)) - link(target)))

    @property
    def _free_indices(self) -> list[int]:
        return [i for i, name in enumerate(self.law.names) if name not in self.fixed]


def solve(
    law: Law,
    columns: Columns,
    *,
    weights: np.ndarray | None = None,
    link: Link | None = None,
    loss: Loss | None = None,
    starts: int | Mapping[str, np.ndarray] = 20,
    seed: int = 0,
    fixed: Mapping[str, float] | None = None,
    progress: Progress = no_progress,
) -> Solution:
    """Find the parameters of `law` that minimize the sum of losses over the rows of `columns`.

    `columns` has the law's inputs and its target, [rows] each, in the law's units. `weights` [rows] count rows: a row
    with weight two is a row given twice. `starts` is the number of starts to draw with `seed`, or arrays of natural
    values by parameter name, [starts] each. Parameters in `fixed` are not fitted. All starts of a table with more than
    `MAX_RACE_ROWS` rows are run on that many of them, drawn at random, and the best one is finished on all rows.

    Raises UserError if no start gives a finite objective.
    """
    link, loss, fixed = link or law.link, loss or law.loss, dict(fixed or {})
    target = np.asarray(columns[law.target], np.float64)
    weights = np.ones(len(target)) if weights is None else np.asarray(weights, np.float64)
    with double_precision():
        objective, shared = make_objective(law, columns, link, loss, fixed)
        free = [i for i, name in enumerate(law.names) if name not in fixed]
        if isinstance(starts, int):
            initial = law.draw_starts(starts, target, seed)[:, free]
        else:
            initial = np.asarray(law.to_working(starts, shared[2]))[:, free]
        minima = _minimize_from_starts(objective, shared, initial, weights, progress)
    best = int(np.argmin(minima.f))
    if not np.isfinite(minima.f[best]):
        raise UserError(f"{law.title}: no start gives a finite objective on these {len(target)} rows; check the units")
    # Without noise in the data every residual is a rounding error, and ratios of objectives mean nothing.
    rounding = 1e-20 * float(np.sum(weights * target**2))
    reached = int((minima.f <= minima.f[best] * (1 + REACHED_TOLERANCE) + rounding).sum())
    if len(target) > MAX_RACE_ROWS:
        minima = _finish_on_all_rows(objective, shared, minima.x[best : best + 1], weights, progress)
        best = 0
    values = _natural(objective, shared, minima.x[best : best + 1])
    return Solution(
        law=law, link=link, loss=loss, values={name: float(value[0]) for name, value in values.items()},
        objective=float(minima.f[best]), starts=len(initial), reached=reached, converged=bool(minima.converged[best]),
        working=minima.x[best], curvature=minima.H[best],
    )  # fmt: skip


def refit_weighted(
    solution: Solution,
    columns: Columns,
    weights: np.ndarray | Resamples,
    fixed: Mapping[str, float] | None = None,
    progress: Progress = no_progress,
) -> dict[str, np.ndarray]:
    """Fit again for every row of `weights` [fits, rows], starting from `solution`. Returns values by name, [fits].

    Many rows are fitted a few resamples at a time, so that memory is bounded by `MAX_WEIGHTS`.
    """
    fits, rows = weights.shape
    at_once = max(1, min(fits, MAX_WEIGHTS // max(rows, 1)))
    parts = []
    with double_precision(), progress("fitting again", fits, "resamples") as advance:
        objective, shared = make_objective(solution.law, columns, solution.link, solution.loss, dict(fixed or {}))
        for first in range(0, fits, at_once):
            count = min(at_once, fits - first)
            part = weights.draw(count) if isinstance(weights, Resamples) else np.asarray(weights[first : first + count])
            minima = minimize(
                objective, shared, np.repeat(solution.working[None], count, axis=0), np.asarray(part, np.float64),
                max_evaluations=FINISHING_EVALUATIONS, curvature=solution.curvature,
            )  # fmt: skip
            parts.append(minima.x)
            advance(count)
    return _natural(objective, shared, np.concatenate(parts))


def make_objective(
    law: Law, columns: Columns, link: Link, loss: Loss, fixed: Mapping[str, float]
) -> tuple[_Objective, Any]:
    """Return the objective and the arrays that it reads. Call it in double precision."""
    arrays = {name: np.asarray(columns[name], np.float64) for name in (*law.inputs, law.target)}
    names = tuple(name for name in law.names if name in fixed)
    fixed_values = tuple(float(fixed[name]) for name in names)
    return _Objective(law, link, loss, names), (arrays, arrays[law.target], law.centers(arrays), fixed_values)


def objective_of(
    law: Law, values: Mapping[str, float], columns: Columns, *, link: Link | None = None, loss: Loss | None = None
) -> float:
    """Return the sum of losses of given parameter values, e.g. published ones."""
    link, loss = link or law.link, loss or law.loss
    with double_precision():
        predicted = law.predict(values, {name: np.asarray(columns[name], np.float64) for name in law.inputs})
        f = LINKS[link]
        return float(jnp.sum(loss(f(predicted) - f(np.asarray(columns[law.target], np.float64)))))


def predict(law: Law, values: Mapping[str, Any], columns: Columns) -> np.ndarray:
    """Predict the law's target for every row, in double precision."""
    with double_precision():
        arrays = {name: np.asarray(columns[name], np.float64) for name in law.inputs}
        return np.asarray(law.predict({name: jnp.asarray(value) for name, value in values.items()}, arrays))


def predict_many(law: Law, values: Mapping[str, np.ndarray], columns: Columns) -> np.ndarray:
    """Predict the law's target for every row and for every set of values [fits] of its parameters: [fits, rows]."""
    with double_precision():
        arrays = {name: np.asarray(columns[name], np.float64) for name in law.inputs}
        fits = {name: jnp.asarray(value) for name, value in values.items()}
        return np.asarray(jax.vmap(lambda v: law.predict(v, arrays))(fits))


def optimal_allocation(law: Law, values: Mapping[str, Any], C: Any) -> dict[str, np.ndarray]:
    """Return the compute-optimal allocation of a law that has one; `values` and `C` may be arrays that broadcast."""
    assert law.optimal is not None
    with double_precision(), np.errstate(all="ignore"):
        best = law.optimal({name: np.asarray(value, np.float64) for name, value in values.items()}, C)
        shape = np.broadcast_shapes(np.shape(C), *(np.shape(value) for value in values.values()))
        return {name: np.broadcast_to(np.asarray(value), shape) for name, value in best.items()}


def profile_objective(solution: Solution, columns: Columns, name: str, grid: Sequence[float]) -> np.ndarray:
    """Return the best objective with parameter `name` fixed at each value of `grid` (the profile likelihood)."""
    objectives = []
    values = {key: np.array([value]) for key, value in solution.values.items()}
    for value in grid:
        profile = solve(
            solution.law, columns, link=solution.link, loss=solution.loss, starts=values, fixed={name: float(value)}
        )
        objectives.append(profile.objective)
        values = {key: np.array([v]) for key, v in profile.values.items()}
    return np.array(objectives)


def _minimize_from_starts(
    objective: _Objective, shared: Any, starts: np.ndarray, weights: np.ndarray, progress: Progress
) -> Minima:
    """Run every start to its end; on `MAX_RACE_ROWS` rows at most.

    All starts are given a few evaluations first, and those that are not done are then run together, as a few slow ones
    would keep the many lanes of the others.
    """
    if len(weights) > MAX_RACE_ROWS:
        rows = np.sort(np.random.default_rng(0).choice(len(weights), MAX_RACE_ROWS, replace=False))
        arrays = {name: array[rows] for name, array in shared[0].items()}
        # The centers stay those of all rows: working coordinates mean the same.
        shared, weights = (arrays, shared[1][rows], *shared[2:]), weights[rows]
    at_once = max(1, MAX_WEIGHTS // max(len(weights), 1))

    def run(initial: np.ndarray, evaluations: int) -> Minima:
        parts = []
        for first in range(0, len(initial), at_once):
            part = initial[first : first + at_once]
            task_weights = np.broadcast_to(weights, (len(part), len(weights)))
            parts.append(minimize(objective, shared, part, task_weights, max_evaluations=evaluations))
        return Minima(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    with progress("fitting", len(starts), "starts") as advance:
        minima = run(starts, SCREENING_EVALUATIONS)
        unfinished = np.flatnonzero(~minima.converged & np.isfinite(minima.f))
        advance(len(starts) - len(unfinished))
        if len(unfinished):
            finished = run(minima.x[unfinished], FINISHING_EVALUATIONS)
            for field, finished_field in zip(minima, finished, strict=True):
                field[unfinished] = finished_field
            advance(len(unfinished))
    return minima


def _finish_on_all_rows(
    objective: _Objective, shared: Any, start: np.ndarray, weights: np.ndarray, progress: Progress
) -> Minima:
    """Minimize over all rows from one start [1, parameters]."""
    with double_precision(), progress("fitting all rows", 1, "fit") as advance:
        minima = minimize(objective, shared, start, weights[None], max_evaluations=FINISHING_EVALUATIONS)
        advance(1)
    return minima


def _natural(objective: _Objective, shared: Any, free: np.ndarray) -> dict[str, np.ndarray]:
    """Return natural values by name, [fits], from the free working parameters [fits, free]."""
    law = objective.law
    with double_precision():
        working = np.zeros((len(free), len(law.parameters)))
        working[:, [i for i, name in enumerate(law.names) if name not in objective.fixed]] = free
        values = law.from_working(jnp.asarray(working), shared[2], dict(zip(objective.fixed, shared[3], strict=True)))
        return {name: np.broadcast_to(np.asarray(values[name]), len(free)).copy() for name in law.names}
