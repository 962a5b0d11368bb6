"""The loss of a student that learns from a teacher: Busbridge et al. 2025 (arXiv 2502.08606)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from pathways_lite.scaling.law import Columns, Law, Parameter, Values, power


def student_loss(v: Values, x: Columns) -> Any:
    """L_S = L_T + L_T^-c0 (1 + (L_T/(L~ d1))^(1/f1))^(-c1 f1) (A N^-alpha + B D^-beta)^gamma (equation 8).

    `teacher_loss` is L_T; `supervised_loss` is L~, the loss of the student's size and tokens without a teacher,
    measured or predicted. A teacher that is much better than the student could become alone helps less: the capacity
    gap.
    """
    ratio = jnp.log(x["teacher_loss"] / x["supervised_loss"]) - jnp.log(v["d1"])
    # In logarithms, because the ratio's power overflows and ln(1 + e^z) does not.
    gap = jnp.exp(-v["c1"] * v["f1"] * jnp.logaddexp(0.0, ratio / v["f1"]))
    capacity = power(v["A"] * power(x["N"], -v["alpha"]) + v["B"] * power(x["D"], -v["beta"]), v["gamma"])
    return x["teacher_loss"] + power(x["teacher_loss"], -v["c0"]) * gap * capacity


DISTILLATION = Law(
    name="distillation",
    title="Distillation",
    source="Busbridge et al. 2025, arXiv 2502.08606, equation 8 (its constants were not seen)",
    formula="L_S = L_T + L_T^-c0 (1 + (L_T/(L~ d1))^(1/f1))^(-c1 f1) (A N^-alpha + B D^-beta)^gamma",
    inputs=("N", "D", "teacher_loss", "supervised_loss"),
    target="L",
    parameters=(
        Parameter("c0", (0.5, 5.0)),
        Parameter("c1", (1.0, 50.0)),
        Parameter("d1", (0.5, 2.0)),
        Parameter("f1", (0.03, 1.0)),
        Parameter("A", (0.05, 5.0), center=(("-alpha", "N"),)),
        Parameter("alpha", (0.1, 1.0)),
        Parameter("B", (0.05, 5.0), center=(("-beta", "D"),)),
        Parameter("beta", (0.1, 1.0)),
        Parameter("gamma", (0.3, 2.0)),
    ),
    predict=student_loss,
    published=(("made-up runs", (2.5, 12.0, 1.2, 0.12, 2200.0, 0.33, 15000.0, 0.36, 0.8)),),
)
