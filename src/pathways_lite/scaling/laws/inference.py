"""Laws of what is spent at test time: repeated samples, and retrieval."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy import special

from pathways_lite.errors import UserError
from pathways_lite.scaling.law import Law, Parameter, power
from pathways_lite.scaling.losses import LeastSquares

COVERAGE = Law(
    name="coverage",
    title="Coverage of repeated samples",
    source="Brown et al. 2024, arXiv 2407.21787; Schaeffer et al. 2025, arXiv 2502.17578",
    formula="coverage = exp(-a k^-b)",
    inputs=("k",),
    target="coverage",
    parameters=(Parameter("a", (0.3, 10.0), centre=(("-b", "k"),)), Parameter("b", (0.05, 1.0))),
    predict=lambda v, x: jnp.exp(-v["a"] * power(x["k"], -v["b"])),
    link="raw",
    loss=LeastSquares(),
    published=(
        ("Pythia 12B, MATH", (4.245, 0.3777)),
        ("Pythia 2.8B, MATH", (4.250, 0.3440)),
        ("Pythia 1B, MATH", (5.570, 0.3187)),
    ),
)


def pass_at_k(samples: Any, correct: Any, k: Any) -> np.ndarray:
    """The unbiased probability that k of n samples have a correct one: 1 - C(n-c, k)/C(n, k) (Chen et al. 2021).

    Arrays of counts of any shapes that go together. Raises UserError unless 1 <= k <= n and 0 <= c <= n.
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
    # With fewer wrong samples than k, one of the k is right.
    return np.where(n - c < k, 1.0, -np.expm1(log_all_wrong))


# Retrieval (Yue et al. 2024, arXiv 2410.04343), Gemini 1.5 Flash: of documents k, shots m, iterations n.
RAG_A, RAG_B, RAG_C = (0.325, 0.101, 0.177), (-0.067, -0.008, 0.0), -0.730


def rag_sigmoid(x: Any) -> Any:
    """The link of the retrieval law: 3.30/(1 + exp(-1.81 (x + 0.46))) - 2.18."""
    return 3.30 / (1 + np.exp(-1.81 * (np.asarray(x, np.float64) + 0.46))) - 2.18


def rag_link(P: Any) -> Any:
    """Its inverse."""
    share = (np.asarray(P, np.float64) + 2.18) / 3.30
    return np.log(share / (1 - share)) / 1.81 - 0.46


def rag_performance(
    documents: float, shots: float, iterations: float, informative: tuple[float, float, float], eps: float = 1e-3
) -> float:
    """P = sigma((a + b i)^T ln theta + c), theta the numbers given plus eps, i = (i_doc, i_shot, 0)."""
    theta = np.log(np.array([documents, shots, iterations]) + eps)
    return float(rag_sigmoid(np.dot(np.array(RAG_A) + np.array(RAG_B) * np.array(informative), theta) + RAG_C))
