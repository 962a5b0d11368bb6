"""Kaplan et al. 2020 (arXiv 2001.08361), the critical batch and the implicit loss; "Unraveling" has the same forms.

N is without embeddings, batch in tokens, loss in nats per token, compute of the frontier in PF-days (8.64e19 FLOPs).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.scaling.law import Columns, Law, Parameter, Values, power

_SOURCE = "Kaplan et al. 2020, arXiv 2001.08361"


def loss_from_parameters_and_tokens(v: Values, x: Columns) -> Any:
    """L(N, D) = [(Nc/N)^(aN/aD) + Dc/D]^aD (equation 1.5)."""
    return power(power(v["Nc"] / x["N"], v["aN"] / v["aD"]) + v["Dc"] / x["D"], v["aD"])


def loss_from_parameters_and_steps(v: Values, x: Columns) -> Any:
    """L(N, Smin) = (Nc/N)^aN + (Sc/Smin)^aS (equation 1.6)."""
    return power(v["Nc"] / x["N"], v["aN"]) + power(v["Sc"] / x["S"], v["aS"])


def _single_input_law(
    name: str, column: str, title: str, scale: str, exponent: str, values: tuple[float, float],
    others: tuple[tuple[str, tuple[float, ...]], ...] = (),
) -> Law:  # fmt: skip
    """Build the law L(X) = (Xc/X)^a of one input; Xc is fitted as the loss that it gives at the typical X."""

    def predict(v: Values, x: Columns) -> Any:
        return power(v[scale] / x[column], v[exponent])

    return Law(
        name=name,
        title=title,
        source=f"{_SOURCE}, table 4",
        formula=f"L = ({scale}/{column})^{exponent}",
        inputs=(column,),
        target="L",
        parameters=(
            Parameter(scale, (1e3, 1e15), center=(("-1", column),)),
            Parameter(exponent, (0.03, 0.5), kind="positive"),
        ),
        predict=predict,
        published=((_SOURCE, values), *others),
    )


KAPLAN_N = _single_input_law("kaplan-n", "N", "Kaplan, loss over parameters", "Nc", "aN", (8.8e13, 0.076))
KAPLAN_D = _single_input_law("kaplan-d", "D", "Kaplan, loss over tokens", "Dc", "aD", (5.4e13, 0.095))
# Runs at one batch size follow L(C); L(Cmin) is for compute as a batch far below the critical one would need.
KAPLAN_C = _single_input_law(
    "kaplan-c", "C_pf_days", "Kaplan, loss over compute (PF-days)", "Cc", "aC", (1.6e7, 0.057),
    ((f"{_SOURCE}, L(Cmin): see minimal_compute", (3.1e8, 0.050)),),
)  # fmt: skip

KAPLAN_ND = Law(
    name="kaplan",
    title="Kaplan, loss over parameters and tokens",
    source=f"{_SOURCE}, equation 1.5",
    formula="L = [(Nc/N)^(aN/aD) + Dc/D]^aD",
    inputs=("N", "D"),
    target="L",
    parameters=(
        Parameter("Nc", (1e3, 1e15), "parameters", center=(("-1", "N"),)),
        Parameter("aN", (0.03, 0.5)),
        Parameter("Dc", (1e3, 1e15), "tokens", center=(("-1", "D"),)),
        Parameter("aD", (0.03, 0.5)),
    ),
    predict=loss_from_parameters_and_tokens,
    published=((_SOURCE, (6.4e13, 0.076, 1.8e13, 0.103)),),
)

KAPLAN_NS = Law(
    name="kaplan-steps",
    title="Kaplan, loss over parameters and steps",
    source=f"{_SOURCE}, equation 1.6",
    formula="L = (Nc/N)^aN + (Sc/Smin)^aS",
    inputs=("N", "S"),
    target="L",
    parameters=(
        Parameter("Nc", (1e3, 1e15), "parameters", center=(("-1", "N"),)),
        Parameter("aN", (0.03, 0.5)),
        Parameter("Sc", (1e-2, 1e2), "steps", center=(("-1", "S"),)),
        Parameter("aS", (0.2, 1.5)),
    ),
    predict=loss_from_parameters_and_steps,
    published=((_SOURCE, (6.5e13, 0.077, 2.1e3, 0.76)),),
)

CRITICAL_BATCH = Law(
    name="critical-batch",
    title="Critical batch size",
    source=f"{_SOURCE}, equation 1.4; McCandlish et al. 2018",
    formula="Bcrit = B*/L^(1/aB)",
    inputs=("L",),
    target="B",
    parameters=(
        Parameter("B*", (0.3, 3.0), "tokens", in_target_units=True, center=(("-inverse", "L"),)),
        Parameter("inverse", (2.0, 8.0), "1/aB"),
    ),
    predict=lambda v, x: v["B*"] * power(x["L"], -v["inverse"]),
    published=((_SOURCE, (2e8, 4.76)),),
)

# The default values of `critical_batch` and `implicit_loss`; 1/aB = 4.76, as the paper rounds aB to 0.21.
TRAJECTORY = {"Nc": 6.5e13, "aN": 0.077, "Sc": 2.1e3, "aS": 0.76, "B*": 2e8, "aB": 1 / 4.76}


def critical_batch(L: Any, v: Values = TRAJECTORY) -> Any:
    """Return the tokens per batch at which data efficiency halves, at a loss of L."""
    return v["B*"] * np.asarray(L, np.float64) ** (-1 / v["aB"])


def minimal_steps(N: Any, L: Any, v: Values = TRAJECTORY) -> Any:
    """Return the steps to reach L with N parameters and a batch far above the critical one.

    Raises UserError if N parameters never reach L.
    """
    excess_loss = np.asarray(L, np.float64) - (v["Nc"] / np.asarray(N, np.float64)) ** v["aN"]
    if np.any(excess_loss <= 0):
        raise UserError(f"{np.min(N):g} parameters never reach a loss of {np.min(L):g}; give more, or a larger loss")
    return v["Sc"] * excess_loss ** (-1 / v["aS"])


def implicit_loss(N: Any, S: Any, B: Any, v: Values = TRAJECTORY) -> np.ndarray:
    """Return L(N, S, B), the loss after S steps of B tokens, on which the critical batch itself depends.

    The root of (Nc/N)^aN + (Sc/Smin)^aS = L with Smin = S/(1 + Bcrit(L)/B) (equations 5.4 and 5.5), by bisection in
    ln L: as L grows the critical batch falls, and with it the left side, so there is one root.
    """
    N, S, B = np.broadcast_arrays(*(np.asarray(a, np.float64) for a in (N, S, B)))

    def excess(log_l: np.ndarray) -> np.ndarray:
        smin = S / (1 + critical_batch(np.exp(log_l), v) / B)
        return np.log((v["Nc"] / N) ** v["aN"] + (v["Sc"] / smin) ** v["aS"]) - log_l

    low = np.log((v["Nc"] / N) ** v["aN"])
    high = low + 1.0
    while np.any(excess(high) > 0):
        high = np.where(excess(high) > 0, 2 * high - low, high)
    for _ in range(200):
        middle = 0.5 * (low + high)
        is_above = excess(middle) > 0
        low, high = np.where(is_above, middle, low), np.where(is_above, high, middle)
    return np.exp(0.5 * (low + high))


def minimal_compute(C: Any, B: Any, L: Any, v: Values = TRAJECTORY) -> Any:
    """Return the compute that a batch far below the critical one would take: C/(1 + B/Bcrit(L)) (equation 5.5)."""
    return np.asarray(C, np.float64) / (1 + np.asarray(B, np.float64) / critical_batch(L, v))


def optimal_parameters(C_pf_days: Any) -> Any:
    """Return the N that minimizes the loss at Cmin PF-days: 1.3e9 Cmin^0.73 (figure 14)."""
    return 1.3e9 * np.asarray(C_pf_days, np.float64) ** 0.73
