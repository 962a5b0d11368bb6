"""The loss when data are repeated: Muennighoff et al. 2023 (arXiv 2305.16264)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from pathways_lite.scaling.law import Columns, Law, Parameter, Values, power

# Fitted by the authors to C4 without repetition, alpha and beta tied; (a, b, e) are logarithms of A, B, E.
C4 = {"A": float(np.exp(6.255414)), "B": float(np.exp(7.3049974)), "E": float(np.exp(0.6254804)), "alpha": 0.3526596}


def effective_tokens(v: Values, D: Any, U: Any) -> Any:
    """Return D' = U + U RD (1 - exp(-R/RD)), R = D/U - 1 (equation 5): the unique tokens that D are worth."""
    return U + U * v["RD"] * -jnp.expm1(-jnp.maximum(D / U - 1, 0) / v["RD"])


def effective_parameters(v: Values, N: Any, U: Any) -> Any:
    """Return N' = UN + UN RN (1 - exp(-R/RN)), R = N/UN - 1, where UN is the optimal N for U tokens (equation 6).

    The N for which U tokens are compute-optimal is G^(1 + beta/alpha) U^(beta/alpha), with G of Hoffmann et al.'s
    equation 4; if alpha and beta are equal, it is G² U. `v` without beta has one exponent.
    """
    beta = v.get("beta", v["alpha"])
    log_g = jnp.log(v["alpha"] * v["A"] / (beta * v["B"])) / (v["alpha"] + beta)
    UN = jnp.minimum(N, jnp.exp(log_g * (1 + beta / v["alpha"]) + beta / v["alpha"] * jnp.log(U)))
    return UN + UN * v["RN"] * -jnp.expm1(-jnp.maximum(N / UN - 1, 0) / v["RN"])


def loss(v: Values, x: Columns) -> Any:
    """L = E + A/N'^alpha + B/D'^beta, with the constants of C4 for values that v does not have, and beta = alpha."""
    v = {**C4, **v}
    N, D = effective_parameters(v, x["N"], x["U"]), effective_tokens(v, jnp.maximum(x["D"], x["U"]), x["U"])
    # With fewer tokens than unique ones, nothing is repeated.
    D = jnp.where(x["D"] < x["U"], x["D"], D)
    return v["E"] + v["A"] * power(N, -v["alpha"]) + v["B"] * power(D, -v.get("beta", v["alpha"]))


def optimal_allocation(v: Values, C: float, U: float) -> dict[str, float]:
    """Find the allocation of C = 6ND FLOPs that minimizes the loss with U unique tokens, by a search over ln N."""
    from scipy import optimize

    from pathways_lite.scaling.law import double_precision

    def loss_at(log_n: Any) -> np.ndarray:
        N = np.exp(log_n)
        return np.asarray(loss(v, {"N": N, "D": C / (6 * N), "U": U}))

    with double_precision():
        grid = np.linspace(np.log(1e3), np.log(C / 6e3), 400)
        best = int(np.argmin(loss_at(grid)))
        limits = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
        result = optimize.minimize_scalar(loss_at, bounds=limits, method="bounded", options={"xatol": 1e-10})
    N = float(np.exp(result.x))
    return {"N": N, "D": C / (6 * N), "epochs": C / (6 * N * U), "L": float(result.fun)}


MOST_REPETITIONS = 1e3


def _remarks(v: Values) -> list[str]:
    """Say which of the two constants the data do not determine."""
    what = {
        "RD": "repeated tokens are worth as much as new ones",
        "RN": "excess parameters are worth as much as others",
    }
    return [
        f"{name} = {v[name]:.3g} means that {meaning}, as far as these data go; its value means nothing else."
        for name, meaning in what.items()
        if v[name] > MOST_REPETITIONS
    ]


_REPETITIONS = (Parameter("RD", (1.0, 300.0), "repetitions"), Parameter("RN", (0.3, 30.0), "repetitions"))
_PUBLISHED = (15.387756, 5.309743)

DATA_CONSTRAINED = Law(
    name="data-constrained",
    title="Data-constrained",
    source="Muennighoff et al. 2023, arXiv 2305.16264, with all constants free (the authors tie alpha and beta)",
    formula="L = E + A/N'^alpha + B/D'^beta, N' and D' with RN and RD",
    inputs=("N", "D", "U"),
    target="L",
    parameters=(
        Parameter("A", (0.02, 2.0), "nats", center=(("-alpha", "N"),)),
        Parameter("B", (0.02, 2.0), "nats", center=(("-beta", "D"),)),
        Parameter("E", (0.2, 2.5), "nats"),
        Parameter("alpha", (0.1, 0.8)),
        Parameter("beta", (0.1, 0.8)),
        *_REPETITIONS,
    ),
    predict=loss,
    remarks=_remarks,
    published=(("C4", (C4["A"], C4["B"], C4["E"], C4["alpha"], C4["alpha"], *_PUBLISHED)),),
)

DATA_CONSTRAINED_C4 = Law(
    name="data-constrained-c4",
    title="Data-constrained, on C4",
    source="Muennighoff et al. 2023, arXiv 2305.16264; A, B, E and alpha are those of C4 without repetition",
    formula="L = E + A/N'^alpha + B/D'^alpha",
    inputs=("N", "D", "U"),
    target="L",
    parameters=_REPETITIONS,
    predict=loss,
    remarks=_remarks,
    published=(("C4", _PUBLISHED),),
)
