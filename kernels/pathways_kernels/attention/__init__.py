"""Attention with an interval of keys per query."""

from pathways_kernels.attention.api import attention
from pathways_kernels.attention.common import RESULTS
from pathways_kernels.attention.spans import Spans

__all__ = ["RESULTS", "Spans", "attention"]
