"""Measurements and synthetic runs. Tests that need public measurements are skipped where these are absent."""

import os
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def measurements() -> Path:
    """The directory of published measurements, which are not part of the project."""
    folder = Path(os.environ.get("PATHWAYS_LITE_SHARED", ROOT.parent / "shared")) / "data" / "scaling"
    if not folder.is_dir():
        pytest.skip("the public measurements are not here; PATHWAYS_LITE_SHARED names the folder that has data/scaling")
    return folder


@pytest.fixture(scope="session")
def rungs() -> dict[str, np.ndarray]:
    """Fifteen runs whose losses follow a Chinchilla law with relative noise of 1e-3. Tests must not modify them."""
    N, M = (axis.ravel() for axis in np.meshgrid([1e7, 3e7, 1e8, 3e8, 1e9], [5, 20, 80], indexing="ij"))
    noise = np.exp(1e-3 * np.random.default_rng(0).normal(size=15))
    return {"N": N, "D": N * M, "L": (1.8 + 480 / N**0.35 + 2000 / (N * M) ** 0.37) * noise}
