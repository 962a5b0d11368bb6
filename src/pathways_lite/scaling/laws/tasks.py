"""Task accuracy from pretraining: by way of the task's loss (OLMo's ladders), or directly from the budget."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from pathways_lite.scaling.law import Columns, Law, Parameter, Values, power
from pathways_lite.scaling.losses import LeastSquares


def accuracy_of_loss(v: Values, x: Columns) -> Any:
    """accuracy = floor + span/(1 + exp(k (L - L0))), L the loss of the task's right answers."""
    return v["floor"] + v["span"] * jax.nn.sigmoid(-v["k"] * (x["L"] - v["L0"]))


TASK_ACCURACY = Law(
    name="task-accuracy",
    title="Task accuracy over task loss",
    source="Bhagia et al. 2024, arXiv 2412.04403, step 2 (step 1 is `chinchilla` fitted to the task's loss)",
    formula="accuracy = floor + span/(1 + exp(k (L - L0)))",
    inputs=("L",),
    target="accuracy",
    parameters=(
        Parameter("floor", (0.02, 0.4), kind="share"),
        Parameter("span", (0.3, 0.95), kind="share"),
        Parameter("k", (0.5, 8.0)),
        Parameter("L0", (0.3, 2.0), center=()),
    ),
    predict=accuracy_of_loss,
    link="raw",
    loss=LeastSquares(),
    published=(("made-up task", (0.25, 0.7, 2.5, 3.0)),),
)


def _above_chance(x: Columns, log_success: Any) -> Any:
    return x["chance"] + (1 - x["chance"]) * jnp.exp(log_success)


TASK_COMPUTE = Law(
    name="task-compute",
    title="Task accuracy over compute, directly",
    source="Krajewski et al. 2025, arXiv 2512.08894: log accuracy is a power law (as in the abstract)",
    formula="-ln((accuracy - chance)/(1 - chance)) = A C^-alpha",
    inputs=("C", "chance"),
    target="accuracy",
    parameters=(Parameter("A", (0.1, 5.0), center=(("-alpha", "C"),)), Parameter("alpha", (0.03, 0.6))),
    predict=lambda v, x: _above_chance(x, -v["A"] * power(x["C"], -v["alpha"])),
    link="raw",
    loss=LeastSquares(),
    must_vary=("C",),
    zero_inputs=("chance",),
    any_sign=("chance",),
    published=(("made-up task", (1500.0, 0.16)),),
)

TASK_TOKENS = Law(
    name="task",
    title="Task accuracy over parameters and tokens, directly",
    source="Krajewski et al. 2025, arXiv 2512.08894: log accuracy as a power law (the sum is our reading)",
    formula="-ln((accuracy - chance)/(1 - chance)) = A N^-alpha + B D^-beta",
    inputs=("N", "D", "chance"),
    target="accuracy",
    parameters=(
        Parameter("A", (0.05, 3.0), center=(("-alpha", "N"),)),
        Parameter("B", (0.05, 3.0), center=(("-beta", "D"),)),
        Parameter("alpha", (0.05, 1.0), kind="real"),
        Parameter("beta", (0.05, 1.0), kind="real"),
    ),
    predict=lambda v, x: _above_chance(x, -v["A"] * power(x["N"], -v["alpha"]) - v["B"] * power(x["D"], -v["beta"])),
    link="raw",
    loss=LeastSquares(),
    must_vary=("N", "D"),
    zero_inputs=("chance",),
    any_sign=("chance",),
    published=(("made-up task", (60.0, 400.0, 0.25, 0.28)),),
)
