"""Loss along a learning-rate schedule: Tissue et al. 2024 (arXiv 2408.11029), and the multi-power law (2503.12811)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from pathways_lite.scaling.law import Columns, Law, Parameter, Values, power
from pathways_lite.scaling.table import Table


def annealing_loss(v: Values, x: Columns) -> Any:
    """L(s) = L0 + A S1^-alpha - C S2."""
    return v["L0"] + v["A"] * power(x["S1"], -v["alpha"]) - v["C"] * x["S2"]


TISSUE = Law(
    name="annealing",
    title="Learning-rate annealing",
    source="Tissue et al. 2024, arXiv 2408.11029",
    formula="L = L0 + A S1^-alpha - C S2",
    inputs=("S1", "S2"),
    target="L",
    parameters=(
        Parameter("L0", (0.2, 2.0)),
        Parameter("A", (0.02, 2.0), center=(("-alpha", "S1"),)),
        Parameter("C", (0.01, 20.0)),
        Parameter("alpha", (0.1, 1.0)),
    ),
    predict=annealing_loss,
    must_vary=("S1",),
    any_sign=("S2",),
    published=(("Tissue et al., momentum 0.999", (2.628, 0.429, 0.411, 0.550)),),
)


def schedule_warnings(rates: np.ndarray) -> list[str]:
    """Return a sentence for every property of a schedule [steps] that the law is known to get wrong."""
    warnings = []
    if np.any(rates[1:] <= 0):
        warnings.append(
            "The schedule has steps at learning rate zero, where nothing is learned but the predicted loss keeps "
            "falling; use the prediction at the last step before them."
        )
    if np.any(np.diff(rates[int(np.argmax(rates)) :]) > 0):
        warnings.append("The learning rate rises again after falling; the law was not fitted to such schedules.")
    return warnings


# ---- multi-power law ----


def multi_power_loss(v: Values, x: Columns) -> Any:
    """L(s) = L0 + A S1(s)^-alpha - B sum_k (eta_{k-1} - eta_k) G(eta_k^-gamma (S1(s) - S1(k-1))).

    G(y) = 1 - (1 + C y)^-beta. `x` has per row S1 and `falls`, `log_rate`, `before` [rows, falls]: the falls of the
    learning rate up to the row's step, the logarithm of the rate after each and S1 before it (`fall_columns`).
    """
    since = x["S1"][:, None] - x["before"]
    y = v["C"] * jnp.exp(-v["gamma"] * x["log_rate"]) * jnp.maximum(since, 0)
    drop = v["B"] * jnp.sum(x["falls"] * -jnp.expm1(-v["beta"] * jnp.log1p(y)), axis=1)
    return v["L0"] + v["A"] * power(x["S1"], -v["alpha"]) - drop


MULTI_POWER = Law(
    name="multi-power",
    title="Multi-power law",
    source="Luo et al. 2025, arXiv 2503.12811",
    formula="L = L0 + A S1^-alpha - B sum_k (eta_{k-1} - eta_k) (1 - (1 + C eta_k^-gamma (S1 - S1_{k-1}))^-beta)",
    inputs=("S1", "falls", "log_rate", "before"),
    target="L",
    parameters=(
        Parameter("L0", (0.2, 4.0)),
        Parameter("A", (0.02, 2.0), center=(("-alpha", "S1"),)),
        Parameter("alpha", (0.2, 1.0)),
        Parameter("B", (50.0, 1000.0)),
        Parameter("C", (0.1, 5.0)),
        Parameter("beta", (0.2, 1.0)),
        Parameter("gamma", (0.2, 1.0)),
    ),
    predict=multi_power_loss,
    must_vary=("S1",),
    any_sign=("falls", "log_rate", "before"),
    published=(
        ("25M", (3.0405, 0.5247, 0.5079, 363.79, 2.0656, 0.5828, 0.6414)),
        ("100M", (2.6514, 0.6012, 0.4530, 437.95, 2.1325, 0.5979, 0.6552)),
    ),
)


def fall_columns(curves: Sequence[tuple[np.ndarray, np.ndarray]], *, max_groups: int | None = None) -> Table:
    """Return the multi-power law's columns for rows at `steps` of schedules `rates`, given as (rates, steps) pairs.

    Rises during warm-up count too, with their sign, as in the authors' code. `max_groups`: put consecutive changes of
    the rate together in at most that many groups per uninterrupted rise or fall, which changes predictions little and
    makes fits faster. None: every step is a group of its own.
    """
    tables: list[dict[str, np.ndarray]] = []
    for rates, steps in curves:
        area = np.cumsum(rates)
        changes = np.arange(1, len(rates))
        changes = changes[rates[changes] != rates[changes - 1]]
        groups = _group_steps(changes, np.sign(rates[changes - 1] - rates[changes]), max_groups)
        falls = np.array([np.sum(rates[g - 1] - rates[g]) for g in groups])
        middles = np.array([g[len(g) // 2] for g in groups], int)
        is_past = middles[None, :] <= steps[:, None]
        past_only = lambda values, there=is_past: np.where(there, np.broadcast_to(values, there.shape), 0.0)  # noqa: E731
        tables.append({
            "S1": area[steps],
            "falls": past_only(falls),
            "log_rate": past_only(np.log(rates[middles])),
            "before": past_only(area[middles - 1]),
        })  # fmt: skip
    width = max(1, *(table["falls"].shape[1] for table in tables))
    pad = lambda a: np.pad(a, ((0, 0), (0, width - a.shape[1]))) if a.ndim == 2 else a  # noqa: E731
    return {name: np.concatenate([pad(table[name]) for table in tables]) for name in tables[0]}


def _group_steps(steps: np.ndarray, signs: np.ndarray, max_groups: int | None) -> list[np.ndarray]:
    """Group the steps: each alone, or in at most `max_groups` groups per uninterrupted rise or fall."""
    if max_groups is None or not len(steps):
        return [steps[i : i + 1] for i in range(len(steps))]
    ends = np.flatnonzero((np.diff(steps) > 1) | (np.diff(signs) != 0)) + 1
    return [group for run in np.split(steps, ends) for group in np.array_split(run, min(max_groups, len(run)))]
