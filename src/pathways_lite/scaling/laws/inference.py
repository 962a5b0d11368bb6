"""Laws of test-time compute: repeated samples, and retrieval."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy import special

from pathways_lite.errors import UserError
from pathways_lite.scaling.law import Columns, Law, Parameter, Values, power
from pathways_lite.scaling.losses import LeastSquares, retrieval_sigmoid

COVERAGE = Law(
    name="coverage",
    title="Coverage of repeated samples",
    source="Brown et al. 2024, arXiv 2407.21787; Schaeffer et al. 2025, arXiv 2502.17578",
    formula="coverage = exp(-a k^-b)",
    inputs=("k",),
    target="coverage",
    parameters=(Parameter("a", (0.3, 10.0), center=(("-b", "k"),)), Parameter("b", (0.05, 1.0))),
    predict=lambda v, x: jnp.exp(-v["a"] * power(x["k"], -v["b"])),
    link="raw",
    loss=LeastSquares(),
    averaged=True,
    published=(
        ("Pythia 12B, MATH", (4.245, 0.3777)),
        ("Pythia 2.8B, MATH", (4.250, 0.3440)),
        ("Pythia 1B, MATH", (5.570, 0.3187)),
    ),
)


def pass_at_k(samples: Any, correct: Any, k: Any) -> np.ndarray:
    """Return the unbiased probability that one of k samples is correct: 1 - C(n-c, k)/C(n, k).

    Chen et al. 2021. `samples` n, `correct` c and `k` are arrays of counts that broadcast. Raises UserError unless
    1 <= k <= n and 0 <= c <= n.
    """
    n, c, k = (np.asarray(value, np.float64) for value in (samples, correct, k))
    if np.any(k < 1) or np.any(k > n) or np.any(c < 0) or np.any(c > n):
        raise UserError("pass@k needs 1 <= k <= samples and 0 <= correct <= samples")
    wrong = np.maximum(n - c, k)
    log_all_wrong = (
        special.gammaln(wrong + 1)
        - special.gammaln(wrong - k + 1)
        - special.gammaln(n + 1)
        + special.gammaln(n - k + 1)
    )
    # With fewer than k wrong samples, one of any k is correct; without a correct one none is, rounding aside.
    return np.where(n - c < k, 1.0, np.where(c == 0, 0.0, -np.expm1(log_all_wrong)))


_AMOUNTS, _INFORMATIVE = ("documents", "shots", "iterations"), ("documents", "shots")


def _retrieval(v: Values, x: Columns) -> Any:
    logs = {name: jnp.log(x[name] + 1e-3) for name in _AMOUNTS}
    total = sum(v[f"a_{name}"] * logs[name] for name in _AMOUNTS)
    # The informativeness of documents and shots (i_NAME) changes their worth; iterations have no such measure.
    return retrieval_sigmoid(
        total + sum(v[f"b_{name}"] * x[f"i_{name}"] * logs[name] for name in _INFORMATIVE) + v["c"]
    )


RETRIEVAL = Law(
    name="retrieval",
    title="Performance with retrieval",
    source="Yue et al. 2024, arXiv 2410.04343; least squares of scores, before the sigmoid",
    formula="performance = sigma(sum_j (a_j + b_j i_j) ln(theta_j + 0.001) + c)",
    inputs=(*_AMOUNTS, *(f"i_{name}" for name in _INFORMATIVE)),
    target="performance",
    parameters=(
        *(Parameter(f"a_{name}", (-0.5, 0.5), kind="real") for name in _AMOUNTS),
        *(Parameter(f"b_{name}", (-0.2, 0.2), kind="real") for name in _INFORMATIVE),
        Parameter("c", (-1.0, 0.5), kind="real"),
    ),
    predict=_retrieval,
    link="retrieval",
    loss=LeastSquares(),
    any_sign=(
        *_INFORMATIVE,
        *(f"i_{name}" for name in _INFORMATIVE),
        "performance",
    ),  # zero documents or shots are allowed
    published=(("Gemini 1.5 Flash", (0.325, 0.101, 0.177, -0.067, -0.008, -0.730)),),
)
