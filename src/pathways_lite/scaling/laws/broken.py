"""Curves with a bend: the broken neural scaling law, and a test for a turning point."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.scaling.law import Columns, Law, Parameter, Values
from pathways_lite.scaling.losses import LeastSquares


def broken(v: Values, x: Columns) -> Any:
    """y = a + b x^-c0 (1 + (x/d1)^(1/f1))^(-c1 f1), with one break at d1 as sharp as f1 is small."""
    log_x = jnp.log(x["x"])
    # In logarithms, because (x/d)^(1/f) overflows and ln(1 + e^z) does not.
    bend = jnp.logaddexp(0.0, (log_x - jnp.log(v["d1"])) / v["f1"])
    return v["a"] + v["b"] * jnp.exp(-v["c0"] * log_x - v["c1"] * v["f1"] * bend)


BROKEN = Law(
    name="broken",
    title="Broken neural scaling law, one break",
    source="Caballero et al. 2022, arXiv 2210.14891",
    formula="y = a + b x^-c0 (1 + (x/d1)^(1/f1))^(-c1 f1)",
    inputs=("x",),
    target="y",
    parameters=(
        Parameter("a", (0.01, 0.9), in_target_units=True),
        Parameter("b", (0.1, 3.0), in_target_units=True, center=(("c0", "x"),)),
        Parameter("c0", (-0.1, 0.5), kind="real"),
        Parameter("c1", (0.2, 6.0), kind="real"),
        Parameter("d1", (0.3, 3.0), center=(("-1", "x"),)),
        Parameter("f1", (0.03, 1.0)),
    ),
    predict=broken,
    link="log1p",
    loss=LeastSquares(),
    published=(("four-digit addition", (0.4139, 2.277, 0.0551, 5.663, 612.6, 0.0592)),),
)


@functools.cache
def several_breaks(counts: tuple[str, ...]) -> Law:
    """Build the law with n breaks, named like "broken:2" (Caballero et al. 2022, equation 1).

    y = a + b x^-c0 prod_i (1 + (x/d_i)^(1/f_i))^(-c_i f_i). The breaks are not ordered: a fit names them as it finds
    them. Raises UserError unless n is 1 to 5.
    """
    if len(counts) != 1 or counts[0] not in ("1", "2", "3", "4", "5"):
        raise UserError(
            f"broken:N is the law with N breaks, 1 to 5, as in broken:2; found {','.join(counts) or 'none'}"
        )
    breaks = range(1, int(counts[0]) + 1)

    def predict(v: Values, x: Columns) -> Any:
        log_x = jnp.log(x["x"])
        exponent = -v["c0"] * log_x
        for i in breaks:
            bend = jnp.logaddexp(0.0, (log_x - jnp.log(v[f"d{i}"])) / v[f"f{i}"])
            exponent = exponent - v[f"c{i}"] * v[f"f{i}"] * bend
        return v["a"] + v["b"] * jnp.exp(exponent)

    parameters = [
        parameter
        for i in breaks
        for parameter in (
            Parameter(f"c{i}", (-1.0, 3.0), kind="real"),
            Parameter(f"d{i}", (0.01, 100.0), center=(("-1", "x"),)),
            Parameter(f"f{i}", (0.03, 1.0)),
        )
    ]
    return replace(
        BROKEN,
        name=f"broken:{counts[0]}",
        title=f"Broken neural scaling law, {counts[0]} breaks",
        formula="y = a + b x^-c0 prod_i (1 + (x/d_i)^(1/f_i))^(-c_i f_i)",
        parameters=(*BROKEN.parameters[:3], *parameters),
        predict=predict,
        published=(),
    )


@dataclass(frozen=True)
class CurveShape:
    """The shape of a curve over ln x: "falling", "rising", "u" or "inverted u", and the gain in BIC of a bend."""

    kind: str
    bic_gain: float
    turning_point: float | None


def classify_shape(x: np.ndarray, y: np.ndarray) -> CurveShape:
    """Test y(x) for a turning point: a line against a parabola in ln x by BIC, with its vertex inside the data.

    A bend counts from a gain of 6 in BIC ("strong", Kass and Raftery 1995). Raises UserError for fewer than 5 points.
    """
    if len(np.unique(x)) < 5:
        raise UserError(f"{len(np.unique(x))} different x are too few to tell a bend from a line; give at least 5")
    u = np.log(np.asarray(x, np.float64))
    y = np.asarray(y, np.float64)
    bics, fits = [], []
    for degree in (1, 2):
        fit = np.polyfit(u - u.mean(), y, degree)
        error = np.sum((np.polyval(fit, u - u.mean()) - y) ** 2)
        bics.append(len(y) * np.log(max(error, 1e-30 * np.sum(y**2)) / len(y)) + (degree + 2) * np.log(len(y)))
        fits.append(fit)
    gain = float(bics[0] - bics[1])
    curvature, slope = fits[1][0], fits[1][1]
    vertex = -slope / (2 * curvature) + u.mean() if curvature else np.inf
    if gain > 6 and u.min() < vertex < u.max():
        return CurveShape("u" if curvature > 0 else "inverted u", gain, float(np.exp(vertex)))
    return CurveShape("falling" if fits[0][0] < 0 else "rising", gain, None)
