"""Synthetic runs that follow a scaling law, for the properties that the fit of every law must have."""

import numpy as np

from pathways_lite.scaling.law import Law
from pathways_lite.scaling.laws.registry import LAWS
from pathways_lite.scaling.solver import predict

# Inputs of synthetic runs are drawn log-uniformly from these ranges.
RANGES = {
    "N": (1e7, 1e10), "D": (1e9, 1e12), "U": (2e9, 5e10), "C": (1e18, 1e22), "M": (5, 600), "L": (2, 6),
    "S": (1e3, 1e6), "S1": (0.05, 10), "S2": (0.01, 1), "k": (1, 1e4), "P": (1.5, 16), "x": (10, 1e5),
    "Nnv": (3e7, 1e9), "Nv": (2e6, 2e8), "N_average": (1e7, 1e10), "N_encoder": (1e7, 1e10),
    "N_decoder": (1e7, 1e10), "experts": (1, 512), "D_examples": (200, 1e6), "frequency": (1, 1e6),
    "C_pf_days": (1e-6, 1e3), "documents": (1, 1e3), "shots": (1, 256), "iterations": (1, 6),
    "N_active": (1e7, 1e10), "chance": (0.2, 0.3), "teacher_loss": (1.8, 2.6), "supervised_loss": (2, 3.5),
    "P_w": (2, 16), "P_a": (2, 16), "P_kv": (2, 16),
    "i_documents": (0.05, 1), "i_shots": (0.05, 1), "samples": (1e7, 1.5e8), "pool": (1.2e7, 1.4e7),
}  # fmt: skip

# The multi-power law's inputs are whole schedules; it has its own tests.
SCALAR_LAWS = [law for law in LAWS.values() if law.name != "multi-power"]


def published_values(law: Law) -> dict[str, float]:
    """Return the first published values of the law's parameters by name."""
    return dict(zip(law.names, law.published[0][1], strict=True))


def synthetic_runs(law: Law, rows: int = 60, seed: int = 0, noise: float = 0.0) -> dict[str, np.ndarray]:
    """Draw runs that follow the law's first published values up to relative noise."""
    rng = np.random.default_rng(seed)
    table = {name: np.exp(rng.uniform(*np.log(RANGES[name]), rows)) for name in law.inputs}
    if "U" in table:
        table["D"] = table["U"] * np.exp(rng.uniform(0, 3, rows))
    clean = predict(law, published_values(law), table)
    return {**table, law.target: clean * np.exp(noise * rng.normal(size=rows))}


def rescale(table: dict[str, np.ndarray], column: str, factor: float) -> dict[str, np.ndarray]:
    """Return the same runs with `column` in another unit."""
    return {**table, column: table[column] * factor}
