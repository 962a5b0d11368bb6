"""A matrix product whose CPU lowering keeps to the layouts that XLA's CPU backend is fast in."""

from pathways_kernels.linear.api import linear

__all__ = ["linear"]
