"""The optimal size of a vocabulary: Tao et al. 2024 (arXiv 2407.13623), three approaches.

Losses are unigram-normalized, so that they can be compared across vocabularies; C = 6 (Nnv + Nv) D, Nv = V d.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pathways_lite.scaling.law import Columns, Law, Parameter, Values, power
from pathways_lite.scaling.losses import Huber

MILLION, BILLION = 1e6, 1e9


def tokens_per_character(V: Any) -> Any:
    """Return f(V), fitted by the authors to tokenizers with 1k to 200k tokens; larger V count as 200k."""
    log = np.log(np.minimum(V, 200_000))
    return 0.00639222 * log**2 - 0.15811069 * log + 1.20470122


def loss(v: Values, x: Columns) -> Any:
    """Lu = -E + A1/Nnv^a1 + A2/Nv^a2 + B/D^a1, Nnv in millions, Nv in millions (V d), D in billions.

    Non-vocabulary parameters and data share an exponent, as in the paper; with separate ones a1 goes to zero.
    """
    return (
        -v["E"]
        + v["A1"] * power(x["Nnv"] / MILLION, -v["a1"])
        + v["A2"] * power(x["Nv"] / MILLION, -v["a2"])
        + v["B"] * power(x["D"] / BILLION, -v["a1"])
    )


VOCABULARY = Law(
    name="vocabulary",
    title="Vocabulary, approach 3",
    source="Tao et al. 2024, arXiv 2407.13623, equation 7",
    formula="Lu = -E + A1/Nnv^a1 + A2/Nv^a2 + B/D^a1 (Nnv and Nv in millions, D in billions)",
    inputs=("Nnv", "Nv", "D"),
    target="Lu",
    parameters=(
        Parameter("A1", (0.02, 2.0), center=(("-a1", "Nnv/1e6"),)),
        Parameter("A2", (0.02, 2.0), center=(("-a2", "Nv/1e6"),)),
        Parameter("B", (0.02, 2.0), center=(("-a1", "D/1e9"),)),
        Parameter("E", (1.0, 10.0)),
        Parameter("a1", (0.1, 1.0)),
        Parameter("a2", (0.1, 1.0)),
    ),
    predict=loss,
    link="raw",
    loss=Huber(1e-3),
    published=(("Tao et al.", (1.8314, 0.19584, 2.1241, 5.5328, 0.44661, 0.67074)),),
)


def by_compute(C: float) -> dict[str, float]:
    """Return the optimum at C FLOPs by approach 1 (IsoFLOP), with the exponents of Nnv and H fixed at 1/2."""
    return {
        "Nnv": float(np.exp(-2.48465102) * C**0.5),
        "Nv": float(np.exp(-1.5890313) * C**0.41636226),
        "H": float(np.exp(1.859585) * C**0.5),
    }


def compute_for(Nnv: float) -> float:
    """Return the FLOPs at which Nnv is optimal by approach 1."""
    return float((Nnv / np.exp(-2.48465102)) ** 2)


def by_isoflop(Nnv: float, d_model: float | None = None) -> dict[str, float]:
    """Return the optimal Nv for Nnv other parameters by approach 1, at the compute at which Nnv is optimal."""
    return _with_vocab_size(by_compute(compute_for(Nnv))["Nv"], d_model)


def by_derivative(Nnv: float, d_model: float | None = None) -> dict[str, float]:
    """Return the optimal Nv by approach 2: the zero of dFLOPs/dV at fixed loss, extrapolated from an anchor at 33M."""
    return _with_vocab_size(float(3_145_728 * (Nnv / 33e6) ** 0.8353974), d_model)


def by_loss(
    Nnv: float, d_model: float | None = None, *, C: float | None = None, v: Values | None = None
) -> dict[str, float]:
    """Return the Nv that minimizes the loss at C FLOPs and fixed Nnv (approach 3).

    C is by default the compute at which Nnv is optimal. A larger vocabulary leaves fewer tokens: D = C/6/(Nnv + Nv).
    `v` are the values of a fit, by default the authors'.
    """
    from scipy import optimize

    v = v or dict(zip(VOCABULARY.names, VOCABULARY.published[0][1], strict=True))
    C = C or compute_for(Nnv)

    def slope(log_nv: float) -> float:
        """Return the derivative of the loss with respect to ln Nv, up to a factor."""
        Nv = float(np.exp(log_nv))
        tokens = C / 6 / (Nnv + Nv) / BILLION
        token_term = v["a1"] * v["B"] * tokens ** -v["a1"] * Nv / (Nnv + Nv)
        return float(token_term - v["a2"] * v["A2"] * (Nv / MILLION) ** -v["a2"])

    return _with_vocab_size(float(np.exp(optimize.brentq(slope, np.log(1.0), np.log(1e3 * Nnv)))), d_model)


def _with_vocab_size(Nv: float, d_model: float | None) -> dict[str, float]:
    return {"Nv": Nv} | ({"V": Nv / d_model} if d_model else {})
