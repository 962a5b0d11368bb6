"""The step-by-step estimation recovers the constants that made the runs."""

import numpy as np
import pytest

from pathways_lite.errors import UserError
from pathways_lite.scaling import unraveling
from pathways_lite.scaling.laws import kaplan

V = kaplan.TRAJECTORY


def test_the_three_steps() -> None:
    N = np.array([1e6, 3e6, 1e7, 6e7])
    estimates = unraveling.fit_parameters(N, (V["Nc"] / N) ** V["aN"])
    S = np.geomspace(1e3, 1e5, 20)
    estimates |= unraveling.fit_steps(S, kaplan.implicit_loss(1e7, S, 1e15), 1e7, estimates)
    B, L = (axis.ravel() for axis in np.meshgrid([1e5, 1e6, 1e7], [3.6, 3.9, 4.2], indexing="ij"))
    smin = np.array([kaplan.minimal_steps(1e7, loss) for loss in L])
    estimates |= unraveling.fit_batches(smin * (1 + kaplan.critical_batch(L) / B), B, L)
    for name, value in V.items():
        assert estimates[name] == pytest.approx(value, rel=1e-3), name
    assert kaplan.implicit_loss(1e8, 1e4, 1e6, estimates) == pytest.approx(
        kaplan.implicit_loss(1e8, 1e4, 1e6), rel=1e-4
    )


def test_what_cannot_be_estimated_is_refused() -> None:
    with pytest.raises(UserError, match="does not fall"):
        unraveling.fit_parameters(np.array([1e6, 1e7]), np.array([2.0, 3.0]))
    with pytest.raises(UserError, match="one batch size"):
        unraveling.fit_critical_point(np.array([10.0, 20.0]), np.array([100.0, 200.0]))
    with pytest.raises(UserError, match="0 losses"):
        unraveling.fit_batches(np.array([1.0, 2.0]), np.array([1.0, 2.0]), np.array([2.0, 3.0]))
