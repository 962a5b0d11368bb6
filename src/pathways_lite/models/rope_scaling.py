"""Frequencies of the rotary embedding for sequences longer than those of a model's first training."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from pathways_lite.recipe import LinearScaling, Llama3Scaling, RopeScaling, YarnScaling


def scaled_frequencies(frequencies: jax.Array, base: float, scaling: RopeScaling) -> tuple[jax.Array, float]:
    """Return the frequencies float32 [D/2], in radians per token, under `scaling`, and the factor of rotated vectors.

    `frequencies` are `base^(-2i/D)`. With s = 1 a frequency f is kept, with s = 0 it is divided by the factor, and
    between them it is `(1 - s) f / factor + s f` (YaRN, arXiv 2309.00071, equation 19).
    """
    match scaling:
        case LinearScaling(factor=factor):
            return frequencies / factor, 1.0
        case Llama3Scaling():
            low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
            turns = scaling.original_length * frequencies / (2 * math.pi)
            kept = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
            return _blend(frequencies, kept, scaling.factor), 1.0
        case YarnScaling():
            kept = 1.0 - _yarn_ramp(2 * frequencies.size, base, scaling)
            return _blend(frequencies, kept, scaling.factor), yarn_attention_factor(scaling)


def yarn_attention_factor(scaling: YarnScaling) -> float:
    """Return the factor of rotated queries and keys: as given, or `0.1 ln(factor) + 1` (YaRN's equation 22)."""
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    return 0.1 * math.log(scaling.factor) + 1.0


def _blend(frequencies: jax.Array, kept: jax.Array, factor: float) -> jax.Array:
    return (1.0 - kept) * (frequencies / factor) + kept * frequencies


def _yarn_ramp(rotary_dim: int, base: float, scaling: YarnScaling) -> jax.Array:
    """Return 0 for the frequencies that turn at least `fast_turns` times, 1 for less than `slow_turns`, [D/2]."""

    def number(turns: float) -> float:
        """The number i, not rounded, of the frequency that turns so many times in the original length."""
        return rotary_dim * math.log(scaling.original_length / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = number(scaling.fast_turns), number(scaling.slow_turns)
    if scaling.whole_bounds:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary_dim - 1)
    if low == high:
        high += 0.001  # as the published code does, instead of dividing by zero
    return jnp.clip((jnp.arange(rotary_dim // 2, dtype=jnp.float32) - low) / (high - low), 0.0, 1.0)
