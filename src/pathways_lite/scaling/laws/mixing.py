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
    _check_domains(names)

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
        shares=names,
    )


@functools.cache
def linear_mixing_law(names: tuple[str, ...]) -> Law:
    """Build the law L(r) = sum_j t_j r_j of shares that add up to one, RegMix's linear regression (Liu et al. 2024)."""
    _check_domains(names)
    return Law(
        name=f"linear-mixing:{','.join(names)}",
        title="Data mixing, linear",
        source="Liu et al. 2024 (RegMix), arXiv 2407.01492",
        formula="L = sum_j t_j r_j",
        inputs=names,
        target="L",
        parameters=tuple(Parameter(f"t_{name}", (0.5, 2.0), in_target_units=True, kind="real") for name in names),
        predict=lambda v, x: sum(v[f"t_{name}"] * x[name] for name in names),
        link="raw",
        loss=LeastSquares(),
        must_vary=(),
        any_sign=names,
        shares=names,
    )


def _check_domains(names: tuple[str, ...]) -> None:
    """Raise UserError for fewer than two domains, and for duplicates."""
    if len(names) < 2 or not all(names):
        raise UserError("a mixture needs at least two domains, which name columns of shares, as in mixing:web,code")
    if len(set(names)) < len(names):
        raise UserError(f"domains of a mixture must differ; found {', '.join(names)}")


def _share_power(share: Any, exponent: Any) -> Any:
    """Return share^exponent for a positive exponent; a share of zero is a billionth, so that its gradient is finite."""
    return power(jnp.maximum(share, 1e-9), exponent)


def _sized_mixing_law(family: str, names: tuple[str, ...], *, is_joint: bool) -> Law:
    """Build a law of shares, N and D. Mixtures change the floor, and in the joint law A and B too."""
    _check_domains(names)

    def predict(v: Values, x: Columns) -> Any:
        mixed = sum(v[f"C_{name}"] * _share_power(x[name], v[f"g_{name}"]) for name in names)
        A, B = v["A"], v["B"]
        if is_joint:
            A = A * _relative(v, x, "A")
            B = B * _relative(v, x, "B")
        return v["E"] + 1 / mixed + A * power(x["N"], -v["alpha"]) + B * power(x["D"], -v["beta"])

    def _relative(v: Values, x: Columns, which: str) -> Any:
        # Weights are relative to the first domain's, as A and B carry the scale.
        total = x[names[0]] + sum(v[f"{which}_{name}"] * x[name] for name in names[1:])
        return _share_power(total, v[f"g{which}"])

    joint = [
        parameter
        for which in ("A", "B")
        for parameter in (
            *(Parameter(f"{which}_{name}", (0.3, 3.0)) for name in names[1:]),
            Parameter(f"g{which}", (0.2, 2.0)),
        )
    ]
    return Law(
        name=f"{family}:{','.join(names)}",
        title=f"Data mixing over N and D, {'joint' if is_joint else 'additive'}",
        source=f"Shukor et al. 2025, arXiv 2507.09404, equation {'2.5' if is_joint else '2.4'}; no constants published",
        formula="L = E + 1/sum_j C_j r_j^g_j + A/N^alpha + B/D^beta"
        + (", A and B times (sum_j A_j r_j)^gA and (sum_j B_j r_j)^gB" if is_joint else ""),
        inputs=(*names, "N", "D"),
        target="L",
        parameters=(
            Parameter("E", (0.1, 0.8), in_target_units=True),
            *(Parameter(f"C_{name}", (0.3, 10.0)) for name in names),
            *(Parameter(f"g_{name}", (0.1, 1.5)) for name in names),
            Parameter("A", (0.02, 0.5), in_target_units=True, center=(("-alpha", "N"),)),
            Parameter("alpha", (0.1, 0.8), kind="real"),
            Parameter("B", (0.02, 0.5), in_target_units=True, center=(("-beta", "D"),)),
            Parameter("beta", (0.1, 0.8), kind="real"),
            *(joint if is_joint else ()),
        ),
        predict=predict,
        must_vary=("N", "D"),
        any_sign=names,
        shares=names,
    )


@functools.cache
def additive_mixing_law(names: tuple[str, ...]) -> Law:
    """Build the additive law of Shukor et al. 2025: the best mixture does not depend on N and D."""
    return _sized_mixing_law("additive-mixing", names, is_joint=False)


@functools.cache
def joint_mixing_law(names: tuple[str, ...]) -> Law:
    """Build the joint law of Shukor et al. 2025: the best mixture changes with N and D."""
    return _sized_mixing_law("joint-mixing", names, is_joint=True)


def fit_regmix(shares: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Fit a linear regression of losses [runs] on shares [runs, domains]. Returns [domains + 1], intercept first.

    Liu et al. 2024, arXiv 2407.01492. Raises UserError for fewer runs than coefficients.
    """
    design = np.concatenate([np.ones((len(shares), 1)), shares], axis=1)
    if len(losses) < design.shape[1] - 1:
        domains = shares.shape[1]
        raise UserError(
            f"{len(losses)} runs are too few for a regression on {domains} domains; give at least {domains}"
        )
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
