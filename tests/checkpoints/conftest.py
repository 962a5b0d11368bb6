"""Fixtures for checkpoints: a small training state, comparison bit for bit, and damage to files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest


class State(NamedTuple):
    """A tree like a train state: a named tuple of nested dictionaries, tuples with empty members and a typed key."""

    step: Any
    params: Any
    opt_state: Any
    key: Any


def make_state(seed: int = 0) -> State:
    """Return a random state that depends on the seed."""
    rng = np.random.default_rng(seed)
    params = {
        "embed": jnp.asarray(rng.standard_normal((5, 3)), jnp.float32),
        "layers": {"wq": jnp.asarray(rng.standard_normal((2, 3, 4)), jnp.bfloat16)},
    }
    moments = jax.tree.map(lambda x: x * 0.5, params)
    return State(jnp.int32(seed), params, ((), {"mu": moments, "count": jnp.int32(3)}), jax.random.key(seed))


@pytest.fixture
def state() -> State:
    """A small training state."""
    return make_state()


@pytest.fixture
def state_of() -> Callable[[int], State]:
    """A function that returns the state of a seed."""
    return make_state


def as_bytes(tree: Any) -> list[tuple[str, str, tuple[int, ...], bytes]]:
    """Return the path, data type, shape and bytes of every leaf."""

    def describe(path: Any, leaf: Any) -> tuple[str, str, tuple[int, ...], bytes]:
        data = jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        return jax.tree_util.keystr(path), str(leaf.dtype), leaf.shape, np.asarray(data).tobytes()

    return [describe(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


@pytest.fixture
def same() -> Callable[[Any, Any], bool]:
    """True if two trees have the same structure and the same bits."""
    return lambda a, b: jax.tree.structure(a) == jax.tree.structure(b) and as_bytes(a) == as_bytes(b)


def flip_bit(path: Path, bit: int) -> None:
    """Flip one bit of a file."""
    raw = bytearray(path.read_bytes())
    raw[bit // 8] ^= 1 << bit % 8
    path.write_bytes(raw)


@pytest.fixture
def flip() -> Callable[[Path, int], None]:
    """A function that flips one bit of a file; calling it twice restores the file."""
    return flip_bit


@pytest.fixture
def all_bits() -> Callable[[Path], list[tuple[Path, int]]]:
    """A function that lists every bit of every file below a directory."""

    def bits(directory: Path) -> list[tuple[Path, int]]:
        files = sorted(path for path in directory.rglob("*") if path.is_file())
        return [(path, bit) for path in files for bit in range(8 * path.stat().st_size)]

    return bits
