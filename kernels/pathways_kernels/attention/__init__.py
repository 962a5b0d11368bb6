"""Attention with an interval of keys per query."""

from pathways_kernels.attention.api import attention
from pathways_kernels.attention.common import CHECKPOINT_NAME
from pathways_kernels.attention.spans import Spans

__all__ = ["CHECKPOINT_NAME", "Spans", "attention"]
