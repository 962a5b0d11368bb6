"""Block sizes of the TPU kernels: tuned limits per chip and head dim, and the sizes for one call.

The limits were chosen by the compiler's own estimates of cycles for full rows, with finer blocks where the difference
was small, since finer blocks skip more; `tools/tune_attention.py` compares candidates over all kinds of spans and needs
no TPU. The rest follows from the chip's vector memory.
"""

from __future__ import annotations

from typing import NamedTuple

from jax.experimental.pallas import tpu as pltpu


class Limits(NamedTuple):
    """Upper limits of a kernel's block sizes."""

    rows: int  # queries of a block, over all of its heads
    keys: int
    unroll: int  # blocks of keys in straight-line code


class BlockSizes(NamedTuple):
    """The sizes of one kernel call."""

    queries: int  # Tc, per block
    keys: int  # Sc, per block
    segment: int  # Ss, keys in vector memory at once; a multiple of Sc, divides S
    unroll: int
    vmem_bytes: int  # vector memory that the compiler may use


_NO_UNROLL, _UNROLL_2, _UNROLL_4 = Limits(512, 512, 1), Limits(512, 512, 2), Limits(512, 512, 4)
# (chip, head dim up to) -> limits of the forward and of the backward kernel.
TUNED: dict[tuple[str, int], tuple[Limits, Limits]] = {
    ("v4", 128): (_UNROLL_2, _NO_UNROLL),
    ("v4", 256): (_UNROLL_2, _NO_UNROLL),
    ("v5e", 128): (_UNROLL_4, _UNROLL_4),
    ("v5e", 256): (_UNROLL_4, _UNROLL_2),
    ("v5p", 128): (_UNROLL_4, _UNROLL_2),
    ("v5p", 256): (_UNROLL_4, _UNROLL_2),
    ("v6e", 128): (_UNROLL_4, _UNROLL_4),
    ("v6e", 256): (_UNROLL_4, _UNROLL_4),
}
# For a chip that is not in the table or not known: what fits every chip.
SMALL = _NO_UNROLL
SMALL_VMEM = 16 * 2**20


def chip() -> tuple[str, int]:
    """Return the chip that is compiled for and its vector memory in bytes per core; ("", SMALL_VMEM) if unknown.

    Ahead of time, `jax.sharding.use_abstract_mesh` with an `AbstractDevice` names the chip.
    """
    try:
        info = pltpu.get_tpu_info()
    except ValueError:
        return "", SMALL_VMEM
    return str(info.chip_version), info.vmem_capacity_bytes


def limits(chip_name: str, head_dim: int) -> tuple[Limits, Limits]:
    """Return the limits of the forward and of the backward kernel."""
    return TUNED.get((chip_name, 128 if head_dim <= 128 else 256), (SMALL, SMALL))


def padded_length(length: int) -> int:
    """Pad a length so that it divides into good blocks: the kernels see no other lengths."""
    unit = 128 if length <= 1024 else 256 if length <= 2048 else 512
    return -(-length // unit) * unit


def largest_divisor(length: int, limit: int) -> int:
    """Return the largest multiple of 128 up to `limit` that divides `length` (a multiple of 128)."""
    units = length // 128
    return 128 * max(d for d in range(1, max(1, limit // 128) + 1) if units % d == 0)


def block_sizes(limit: Limits, vmem: int, heads: int, T: int, S: int, key_bytes: int, row_bytes: int) -> BlockSizes:
    """Choose the sizes for `heads` heads per block, T queries and S keys (both from `padded_length`).

    `key_bytes`, `row_bytes`: vector memory per key of a segment, and per row of a block of queries.
    """
    queries = largest_divisor(T, limit.rows // heads)
    keys = largest_divisor(S, limit.keys)
    rows = heads * queries
    # Logits, weights and their like: about four float32 arrays [rows, keys] at once.
    for_keys = int(0.9 * vmem) - rows * row_bytes - 16 * queries * keys
    n_blocks = S // keys
    fitting = [
        n for n in range(1, n_blocks + 1) if n_blocks % n == 0 and (n_blocks // n) * keys * key_bytes <= for_keys
    ]
    segments = fitting[0] if fitting else n_blocks
    return BlockSizes(queries, keys, S // segments, limit.unroll, int(0.95 * vmem))
