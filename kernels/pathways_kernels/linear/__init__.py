"""A matrix product whose CPU lowering uses only layouts for which XLA's CPU backend is fast."""

from pathways_kernels.linear.api import linear

__all__ = ["linear"]
