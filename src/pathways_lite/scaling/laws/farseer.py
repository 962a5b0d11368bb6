"""Loss whose data exponent depends on the size: Farseer (Li et al. 2025, arXiv 2506.10972)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from pathways_lite.scaling.law import Columns, Law, Parameter, Values, double_precision

SIZE, TOKENS = 1e9, 1e11  # where the fitted parameters are the terms' values and slopes


def loss(v: Values, x: Columns) -> Any:
    """L = exp(a3 N^g + b3) + exp(a2 N^b + b2) D^-exp(a1 N^a + b1).

    The fitted parameters say the same by values and slopes (per unit of ln N) at N = SIZE and D = TOKENS, which hardly
    depend on the exponents g, b and a: `floor` of the logarithm of the first term, `level` of the second's, `decay` of
    that of D's exponent. `farseer_constants` turns them into the paper's.
    """
    log_n, log_d = jnp.log(x["N"] / SIZE), jnp.log(x["D"])
    decay = jnp.exp(v["decay"] + v["decay_slope"] * _bent(log_n, v["a"]))
    at_reference = jnp.exp(v["decay"]) * np.log(TOKENS)
    level = v["level"] + at_reference + (v["level_slope"] + at_reference * v["decay_slope"]) * _bent(log_n, v["b"])
    return jnp.exp(v["floor"] + v["floor_slope"] * _bent(log_n, v["g"])) + jnp.exp(level - decay * log_d)


def _bent(log_n: Any, exponent: Any) -> Any:
    """Return ((N/SIZE)^exponent - 1)/exponent: ln(N/SIZE) bent up or down."""
    return jnp.expm1(exponent * log_n) / exponent


def fitted_values(
    a3: float, g: float, b3: float, a2: float, b: float, b2: float, a1: float, a: float, b1: float
) -> Any:
    """Return the fitted parameters for the paper's constants, in the law's order."""
    decay, decay_slope = a1 * SIZE**a + b1, a1 * a * SIZE**a
    at_reference = np.exp(decay) * np.log(TOKENS)
    level, level_slope = a2 * SIZE**b + b2 - at_reference, a2 * b * SIZE**b - at_reference * decay_slope
    values = (a3 * SIZE**g + b3, a3 * g * SIZE**g, g, level, level_slope, b, decay, decay_slope, a)
    return tuple(float(value) for value in values)


def farseer_constants(v: Values) -> dict[str, float]:
    """Return the paper's constants a3, g, b3, a2, b, b2, a1, a, b1 of fitted values."""
    at_reference = float(np.exp(v["decay"]) * np.log(TOKENS))
    level, level_slope = v["level"] + at_reference, v["level_slope"] + at_reference * v["decay_slope"]
    terms = (
        ("3", "g", v["floor"], v["floor_slope"]),
        ("2", "b", level, level_slope),
        ("1", "a", v["decay"], v["decay_slope"]),
    )
    constants: dict[str, float] = {}
    for index, exponent, value, slope in terms:
        factor = slope / v[exponent] * SIZE ** -v[exponent]
        constants |= {f"a{index}": float(factor), exponent: float(v[exponent])}
        constants[f"b{index}"] = float(value - slope / v[exponent])
    return constants


def optimal(v: Values, C: Any) -> dict[str, Any]:
    """Find the allocation of C = 6ND FLOPs with the lowest loss, by a search over ln N: D/N grows with C here.

    Between 1 and 10,000 tokens per parameter: far outside them the form falls again, towards vast models without data.
    NaN where it has no minimum between them.
    """
    shape = np.broadcast_shapes(np.shape(C), *(np.shape(value) for value in v.values()))
    v = {name: np.broadcast_to(np.asarray(value, np.float64), shape)[..., None] for name, value in v.items()}
    C = np.broadcast_to(np.asarray(C, np.float64), shape)[..., None]
    low, high = 0.5 * np.log(C / 6 / 1e4), 0.5 * np.log(C / 6)
    is_inside = np.ones(shape, bool)
    for _ in range(6):  # each round keeps two of 32 parts
        grid = low + (high - low) * np.linspace(0, 1, 33)
        with double_precision():
            losses = np.asarray(loss(v, {"N": np.exp(grid), "D": C / (6 * np.exp(grid))}))
        best = np.argmin(losses, axis=-1)[..., None]
        is_inside &= ((best > 0) & (best < 32))[..., 0]
        low, high = (np.take_along_axis(grid, np.clip(best + side, 0, 32), axis=-1) for side in (-1, 1))
    N = np.where(is_inside, np.exp(0.5 * (low + high))[..., 0], np.nan)
    D = C[..., 0] / (6 * N)
    values = {name: value[..., 0] for name, value in v.items()}
    with double_precision():
        best_loss = np.asarray(loss(values, {"N": N, "D": D}))
    return {"N": N, "D": D, "tokens_per_parameter": D / N, "L": best_loss}


FARSEER = Law(
    name="farseer",
    title="Farseer",
    source="Li et al. 2025, arXiv 2506.10972; form and constants as a public benchmark quotes their notebook; "
    "the loss is in bits per character there, N without embeddings",
    formula="L = exp(a3 N^g + b3) + exp(a2 N^b + b2) D^-exp(a1 N^a + b1), by values and slopes at N = 1e9, D = 1e11",
    inputs=("N", "D"),
    target="L",
    parameters=(
        Parameter("floor", (-1.0, 1.0), kind="real"),
        Parameter("floor_slope", (-0.2, 0.0), kind="real"),
        Parameter("g", (0.02, 0.4)),
        Parameter("level", (-5.0, 0.0), kind="real"),
        Parameter("level_slope", (-1.0, 0.6), kind="real"),
        Parameter("b", (-0.3, -0.02), kind="real"),
        Parameter("decay", (-2.0, -0.5), kind="real"),
        Parameter("decay_slope", (-0.3, 0.05), kind="real"),
        Parameter("a", (0.02, 0.4)),
    ),
    predict=loss,
    optimal=optimal,
    published=(
        (
            "Li et al.",
            fitted_values(
                -0.062465473,
                0.13,
                0.1284880679442551,
                230.73437075885855,
                -0.1729,
                -1.544209554,
                -1.665630816,
                0.0458999999999619,
                3.133347198805445,
            ),
        ),
    ),
)
