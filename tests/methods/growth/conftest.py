"""`small_models` is importable by the test files here, and random numbers come from NumPy."""

import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX's are compiled anew for every shape, which would take ten times as long as all else."""

    def draw(distribution: Callable, keys: jax.Array, stream: int, shape: tuple[int, ...]) -> np.ndarray:
        seeds = np.asarray(jax.random.key_data(keys)).astype(np.int64)
        of = lambda rng: rng.random if distribution is jax.random.uniform else rng.standard_normal  # noqa: E731
        drawn = [of(np.random.default_rng([stream, *seed]))(shape) for seed in seeds.reshape(-1, seeds.shape[-1])]
        return np.array(drawn, np.float32).reshape(*keys.shape, *shape)

    monkeypatch.setattr("pathways_lite.methods.growth.apply.draw", draw)
