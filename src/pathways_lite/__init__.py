"""Pretrain transformers in JAX and find out whether a training-efficiency method pays."""

__version__ = "0.1.0"
