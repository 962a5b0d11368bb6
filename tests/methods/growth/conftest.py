"""Draw the random numbers of growth with NumPy."""

from collections.abc import Callable

import jax
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _draw_with_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace JAX's generators, which compile again for every shape: ten times the time of everything else."""

    def draw(distribution: Callable, keys: jax.Array, stream: int, shape: tuple[int, ...]) -> np.ndarray:
        seeds = np.asarray(jax.random.key_data(keys)).astype(np.int64)
        method = "random" if distribution is jax.random.uniform else "standard_normal"
        generators = [np.random.default_rng([stream, *seed]) for seed in seeds.reshape(-1, seeds.shape[-1])]
        values = [getattr(generator, method)(shape) for generator in generators]
        return np.array(values, np.float32).reshape(*keys.shape, *shape)

    monkeypatch.setattr("pathways_lite.methods.growth.apply.draw", draw)
