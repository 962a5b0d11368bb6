"""What mixtures of data do: data-mixing laws, RegMix, and the worth of filtered data (QQT)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.scaling.law import Columns, Law, Parameter, Values
from pathways_lite.scaling.losses import Huber


def mixing_law(domains: Sequence[str], target: str = "L") -> Law:
    """L(r) = c + k exp(sum_j t_j r_j) over the shares r_j of `domains`, columns of those names (Ye et al. 2024).

    Shares that add up to one make k and the t redundant by one factor; predictions do not notice.
    Raises UserError for fewer than two domains.
    """
    if len(domains) < 2:
        raise UserError("a mixture has at least two domains")
    names = tuple(domains)

    def predict(v: Values, x: Columns) -> Any:
        return v["c"] + v["k"] * jnp.exp(sum(v[f"t_{name}"] * x[name] for name in names))

    return Law(
        name="mixing",
        title="Data mixing",
        source="Ye et al. 2024, arXiv 2403.16952",
        formula="L = c + k exp(sum_j t_j r_j)",
        inputs=names,
        target=target,
        parameters=(
            Parameter("c", (0.2, 0.95), of_target=True),
            Parameter("k", (0.05, 0.8), of_target=True),
            *(Parameter(f"t_{name}", (-1.0, 1.0), kind="real") for name in names),
        ),
        predict=predict,
        loss=Huber(0.02),
        varied=(),
        any_sign=names,
    )


def regmix(shares: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Linear regression of losses [runs] on shares [runs, domains]: [domains + 1], the intercept first.

    Liu et al. 2024, arXiv 2407.01492. Raises UserError for fewer runs than coefficients.
    """
    design = np.concatenate([np.ones((len(shares), 1)), shares], axis=1)
    if len(losses) < design.shape[1] - 1:
        raise UserError(f"{len(losses)} runs cannot carry a regression on {shares.shape[1]} domains")
    return np.linalg.lstsq(design, losses, rcond=None)[0]


def regmix_predict(coefficients: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Losses [runs] that `regmix` predicts for shares [runs, domains]."""
    return coefficients[0] + shares @ coefficients[1:]


def repeated_pools_error(
    samples_seen: np.ndarray,
    pool: float,
    *,
    a: float,
    b: Sequence[float],
    tau: Sequence[float],
    d: float = 0.1,
) -> np.ndarray:
    """Error after `samples_seen` [points] of a mixture of p pools of `pool` samples each (QQT; Goyal et al. 2024).

    In the first epoch y = (a n/1e5)^b + d; in epoch j the error falls by (n_j/n_{j-1})^{b_j}, where each pool's b is
    halved every tau epochs, p times later in a mixture of p, and the mixture's is their mean. As in the authors' code
    the ratio multiplies d too. Arguments `b` and `tau` [pools].
    """
    exponents, halving, p = np.asarray(b, np.float64), np.asarray(tau, np.float64) * len(b), len(b)
    if len(exponents) != len(halving) or np.any(exponents >= 0):
        raise UserError("every pool needs a negative b and its tau")
    size = pool * p
    results = []
    for n in np.atleast_1d(np.asarray(samples_seen, np.float64)):
        first = min(n, size)
        y = (a * first / 1e5) ** exponents.mean() + d
        epoch, seen = 1, size
        while seen < n:
            reached = min(n, seen + size)
            y *= (reached / seen) ** np.mean(exponents * 0.5 ** (epoch / halving))
            epoch, seen = epoch + 1, seen + size
        results.append(y)
    return np.array(results)
