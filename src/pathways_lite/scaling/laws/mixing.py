"""What mixtures of data do: data-mixing laws, RegMix, and the worth of filtered data (QQT)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.scaling.law import Columns, Law, Parameter, Values, double_precision, power
from pathways_lite.scaling.losses import Huber, LeastSquares


@functools.cache
def mixing_law(names: tuple[str, ...]) -> Law:
    """L(r) = c + k exp(sum_j t_j r_j) over the shares r_j of domains, columns of those names (Ye et al. 2024).

    Shares that add up to one make k and the t redundant by one factor; predictions do not notice. It is called
    "mixing:web,code". Raises UserError for fewer than two domains, and for one that is named twice.
    """
    if len(names) < 2 or not all(names):
        raise UserError("a mixture has at least two domains: columns of shares, as in mixing:web,code")
    if len(set(names)) < len(names):
        raise UserError(f"domains of a mixture must differ, not {', '.join(names)}")

    def predict(v: Values, x: Columns) -> Any:
        return v["c"] + v["k"] * jnp.exp(sum(v[f"t_{name}"] * x[name] for name in names))

    return Law(
        name=f"mixing:{','.join(names)}",
        title="Data mixing",
        source="Ye et al. 2024, arXiv 2403.16952",
        formula="L = c + k exp(sum_j t_j r_j)",
        inputs=names,
        target="L",
        parameters=(
            Parameter("c", (0.2, 0.95), in_target_units=True),
            Parameter("k", (0.05, 0.8), in_target_units=True),
            *(Parameter(f"t_{name}", (-1.0, 1.0), kind="real") for name in names),
        ),
        predict=predict,
        loss=Huber(0.02),
        must_vary=(),
        any_sign=names,
    )


def fit_regmix(shares: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Linear regression of losses [runs] on shares [runs, domains]: [domains + 1], the intercept first.

    Liu et al. 2024, arXiv 2407.01492. Raises UserError for fewer runs than coefficients.
    """
    design = np.concatenate([np.ones((len(shares), 1)), shares], axis=1)
    if len(losses) < design.shape[1] - 1:
        raise UserError(f"{len(losses)} runs cannot carry a regression on {shares.shape[1]} domains")
    return np.linalg.lstsq(design, losses, rcond=None)[0]


def predict_regmix(coefficients: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Losses [runs] that `regmix` predicts for shares [runs, domains]."""
    return coefficients[0] + shares @ coefficients[1:]


MAX_EPOCHS = 128  # epochs that the law of repeated pools counts


def _repeated_pool_error(samples: Any, size: Any, a: Any, exponents: Any, d: float) -> Any:
    """Error [points] after `samples` of a pool of `size`; `exponents` [epochs, points or 1] are those of each epoch.

    y = (a n/1e5)^b_0 + d in the first epoch; in each later one the error falls by (n/n_before)^b_j. As in the authors'
    code this ratio multiplies d too. NaN after more epochs than there are exponents.
    """
    before = jnp.arange(1, len(exponents))[:, None] * size
    fallen = jnp.sum(exponents[1:] * jnp.log(jnp.clip(samples, before, before + size) / before), axis=0)
    first = power(a * jnp.minimum(samples, size) / 1e5, exponents[0]) + d
    return jnp.where(samples <= len(exponents) * size, first * jnp.exp(fallen), jnp.nan)


def _halving_exponents(b: Any, tau: Any) -> Any:
    """The exponent of each epoch [LONGEST, 1]: halved every `tau` epochs."""
    return (b * jnp.exp2(-jnp.arange(MAX_EPOCHS) / tau))[:, None]


REPEATED_POOL = Law(
    name="repeated-pool",
    title="Error of filtered data, repeated",
    source="Goyal et al. 2024, arXiv 2404.07177 (quality-quantity trade-off), and the authors' code",
    formula="y = (a n/1e5)^-b + 0.1 in the first epoch; then (n_j/n_(j-1))^(-b 2^(-j/tau)) times that",
    inputs=("samples", "pool"),
    target="error",
    parameters=(
        Parameter("a", (0.5, 50.0), center=(("1", "samples/1e5"),)),
        Parameter("b", (0.005, 0.5)),
        Parameter("tau", (1.0, 10.0), "epochs"),
    ),
    predict=lambda v, x: _repeated_pool_error(
        x["samples"], x["pool"], v["a"], _halving_exponents(-v["b"], v["tau"]), 0.1
    ),
    link="raw",
    loss=LeastSquares(),
    must_vary=("samples",),
    published=(("made-up pool", (0.033, 0.2, 4.0)),),
)


def mixed_pools_error(samples: Any, pool: float, *, a: float, b: Sequence[float], tau: Sequence[float]) -> np.ndarray:
    """Error after `samples` [points] of p pools of `pool` samples each, mixed, from their fits to `REPEATED_POOL`.

    Each pool's exponent is halved p times later than alone, and the mixture's is their mean; `a` is shared (Goyal et
    al. 2024). `b` and `tau` [pools], positive. Raises UserError for pools without either, and beyond 128 epochs.
    """
    if len(b) != len(tau) or not b or min(*b, *tau) <= 0:
        raise UserError("every pool needs a positive b and its tau")
    with double_precision():
        exponents = sum(_halving_exponents(-one, halving * len(b)) for one, halving in zip(b, tau, strict=True)) / len(
            b
        )
        points = jnp.atleast_1d(jnp.asarray(samples, jnp.float64))
        error = np.asarray(_repeated_pool_error(points, pool * len(b), a, exponents, 0.1))
    if np.isnan(error).any():
        raise UserError(f"{np.max(samples):g} samples are more than {MAX_EPOCHS} epochs of {len(b)} pools of {pool:g}")
    return error
