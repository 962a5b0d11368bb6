"""The coverage of repeated samples where the problems' success probabilities have a Beta distribution."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax.scipy.special import gammaln

from pathways_lite.scaling.law import Columns, Law, Parameter, Values
from pathways_lite.scaling.losses import LeastSquares


def _coverage(v: Values, x: Columns) -> Any:
    a, b, k = v["alpha"], v["beta"], x["k"]
    return -jnp.expm1(gammaln(b + k) + gammaln(a + b) - gammaln(b) - gammaln(a + b + k))


BETA_COVERAGE = Law(
    name="beta-coverage",
    title="Coverage of repeated samples, Beta-distributed success",
    source="Schaeffer et al. 2025, arXiv 2502.17578; coverage is fitted here, counts by `judge --predict`",
    formula="coverage = 1 - B(alpha, beta+k)/B(alpha, beta)",
    inputs=("k",),
    target="coverage",
    parameters=(Parameter("alpha", (0.05, 2.0)), Parameter("beta", (0.5, 50.0))),
    predict=_coverage,
    link="raw",
    loss=LeastSquares(),
    averaged=True,
    published=(("an example: Beta(0.35, 3.5)", (0.35, 3.5)),),
)
