"""Model presets: published architectures, and a ladder of small PaLM models for experiments on a laptop or a few chips.

A test compares their parameter counts with the published ones.
"""

from __future__ import annotations

from pathways_lite.recipe import Model


def palm(d_model: int, n_layers: int, n_heads: int, head_dim: int, vocab_size: int) -> Model:
    """PaLM's shape (Chowdhery et al. 2022, arXiv 2204.02311, section 2) with d_ff = 4 d_model."""
    return Model(
        d_model=d_model, n_layers=n_layers, n_heads=n_heads, head_dim=head_dim, d_ff=4 * d_model, vocab_size=vocab_size
    )  # fmt: skip


def palm_tiny(vocab_size: int = 4096) -> Model:
    """1.5 M parameters: seconds to minutes on a CPU."""
    return palm(128, 4, 4, 32, vocab_size)


def palm_small(vocab_size: int = 8192) -> Model:
    """7.7 M parameters: an hour on a CPU."""
    return palm(256, 6, 8, 32, vocab_size)


def palm_medium(vocab_size: int = 16_384) -> Model:
    """38 M parameters."""
    return palm(512, 8, 8, 64, vocab_size)


def palm_large(vocab_size: int = 32_768) -> Model:
    """126 M parameters: one accelerator."""
    return palm(768, 12, 12, 64, vocab_size)


def palm_1b(vocab_size: int = 32_768) -> Model:
    """1.0 B parameters."""
    return palm(2048, 16, 16, 128, vocab_size)


def palm_8b() -> Model:
    """PaLM 8B: 8.63 B parameters."""
    return palm(4096, 32, 16, 256, 256_000)


def palm_62b() -> Model:
    """PaLM 62B: 62.50 B parameters."""
    return palm(8192, 64, 32, 256, 256_000)


def palm_540b() -> Model:
    """PaLM 540B: 540.35 B parameters and 2.2 M norm scales. Heads times head_dim (12288) is not d_model (18432)."""
    return palm(18_432, 118, 48, 256, 256_000)


def llama(
    d_model: int,
    n_layers: int,
    n_heads: int,
    n_kv_heads: int,
    d_ff: int,
    *,
    vocab_size: int = 32_000,
    rope_base: float = 10_000.0,
) -> Model:
    """Llama's shape (Touvron et al. 2023, arXiv 2307.09288): serial blocks, RMSNorm, grouped queries, untied head."""
    return Model(
        d_model=d_model, n_layers=n_layers, n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=d_model // n_heads,
        d_ff=d_ff, vocab_size=vocab_size, block="serial", norm_epsilon=1e-5, rope_base=rope_base,
        tie_embeddings=False, init="normal",
    )  # fmt: skip


def tinyllama_1b() -> Model:
    """TinyLlama 1.1B (Zhang et al. 2024, arXiv 2401.02385)."""
    return llama(2048, 22, 32, 4, 5632)


def llama_7b() -> Model:
    """Llama 2 7B: 6.74 B parameters."""
    return llama(4096, 32, 32, 32, 11_008)


def llama_13b() -> Model:
    """Llama 2 13B: 13.02 B parameters."""
    return llama(5120, 40, 40, 40, 13_824)


def llama_70b() -> Model:
    """Llama 2 70B: 68.98 B parameters."""
    return llama(8192, 80, 64, 8, 28_672)


def smollm2_135m() -> Model:
    """SmolLM2 135M (Allal et al. 2025, arXiv 2502.02737): 134.5 M parameters; `make smollm` fetches its weights."""
    tied = {"tie_embeddings": True, "logit_scale": 1.0}
    return llama(576, 30, 9, 3, 1536, vocab_size=49_152, rope_base=100_000.0).model_copy(update=tied)


def llama3_8b() -> Model:
    """Llama 3 8B (Grattafiori et al. 2024, arXiv 2407.21783): 8.03 B parameters."""
    return llama(4096, 32, 32, 8, 14_336, vocab_size=128_256, rope_base=500_000.0)


def llama3_70b() -> Model:
    """Llama 3 70B: 70.55 B parameters."""
    return llama(8192, 80, 64, 8, 28_672, vocab_size=128_256, rope_base=500_000.0)
