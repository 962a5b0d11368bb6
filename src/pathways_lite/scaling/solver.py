"""One fitter for every law: many starts, one objective, and how much of the answer is the data's.

What public tools get wrong here is stopping: with raw coordinates and absolute tolerances most starts of the Chinchilla
fit end in the flat valley beside the optimum (Besiroglu et al. 2024). Here parameters are centred logarithms, the
objective is a sum, and lanes of BFGS stop on relative progress alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.scaling.bfgs import Minima, minimize
from pathways_lite.scaling.law import Columns, Law, double_precision
from pathways_lite.scaling.losses import LINKS, Link, Loss

SCREENING = 200  # evaluations that every start gets
FINISHING = 4000  # evaluations that those near the best get
REACHED = 1e-6  # a start reached the best objective if it ended within this share of it


@dataclass(frozen=True)
class Solution:
    """Where a fit ended."""

    law: Law
    link: Link
    loss: Loss
    values: dict[str, float]
    objective: float  # the weighted sum over rows
    starts: int
    reached: int  # starts that ended at the best objective
    converged: bool
    working: np.ndarray  # the parameters as they were fitted
    curvature: np.ndarray  # estimate of the inverse Hessian there

    def predict(self, columns: Columns) -> np.ndarray:
        return predict(self.law, self.values, columns)


@dataclass(frozen=True)
class _Objective:
    """The sum that is minimised. Equal, and compiled once, for the same law, link, loss and fixed parameters."""

    law: Law
    link: Link
    loss: Loss
    fixed: tuple[str, ...] = ()

    def __call__(self, free: Any, weights: Any, shared: Any) -> Any:
        columns, target, centres, fixed = shared
        working = free
        if self.fixed:
            working = jnp.zeros(len(self.law.parameters), free.dtype)
            working = working.at[np.array(self._free)].set(free) if self._free else working
        values = self.law.from_working(working, centres, dict(zip(self.fixed, fixed, strict=True)))
        link = LINKS[self.link]
        return jnp.sum(weights * self.loss(link(self.law.predict(values, columns)) - link(target)))

    @property
    def _free(self) -> list[int]:
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
) -> Solution:
    """The parameters of `law` that minimise the sum of losses over the rows of `columns`.

    `columns` has the law's inputs and its target, [rows] each, in the law's units. `weights` [rows] count rows: a row
    of weight two is a row given twice. `starts` is how many to draw with `seed`, or arrays of natural values by
    parameter name, [starts] each. `fixed` parameters stay as they are.

    Raises UserError where no start leads anywhere.
    """
    link, loss, fixed = link or law.link, loss or law.loss, dict(fixed or {})
    target = np.asarray(columns[law.target], np.float64)
    weights = np.ones(len(target)) if weights is None else np.asarray(weights, np.float64)
    with double_precision():
        objective, shared = prepare(law, columns, link, loss, fixed)
        free = [i for i, name in enumerate(law.names) if name not in fixed]
        if isinstance(starts, int):
            begun = law.draw_starts(starts, target, seed)[:, free]
        else:
            begun = np.asarray(law.to_working(starts, shared[2]))[:, free]
        found = _race(objective, shared, begun, weights)
    best = int(np.argmin(found.f))
    if not np.isfinite(found.f[best]):
        raise UserError(f"{law.title}: no start gives a finite objective on these {len(target)} rows; check the units")
    values = _natural(objective, shared, found.x[best : best + 1])
    perfect = 1e-20 * float(np.sum(weights * target**2))  # data without noise: every residual is rounding
    return Solution(
        law=law, link=link, loss=loss, values={name: float(value[0]) for name, value in values.items()},
        objective=float(found.f[best]), starts=len(begun),
        reached=int((found.f <= found.f[best] * (1 + REACHED) + perfect).sum()), converged=bool(found.converged[best]),
        working=found.x[best], curvature=found.H[best],
    )  # fmt: skip


def resolve_weighted(
    solution: Solution, columns: Columns, weights: np.ndarray, fixed: Mapping[str, float] | None = None
) -> dict[str, np.ndarray]:
    """The fit again for every row of `weights` [fits, rows], each from `solution`: values by name, [fits]."""
    with double_precision():
        objective, shared = prepare(solution.law, columns, solution.link, solution.loss, dict(fixed or {}))
        begun = np.repeat(solution.working[None], len(weights), axis=0)
        found = minimize(
            objective, shared, begun, np.asarray(weights, np.float64),
            max_evaluations=FINISHING, curvature=solution.curvature,
        )  # fmt: skip
    return _natural(objective, shared, found.x)


def prepare(law: Law, columns: Columns, link: Link, loss: Loss, fixed: Mapping[str, float]) -> tuple[_Objective, Any]:
    """The objective and what it reads. To be called in double precision."""
    arrays = {name: np.asarray(columns[name], np.float64) for name in (*law.inputs, law.target)}
    names = tuple(name for name in law.names if name in fixed)
    held = tuple(float(fixed[name]) for name in names)
    return _Objective(law, link, loss, names), (arrays, arrays[law.target], law.centres(arrays), held)


def objective_of(
    law: Law, values: Mapping[str, float], columns: Columns, *, link: Link | None = None, loss: Loss | None = None
) -> float:
    """The sum of losses of given parameter values, e.g. published ones."""
    link, loss = link or law.link, loss or law.loss
    with double_precision():
        predicted = law.predict(values, {name: np.asarray(columns[name], np.float64) for name in law.inputs})
        f = LINKS[link]
        return float(jnp.sum(loss(f(predicted) - f(np.asarray(columns[law.target], np.float64)))))


def predict(law: Law, values: Mapping[str, Any], columns: Columns) -> np.ndarray:
    """The law's target for every row, in double precision."""
    with double_precision():
        arrays = {name: np.asarray(columns[name], np.float64) for name in law.inputs}
        return np.asarray(law.predict({name: jnp.asarray(value) for name, value in values.items()}, arrays))


