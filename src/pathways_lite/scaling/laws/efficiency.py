"""Laws with shared exponents and an efficiency factor per arm: what a method is worth in compute or tokens."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from pathways_lite.errors import UserError, did_you_mean
from pathways_lite.scaling.law import Columns, Law, Parameter, Values, power
from pathways_lite.scaling.laws.chinchilla import CHINCHILLA
from pathways_lite.scaling.losses import LeastSquares

COMPUTE = Law(
    name="compute",
    title="Loss over compute",
    source="Hestness et al. 2017, arXiv 1712.00409 (a power law with a floor), over compute",
    formula="L = E + A C^-alpha",
    inputs=("C",),
    target="L",
    parameters=(
        Parameter("A", (0.02, 2.0), in_target_units=True, center=(("-alpha", "C"),)),
        Parameter("alpha", (0.03, 0.6), kind="real"),
        Parameter("E", (0.05, 0.9), in_target_units=True),
    ),
    predict=lambda v, x: v["A"] * power(x["C"], -v["alpha"]) + v["E"],
    published=(("made-up runs", (1e3, 0.16, 1.7)),),
)

TOKENS = replace(
    COMPUTE,
    name="tokens",
    title="Loss over tokens",
    source="Hestness et al. 2017, arXiv 1712.00409 (a power law with a floor), over tokens",
    formula="L = E + A D^-alpha",
    inputs=("D",),
    parameters=(replace(COMPUTE.parameters[0], center=(("-alpha", "D"),)), *COMPUTE.parameters[1:]),
    predict=lambda v, x: v["A"] * power(x["D"], -v["alpha"]) + v["E"],
    published=(("made-up runs", (300.0, 0.28, 1.9)),),
)

BASES = {law.name: law for law in (CHINCHILLA, COMPUTE, TOKENS)}
MARK = "arm "  # before the names of the columns that say which arm a row belongs to


@functools.cache
def efficiency_law(names: tuple[str, ...]) -> Law:
    """Build a law whose inputs are multiplied by a factor for every arm but the baseline.

    `names` are the base law, the scaled inputs joined by "+", "shared" or "free", and the arms without the baseline:
    the law's name is like "efficiency:chinchilla,D,shared,muon,soap". An arm has a column "arm NAME" of ones and zeros.
    The factor of input X and arm a is f_X_a. With "free" it is f_X_a (X/X̄)^g_X_a: the arm's exponent is 1 + g times the
    baseline's, and X̄ = 10^`reference` is the column "reference X". Volkova et al. 2026, arXiv 2602.07712, have factors
    of N and D. Raises UserError for what is not such a law.
    """
    if len(names) < 4 or names[0] not in BASES or names[2] not in ("shared", "free"):
        raise UserError(
            "an efficiency law is named after its base, inputs and arms, as in efficiency:chinchilla,D,shared,muon; "
            f"bases are {', '.join(BASES)}"
        )
    base, scaled, is_free, arms = BASES[names[0]], tuple(names[1].split("+")), names[2] == "free", names[3:]
    if unknown := [name for name in scaled if name not in base.inputs]:
        raise UserError(
            f"{base.name} has no input {unknown[0]} that could be worth more.{did_you_mean(unknown[0], base.inputs)}"
        )

    def predict(v: Values, x: Columns) -> Any:
        columns = {name: x[name] for name in base.inputs}
        for name in scaled:
            log_factor = sum(x[MARK + arm] * jnp.log(v[f"f_{name}_{arm}"]) for arm in arms)
            if is_free:
                slope = sum(x[MARK + arm] * v[f"g_{name}_{arm}"] for arm in arms)
                log_factor = log_factor + slope * (jnp.log(x[name]) - x[f"reference {name}"])
            columns[name] = x[name] * jnp.exp(log_factor)
        return base.predict(v, columns)

    factors = [Parameter(f"f_{name}_{arm}", (0.5, 2.0)) for name in scaled for arm in arms]
    slopes = [Parameter(f"g_{name}_{arm}", (-0.1, 0.1), kind="real") for name in scaled for arm in arms]
    marks = tuple(MARK + arm for arm in arms)
    references = tuple(f"reference {name}" for name in scaled) if is_free else ()
    return Law(
        name="efficiency:" + ",".join(names),
        title=f"{base.title}, {'free' if is_free else 'shared'} exponents, a factor of {' and '.join(scaled)} per arm",
        source="Volkova et al. 2026, arXiv 2602.07712 (shared exponents, factors by optimizer)",
        formula=base.formula + " with " + ", ".join(f"{name} → f_{name} {name}" for name in scaled),
        inputs=(*base.inputs, *marks, *references),
        target="L",
        parameters=(*base.parameters, *factors, *(slopes if is_free else ())),
        predict=predict,
        loss=LeastSquares(),
        must_vary=base.inputs,
        any_sign=(*marks, *references),
    )
