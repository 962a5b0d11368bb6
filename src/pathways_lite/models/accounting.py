"""What a model is made of and what it costs: parameters, model FLOPs, and the share of a machine's peak.

All counts are exact Python integers. A multiply-add is two FLOPs; recomputation (`remat`) is never counted.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pathways_kernels.attention import Spans
from pathways_lite.recipe import Model


def parameter_count(config: Model, *, embedding: bool = True) -> int:
    """All parameters; with `embedding=False` without the [V, E] matrices (the embedding and an untied head)."""
    E, D = config.d_model, config.head_dim
    norms = E if config.block == "parallel" else 2 * E
    if config.qk_norm:
        norms += 2 * D
    count = config.n_layers * (_block_matmul_parameters(config) + norms) + E
    if embedding:
        count += config.vocab_size * E * (1 if config.tie_embeddings else 2)
    return count


def flops_per_token(config: Model, seq_len: int) -> int:
    """Model FLOPs to train on one token (forward and backward), by the formula that PaLM's MFU is defined with."""
    return palm_flops_per_token(parameter_count(config), config.n_layers, config.n_heads, config.head_dim, seq_len)


def palm_flops_per_token(parameters: int, n_layers: int, n_heads: int, head_dim: int, seq_len: int) -> int:
    """`6 N + 12 L H Q T` (PaLM appendix B): N counts every parameter, attention every pair, causal or not.

    `seq_len=0` gives the count without attention.
    """
    return 6 * parameters + 12 * n_layers * n_heads * head_dim * seq_len


def attended_pairs(config: Model, spans: Spans) -> int:
    """Query-key pairs that the attention of all layers computes for NumPy `spans` [B, T], windows respected."""
    start, stop = np.asarray(spans.start, np.int64), np.asarray(spans.stop, np.int64)
    slots = np.arange(start.shape[1])
    pattern = config.window or (None,)
    pairs = 0
    for window in pattern:
        first = start if window is None else np.maximum(start, slots + 1 - window)
        pairs += int(np.maximum(stop - first, 0).sum())
    return pairs * (config.n_layers // len(pattern))


def flops_with_spans(config: Model, tokens: int, attended_pairs: int, *, backward: bool = True) -> int:
    """FLOPs of the matrix products that training on `tokens` tokens (or only the forward pass) really needs.

    Every weight matrix multiplies every token once, the output matrix included (once, tied or not); looking up an
    embedding is free. An attended pair costs a D-long product with the key and one with the value, per head.

    Args:
      attended_pairs: summed over all layers, as the function of that name gives it.
    """
    weights = config.n_layers * _block_matmul_parameters(config) + config.vocab_size * config.d_model
    forward = 2 * weights * tokens + 4 * config.n_heads * config.head_dim * attended_pairs
    return 3 * forward if backward else forward


def mfu(tokens_per_second: Any, flops_per_token: int, peak_flops_per_second: float) -> Any:
    """Model FLOPs utilisation: the observed throughput over the peak's, `P / flops_per_token` (PaLM appendix B)."""
    return tokens_per_second * flops_per_token / peak_flops_per_second


def _block_matmul_parameters(config: Model) -> int:
    heads = 2 * config.n_heads + 2 * config.n_kv_heads  # query and output, key and value
    return config.d_model * (heads * config.head_dim + 3 * config.d_ff)