def predict_many(law: Law, values: Mapping[str, np.ndarray], columns: Columns) -> np.ndarray:
    """The law's target for every row under every one of many values [fits] of its parameters: [fits, rows]."""
    with double_precision():
        arrays = {name: np.asarray(columns[name], np.float64) for name in law.inputs}
        each = {name: jnp.asarray(value) for name, value in values.items()}
        return np.asarray(jax.vmap(lambda v: law.predict(v, arrays))(each))


def allocate(law: Law, values: Mapping[str, Any], C: Any) -> dict[str, np.ndarray]:
    """The law's compute-optimal allocation, for a law that has one; `values` and `C` may be arrays that broadcast."""
    assert law.optimal is not None
    with double_precision(), np.errstate(all="ignore"):
        best = law.optimal({name: np.asarray(value, np.float64) for name, value in values.items()}, C)
        shape = np.broadcast_shapes(np.shape(C), *(np.shape(value) for value in values.values()))
        return {name: np.broadcast_to(np.asarray(value), shape) for name, value in best.items()}


def profile(solution: Solution, columns: Columns, name: str, grid: Sequence[float]) -> np.ndarray:
    """The best objective with parameter `name` held at each value of `grid`: how flat the valley is, and how wide."""
    objectives = []
    values = {key: np.array([value]) for key, value in solution.values.items()}
    for value in grid:
        held = solve(
            solution.law, columns, link=solution.link, loss=solution.loss, starts=values, fixed={name: float(value)}
        )
        objectives.append(held.objective)
        values = {key: np.array([v]) for key, v in held.values.items()}
    return np.array(objectives)


def _race(objective: _Objective, shared: Any, starts: np.ndarray, weights: np.ndarray) -> Minima:
    """Every start gets some evaluations; those that lead, or are near, get all they need."""

    def run(objective: _Objective, begun: np.ndarray, evaluations: int) -> Minima:
        own = np.broadcast_to(weights, (len(begun), len(weights)))
        return minimize(objective, shared, begun, own, max_evaluations=evaluations)

    found = run(objective, starts, SCREENING)
    order = np.argsort(found.f)
    leading = order[: max(16, int((found.f <= 1.02 * found.f[order[0]]).sum()))]
    leading = leading[~found.converged[leading] & np.isfinite(found.f[leading])]
    if len(leading):
        finished = run(objective, found.x[leading], FINISHING)
        for all_of_them, some in zip(found, finished, strict=True):
            all_of_them[leading] = some
    return found


def _natural(objective: _Objective, shared: Any, free: np.ndarray) -> dict[str, np.ndarray]:
    """Natural values by name, [fits], from the free working parameters [fits, free]."""
    law = objective.law
    with double_precision():
        working = np.zeros((len(free), len(law.parameters)))
        working[:, [i for i, name in enumerate(law.names) if name not in objective.fixed]] = free
        values = law.from_working(jnp.asarray(working), shared[2], dict(zip(objective.fixed, shared[3], strict=True)))
        return {name: np.broadcast_to(np.asarray(values[name]), len(free)).copy() for name in law.names}
