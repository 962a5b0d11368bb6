"""Pretrain transformers in JAX and find out whether a training-efficiency method pays."""

from pathways_lite.version import __version__

__all__ = ["__version__"]
