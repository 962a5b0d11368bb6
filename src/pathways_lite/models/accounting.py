"""Parameter counts, model FLOPs, and model FLOPs utilization (MFU).

All counts are exact Python integers. A multiply-add is two FLOPs; recomputation (`remat`) is never counted.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pathways_kernels.attention import Spans
from pathways_lite.recipe import Model


def parameter_count(config: Model, *, embedding: bool = True) -> int:
    """Count the parameters; `embedding=False` leaves out the [V, E] matrices (the embedding and an untied head)."""
    count = config.n_layers * (_block_matmul_parameters(config) + _block_vectors(config))
    count += config.d_model * (1 + config.has_bias("norm"))  # the final norm
    if embedding:
        count += config.vocab_size * config.d_model * (1 if config.tie_embeddings else 2)
    return count


def flops_per_token(config: Model, seq_len: int) -> int:
    """Return the model FLOPs of training on one token (forward and backward), as PaLM defines MFU."""
    return palm_flops_per_token(parameter_count(config), config.n_layers, config.n_heads, config.head_dim, seq_len)


def palm_flops_per_token(parameters: int, n_layers: int, n_heads: int, head_dim: int, seq_len: int) -> int:
    """Return `6 N + 12 L H Q T` (PaLM appendix B): N counts every parameter, attention every pair, causal or not.

    `seq_len=0` leaves attention out.
    """
    return 6 * parameters + 12 * n_layers * n_heads * head_dim * seq_len


def attended_pairs(config: Model, spans: Spans) -> int:
    """Count the query-key pairs in the attention of all layers, for NumPy `spans` [B, T] and the model's windows."""
    start, stop = np.asarray(spans.start, np.int64), np.asarray(spans.stop, np.int64)
    positions = np.arange(start.shape[1])
    pattern = config.window or (None,)
    pairs = 0
    for window in pattern:
        first = start if window is None else np.maximum(start, positions + 1 - window)
        pairs += int(np.maximum(stop - first, 0).sum())
    return pairs * (config.n_layers // len(pattern))


def flops_with_spans(config: Model, tokens: int, attended_pairs: int, *, backward: bool = True) -> int:
    """Count the FLOPs of the matrix products that training on `tokens` tokens (or the forward pass alone) needs.

    Every weight matrix multiplies every token once, the output matrix included, tied or not. Embedding look-up is free.
    An attended pair costs, per head, a product of length D with the key and one with the value.

    Args:
      attended_pairs: the sum over all layers, from the function of that name.
    """
    weights = config.n_layers * _block_matmul_parameters(config) + config.vocab_size * config.d_model
    forward = 2 * weights * tokens + 4 * config.n_heads * config.head_dim * attended_pairs
    return 3 * forward if backward else forward


def mfu(tokens_per_second: Any, flops_per_token: int, peak_flops_per_second: float) -> Any:
    """Return model FLOPs utilization: observed throughput / peak throughput `P / flops_per_token` (PaLM appendix B)."""
    return tokens_per_second * flops_per_token / peak_flops_per_second


def _block_matmul_parameters(config: Model) -> int:
    heads = 2 * config.n_heads + 2 * config.n_kv_heads  # query and output, key and value
    return config.d_model * (heads * config.head_dim + (3 if config.is_gated else 2) * config.d_ff)


def _block_vectors(config: Model) -> int:
    """Count a block's norm scales and biases."""
    E, D, F = config.d_model, config.head_dim, config.d_ff
    norms = 1 if config.block == "parallel" and config.parallel_norms is None else 2
    if config.norm_position == "both":
        norms = 4
    count = norms * E * (1 + config.has_bias("norm"))
    if config.qk_norm:
        count += D * (2 if config.qk_norm_over is None else config.n_heads + config.n_kv_heads)
    count += config.has_bias("qkv") * D * (config.n_heads + 2 * config.n_kv_heads)
    count += config.has_bias("attention_out") * E
    return count + config.has_bias("mlp") * (E + F * (2 if config.is_gated else 1))
