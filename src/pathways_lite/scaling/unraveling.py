"""Estimate L(N, S, B) from small runs in three steps: "Unraveling the Mystery of Scaling Laws, Part I" (2403.06563).

1. `fit_parameters`: models trained to convergence without repetition and with large batches give Nc and aN.
2. `fit_steps`: one model at a batch far above the critical one, so that S is Smin, gives Sc and aS.
3. `fit_batches`: runs at several batches that reach the same losses give the critical batch at each, hence B* and aB.

`kaplan.implicit_loss` predicts from all six values. The order and the forms are from memory, not read from the paper.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.scaling.isoflop import fit_power_law


def fit_parameters(N: np.ndarray, L: np.ndarray) -> dict[str, float]:
    """Fit L = (Nc/N)^aN, a line in logarithms (step 1); N without embeddings, L at convergence.

    Raises UserError for a single N, and if the loss does not fall with N.
    """
    power_law = fit_power_law(N, L)
    if power_law.exponent >= 0:
        raise UserError("the loss does not fall with N; give models that are trained to convergence")
    return {"aN": -power_law.exponent, "Nc": float(power_law.coefficient ** (-1 / power_law.exponent))}


def fit_steps(S: np.ndarray, L: np.ndarray, N: float, parameter_fit: Mapping[str, float]) -> dict[str, float]:
    """Fit L - (Nc/N)^aN = (Sc/S)^aS along one model's training at a batch far above the critical one (step 2).

    Raises UserError if a loss is below the one that N parameters converge to.
    """
    excess_loss = np.asarray(L, np.float64) - (parameter_fit["Nc"] / N) ** parameter_fit["aN"]
    if np.any(excess_loss <= 0):
        raise UserError("some losses are below the loss at which this model converges by step 1; repeat step 1 with it")
    power_law = fit_power_law(S, excess_loss)
    if power_law.exponent >= 0:
        raise UserError("the loss does not fall with steps; leave out the warm-up")
    return {"aS": -power_law.exponent, "Sc": float(power_law.coefficient ** (-1 / power_law.exponent))}


def fit_critical_point(S: np.ndarray, E: np.ndarray) -> tuple[float, float]:
    """Fit Smin and Emin of the hyperbola (S/Smin - 1)(E/Emin - 1) = 1 to runs that reach the same loss.

    S steps and E = B S tokens at several batches: Smin/S + Emin/E = 1 is linear in both, fitted by least squares.
    """
    if len(np.unique(np.asarray(E) / np.asarray(S))) < 2:
        raise UserError("one batch size cannot show the critical batch; give runs with at least two")
    design = np.stack([1 / np.asarray(S, np.float64), 1 / np.asarray(E, np.float64)], axis=1)
    (smin, emin), *_ = np.linalg.lstsq(design, np.ones(len(design)), rcond=None)
    if smin <= 0 or emin <= 0:
        raise UserError("these runs do not trade steps for tokens; give batch sizes on both sides of the critical one")
    return float(smin), float(emin)


def fit_batches(S: np.ndarray, B: np.ndarray, L: np.ndarray) -> dict[str, float]:
    """Fit Bcrit(L) = Emin/Smin = B*/L^(1/aB) to rows (steps S, tokens per batch B, loss L reached) (step 3).

    Raises UserError for fewer than two losses that at least two batches reach.
    """
    points = []
    for loss in np.unique(L):
        rows = np.asarray(L) == loss
        if len(np.unique(B[rows])) > 1:
            smin, emin = fit_critical_point(S[rows], B[rows] * S[rows])
            points.append((loss, emin / smin))
    if len(points) < 2:
        raise UserError(
            f"{len(points)} losses are reached at two or more batch sizes; at least two such losses are needed"
        )
    losses, critical_batches = np.array(points).T
    power_law = fit_power_law(losses, critical_batches)
    return {"B*": power_law.coefficient, "aB": -1 / power_law.exponent}
