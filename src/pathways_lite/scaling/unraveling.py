"""Estimating L(N, S, B) from small runs, step by step: "Unraveling the Mystery of Scaling Laws, Part I" (2403.06563).

1. `of_parameters`: models trained to convergence without repetition and with large batches give Nc and aN.
2. `of_steps`: one model at a batch far above the critical one, so that S is Smin, gives Sc and aS.
3. `of_batches`: runs at several batches that reach the same losses give the critical batch at each, hence B* and aB.

`kaplan.implicit_loss` predicts from the six values together. The order and the forms are as remembered from the paper.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.scaling.isoflop import fit_power_law


def fit_parameters(N: np.ndarray, L: np.ndarray) -> dict[str, float]:
    """Step 1: L = (Nc/N)^aN, a line in logarithms; N without embeddings, L at convergence.

    Raises UserError for a single N, and where the loss does not fall with N.
    """
    line = fit_power_law(N, L)
    if line.exponent >= 0:
        raise UserError("the loss does not fall with N; give models that are trained to convergence")
    return {"aN": -line.exponent, "Nc": float(line.coefficient ** (-1 / line.exponent))}


def fit_steps(S: np.ndarray, L: np.ndarray, N: float, parameter_fit: Mapping[str, float]) -> dict[str, float]:
    """Step 2: L - (Nc/N)^aN = (Sc/S)^aS along one model's training, at a batch far above the critical one.

    Raises UserError where a loss lies below what N parameters converge to.
    """
    rest = np.asarray(L, np.float64) - (parameter_fit["Nc"] / N) ** parameter_fit["aN"]
    if np.any(rest <= 0):
        raise UserError("some losses lie below what step 1 says that this model converges to; repeat step 1 with it")
    line = fit_power_law(S, rest)
    if line.exponent >= 0:
        raise UserError("the loss does not fall with steps; leave out the warm-up")
    return {"aS": -line.exponent, "Sc": float(line.coefficient ** (-1 / line.exponent))}


def fit_critical_point(S: np.ndarray, E: np.ndarray) -> tuple[float, float]:
    """Smin and Emin of the hyperbola (S/Smin - 1)(E/Emin - 1) = 1 through runs that reach one loss.

    S steps and E = B S tokens at several batches: Smin/S + Emin/E = 1 is linear in both, fitted by least squares.
    """
    if len(np.unique(np.asarray(E) / np.asarray(S))) < 2:
        raise UserError("one batch cannot show the critical batch; give runs of at least two")
    design = np.stack([1 / np.asarray(S, np.float64), 1 / np.asarray(E, np.float64)], axis=1)
    (smin, emin), *_ = np.linalg.lstsq(design, np.ones(len(design)), rcond=None)
    if smin <= 0 or emin <= 0:
        raise UserError("these runs do not trade steps for tokens; give batches on both sides of the critical one")
    return float(smin), float(emin)


def fit_batches(S: np.ndarray, B: np.ndarray, L: np.ndarray) -> dict[str, float]:
    """Step 3: Bcrit(L) = Emin/Smin = B*/L^(1/aB) from rows (steps S, tokens per batch B, loss L reached).

    Raises UserError for fewer than two losses that at least two batches reach.
    """
    points = []
    for loss in np.unique(L):
        rows = np.asarray(L) == loss
        if len(np.unique(B[rows])) > 1:
            smin, emin = fit_critical_point(S[rows], B[rows] * S[rows])
            points.append((loss, emin / smin))
    if len(points) < 2:
        raise UserError(f"{len(points)} losses are reached at two batches or more; at least two such losses are needed")
    losses, critical = np.array(points).T
    line = fit_power_law(losses, critical)
    return {"B*": line.coefficient, "aB": -1 / line.exponent}
