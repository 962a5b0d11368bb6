"""The loss of over-trained models, and downstream error from loss: Gadre et al. 2024 (arXiv 2403.08540)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from pathways_lite.scaling.law import Columns, Law, Parameter, Values, power
from pathways_lite.scaling.losses import LeastSquares

_SOURCE = "Gadre et al. 2024, arXiv 2403.08540"


def loss(v: Values, x: Columns) -> Any:
    """L(C, M) = E + (a M^eta + b M^-eta) C^-eta (equation 4); C = 6ND FLOPs, M = D/N."""
    up = power(x["M"], v["eta"])
    return v["E"] + (v["a"] * up + v["b"] / up) * power(x["C"], -v["eta"])


def error(v: Values, x: Columns) -> Any:
    """Err(L) = eps - k exp(-gamma L) (equation 5): the mean top-1 error over tasks."""
    return v["eps"] - v["k"] * jnp.exp(-v["gamma"] * x["L"])


def optimal(v: Values, C: Any) -> dict[str, Any]:
    """Return the allocation with the lowest loss at C FLOPs: M = (b/a)^(1/(2 eta)), independent of C."""
    M = (v["b"] / v["a"]) ** (1 / (2 * v["eta"]))
    N = (C / (6 * M)) ** 0.5
    return {"N": N, "D": M * N, "tokens_per_parameter": M, "L": loss(v, {"C": C, "M": M})}


OVERTRAINING = Law(
    name="overtraining",
    title="Over-training",
    source=_SOURCE,
    formula="L = E + (a M^eta + b M^-eta) C^-eta",
    inputs=("C", "M"),
    target="L",
    parameters=(
        Parameter("E", (0.2, 2.5), "nats"),
        Parameter("a", (0.02, 2.0), center=(("-eta", "C"), ("eta", "M"))),
        Parameter("b", (0.02, 2.0), center=(("-eta", "C"), ("-eta", "M"))),
        Parameter("eta", (0.05, 0.4)),
    ),
    predict=loss,
    link="raw",
    loss=LeastSquares(),
    optimal=optimal,
    published=(
        ("C4", (1.5083, 141.28, 189.52, 0.1212)),
        ("RedPajama", (1.8366, 212.24, 366.69, 0.1364)),
        ("RefinedWeb", (1.7345, 157.12, 246.21, 0.1272)),
    ),
)

DOWNSTREAM_ERROR = Law(
    name="downstream-error",
    title="Downstream error over loss",
    source=_SOURCE,
    formula="error = eps - k exp(-gamma L)",
    inputs=("L",),
    target="error",
    parameters=(
        Parameter("eps", (0.5, 1.2), in_target_units=True),
        Parameter("k", (0.3, 5.0)),
        Parameter("gamma", (0.2, 2.0)),
    ),
    predict=error,
    link="raw",
    loss=LeastSquares(),
    published=(
        ("C4, 17 tasks", (0.8497, 2.0789, 0.7561)),
        ("RedPajama, 17 tasks", (0.8570, 2.2065, 0.7146)),
        ("RefinedWeb, 17 tasks", (0.8653, 2.2148, 0.7070)),
    ),
)
