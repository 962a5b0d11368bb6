"""Laws of data mixtures: data mixing, RegMix, and the quality-quantity trade-off of filtered data (QQT)."""

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
    """Build the law L(r) = c + k exp(sum_j t_j r_j) over the shares r_j of domains (Ye et al. 2024).

    Shares are columns named after the domains; the law's name is like "mixing:web,code". As shares add up to one, k and
    the t are redundant by one factor, which does not affect predictions. Raises UserError for fewer than two domains,
    and for duplicates.
    """
    if len(names) < 2 or not all(names):
        raise UserError("a mixture needs at least two domains, which name columns of shares, as in mixing:web,code")
    if len(set(names)) < len(names):
        raise UserError(f"domains of a mixture must differ; found {', '.join(names)}")

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
    """Fit a linear regression of losses [runs] on shares [runs, domains]. Returns [domains + 1], intercept first.

    Liu et al. 2024, arXiv 2407.01492. Raises UserError for fewer runs than coefficients.
    """
    design = np.concatenate([np.ones((len(shares), 1)), shares], axis=1)
    if len(losses) < design.shape[1] - 1:
        raise UserError(f"{len(losses)} runs are too few for a regression on {shares.shape[1]} domains")
    return np.linalg.lstsq(design, losses, rcond=None)[0]


def predict_regmix(coefficients: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Predict losses [runs] for shares [runs, domains] with the coefficients of `fit_regmix`."""
    return coefficients[0] + shares @ coefficients[1:]


MAX_EPOCHS = 128  # of the law of repeated pools


def _repeated_pool_error(samples: Any, size: Any, a: Any, exponents: Any, d: float) -> Any:
    """Return the error [points] after `samples` of a pool of `size`, with `exponents` [epochs, points or 1].

    y = (a n/1e5)^b_0 + d in the first epoch; in each later one the error falls by (n/n_before)^b_j. As in the authors'
    code this ratio multiplies d too. NaN after more epochs than there are exponents.
    """
    previous = jnp.arange(1, len(exponents))[:, None] * size
    log_decay = jnp.sum(exponents[1:] * jnp.log(jnp.clip(samples, previous, previous + size) / previous), axis=0)
    first_epoch = power(a * jnp.minimum(samples, size) / 1e5, exponents[0]) + d
    return jnp.where(samples <= len(exponents) * size, first_epoch * jnp.exp(log_decay), jnp.nan)


def _halving_exponents(b: Any, tau: Any) -> Any:
    """Return the exponent of each epoch [MAX_EPOCHS, 1]: halved every `tau` epochs."""
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
    """Return the error after `samples` [points] of p mixed pools of `pool` samples each, from fits to `REPEATED_POOL`.

    Each pool's exponent is halved p times later than alone, and the mixture's is their mean; `a` is shared (Goyal et
    al. 2024). `b` and `tau` [pools], positive. Raises UserError for pools without either, and beyond 128 epochs.
    """
    if len(b) != len(tau) or not b or min(*b, *tau) <= 0:
        raise UserError("every pool needs a positive b and its tau")
    with double_precision():
        exponents = sum(
            _halving_exponents(-exponent, halving_epochs * len(b))
            for exponent, halving_epochs in zip(b, tau, strict=True)
        ) / len(b)
        sample_counts = jnp.atleast_1d(jnp.asarray(samples, jnp.float64))
        error = np.asarray(_repeated_pool_error(sample_counts, pool * len(b), a, exponents, 0.1))
    if np.isnan(error).any():
        raise UserError(f"{np.max(samples):g} samples are more than {MAX_EPOCHS} epochs of {len(b)} pools of {pool:g}")
    return error
