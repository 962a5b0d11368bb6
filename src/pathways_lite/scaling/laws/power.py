"""Plain power laws, with and without a floor."""

from __future__ import annotations

from typing import Any

from pathways_lite.scaling.law import Columns, Law, Parameter, Values, power
from pathways_lite.scaling.losses import LeastSquares


def line(v: Values, x: Columns) -> Any:
    """y = a x^b."""
    return v["a"] * power(x["x"], v["b"])


def with_floor(v: Values, x: Columns) -> Any:
    """y = a x^-b + c."""
    return v["a"] * power(x["x"], -v["b"]) + v["c"]


POWER = Law(
    name="power",
    title="Power law",
    source="a line in logarithms; over fine-tuning examples, P = a D^(1/b): Raghavendra et al. 2024",
    formula="y = a x^b",
    inputs=("x",),
    target="y",
    parameters=(
        Parameter("a", (0.3, 3.0), in_target_units=True, center=(("b", "x"),)),
        Parameter("b", (-1.0, 1.0), kind="real"),
    ),
    predict=line,
    loss=LeastSquares(),
    published=(("math, Llama 3 8B: 19.47 D^(1/7.66)", (19.47, 1 / 7.66)),),
)

POWER_FLOOR = Law(
    name="power-floor",
    title="Power law with a floor",
    source="Hestness et al. 2017, arXiv 1712.00409 (learning curves); Hernandez et al. 2021",
    formula="y = a x^-b + c",
    inputs=("x",),
    target="y",
    parameters=(
        Parameter("a", (0.02, 2.0), in_target_units=True, center=(("-b", "x"),)),
        Parameter("b", (0.05, 1.0), kind="real"),
        Parameter("c", (0.01, 0.9), in_target_units=True),
    ),
    predict=with_floor,
    published=(("a learning curve", (30.0, 0.2, 1.5)),),
)
