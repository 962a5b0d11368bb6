"""Laws in which parameters differ in worth: average parameters, parallel streams, routed experts, quantization."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.scaling.law import Columns, Law, Parameter, Values, power
from pathways_lite.scaling.laws import chinchilla
from pathways_lite.scaling.losses import LeastSquares


def average_parameters(tokens: np.ndarray, parameters: np.ndarray) -> float:
    """Average parameters over tokens, (1/D) times the integral of N(t) dt, by trapezoids between points [points].

    Two equal token counts are a jump of N. Raises UserError if tokens decrease or do not grow at all.
    """
    tokens, parameters = np.asarray(tokens, np.float64), np.asarray(parameters, np.float64)
    if len(tokens) < 2 or np.any(np.diff(tokens) < 0) or tokens[-1] <= tokens[0]:
        raise UserError("the average of parameters needs at least two points with increasing numbers of tokens")
    return float(np.trapezoid(parameters, tokens) / (tokens[-1] - tokens[0]))


def _average_loss(v: Values, x: Columns) -> Any:
    return chinchilla.loss(v, {"N": x["N_average"], "D": x["D"]})


AVERAGE_PARAMETERS = Law(
    name="average-parameters",
    title="Average parameters (sparse pretraining)",
    source="Jin et al. 2025, The Journey Matters, arXiv 2501.12486: Chinchilla's with average parameters, by its "
    "abstract; the authors' code has no constants",
    formula="L = E + A/N̄^alpha + B/D^beta, N̄ the active parameters averaged over tokens",
    inputs=("N_average", "D"),
    target="L",
    parameters=(
        replace(chinchilla.PARAMETERS[0], center=(("-alpha", "N_average"),)),
        *chinchilla.PARAMETERS[1:],
    ),
    predict=_average_loss,
    published=(("values of a dense law", (482.01, 2085.43, 1.8172, 0.3478, 0.3658)),),
)


def parallel_loss(v: Values, x: Columns) -> Any:
    """L = (A/(N (k ln P + 1)))^alpha + E, P parallel streams."""
    return power(v["A"] / (x["N"] * (v["k"] * jnp.log(x["P"]) + 1)), v["alpha"]) + v["E"]


PARALLEL = Law(
    name="parallel",
    title="Parallel streams",
    source="Chen et al. 2025, arXiv 2505.10475",
    formula="L = (A/(N (k ln P + 1)))^alpha + E",
    inputs=("N", "P"),
    target="L",
    parameters=(
        Parameter("A", (1e-4, 10.0), center=(("-1", "N"),)),
        Parameter("k", (0.05, 2.0)),
        Parameter("alpha", (0.05, 1.0)),
        Parameter("E", (0.2, 2.5)),
    ),
    predict=parallel_loss,
    published=(("Pile", (1.353e8, 0.3447, 0.2236, 1.3767)),),
)


def saturated_experts(E: Any, start: Any, end: Any) -> Any:
    """Ê: 1/Ê = 1/(E - 1 + 1/(1/start - 1/end)) + 1/end; start at E = 1, and no more than end."""
    return 1 / (1 / (E - 1 + 1 / (1 / start - 1 / end)) + 1 / end)


def routed_loss(v: Values, x: Columns) -> Any:
    """log10 L = a log10 N + b log10 Ê + c log10 N log10 Ê + d; N dense parameters, E experts."""
    n = jnp.log10(x["N"])
    e = jnp.log10(saturated_experts(x["experts"], v["Estart"], v["Estart"] * v["Eratio"]))
    return 10 ** (v["a"] * n + v["b"] * e + v["c"] * n * e + v["d"])


ROUTED = Law(
    name="routed",
    title="Routed experts",
    source="Clark et al. 2022, arXiv 2202.01169, equation 4; Emax = Estart Eratio",
    formula="log10 L = a log10 N + b log10 Ê + c log10 N log10 Ê + d",
    inputs=("N", "experts"),
    target="L",
    parameters=(
        Parameter("a", (-0.15, -0.03), kind="real"),
        Parameter("b", (-0.25, -0.03), kind="real"),
        Parameter("c", (0.0, 0.02), kind="real"),
        Parameter("d", (0.8, 1.5), kind="real"),
        Parameter("Estart", (1.2, 6.0)),
        Parameter("Eratio", (30.0, 400.0)),
    ),
    predict=routed_loss,
    loss=LeastSquares(),
    published=(
        ("S-Base", (-0.082, -0.108, 0.009, 1.104, 1.847, 314.478 / 1.847)),
        ("RL-R", (-0.083, -0.126, 0.012, 1.111, 1.880, 469.982 / 1.880)),
        ("Hash", (-0.087, -0.136, 0.012, 1.157, 4.175, 477.741 / 4.175)),
    ),
)


def quantization_rise(v: Values, x: Columns) -> Any:
    """Rise of the loss by quantization to P bits: k D^beta / (N^alpha P^gamma)."""
    return v["k"] * power(x["D"], v["beta"]) * power(x["N"], -v["alpha"]) * power(x["P"], -v["gamma"])


QUANTIZATION = Law(
    name="quantization",
    title="Quantization of a trained model (QiD)",
    source="Ouyang et al. 2024, arXiv 2411.17691; GPTQ, Pythia, N without embeddings",
    formula="rise = k D^beta / (N^alpha P^gamma)",
    inputs=("D", "N", "P"),
    target="rise",
    parameters=(
        Parameter("k", (0.1, 10.0), in_target_units=True, center=(("beta", "D"), ("-alpha", "N"), ("-gamma", "P"))),
        Parameter("beta", (0.1, 1.0), kind="real"),
        Parameter("alpha", (0.1, 1.0), kind="real"),
        Parameter("gamma", (1.0, 8.0), kind="real"),
    ),
    predict=quantization_rise,
    loss=LeastSquares(),
    published=(("Ouyang et al.", (0.017, 0.5251, 0.2261, 5.4967)),),
)


def tokens_until_rise(rise: float, N: float, P: float, v: Values | None = None) -> float:
    """Return the training tokens from which quantization to P bits costs `rise` nats."""
    v = v or dict(zip(QUANTIZATION.names, QUANTIZATION.published[0][1], strict=True))
    return float((rise * N ** v["alpha"] * P ** v["gamma"] / v["k"]) ** (1 / v["beta"]))
