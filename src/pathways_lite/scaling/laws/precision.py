"""Loss over the bits of weights, activations and the cache in training: Kumar et al. 2024 (arXiv 2411.04330)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from pathways_lite.scaling.law import Columns, Law, Parameter, Values
from pathways_lite.scaling.laws import chinchilla


def effective_parameters(v: Values, x: Columns) -> Any:
    """N_eff = N prod_i (1 - exp(-P_i/gamma_i)) over weights, activations and the cache (equation 3)."""
    factors = (-jnp.expm1(-x[f"P_{part}"] / v[f"gamma_{part}"]) for part in ("w", "a", "kv"))
    result = x["N"]
    for factor in factors:
        result = result * factor
    return result


PRECISION = Law(
    name="precision",
    title="Precision of training",
    source="Kumar et al. 2024, arXiv 2411.04330, equation 3 without quantization after training; form and "
    "gammas as notes on the paper quote them, the other constants from memory",
    formula="L = E + A/(N prod_i (1 - exp(-P_i/gamma_i)))^alpha + B/D^beta, P_i bits of w, a and kv",
    inputs=("N", "D", "P_w", "P_a", "P_kv"),
    target="L",
    parameters=(
        *chinchilla.PARAMETERS,
        Parameter("gamma_w", (0.5, 5.0), "bits"),
        Parameter("gamma_a", (0.5, 5.0), "bits"),
        Parameter("gamma_kv", (0.3, 5.0), "bits"),
    ),
    predict=lambda v, x: chinchilla.loss(v, {"N": effective_parameters(v, x), "D": x["D"]}),
    published=(("Kumar et al.", (4299.0, 18060.0, 2.7648, 0.4965, 0.5890, 2.6745, 2.2102, 0.9578)),),
)
