"""Stateless random numbers: a pure function of a key, a stream and a counter, the same on every machine."""

from __future__ import annotations

import hashlib

import numpy as np

GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # splitmix64's increment


def splitmix64(x: np.ndarray) -> np.ndarray:
    """Apply the finalizer of splitmix64 (Steele, Lea & Flood, OOPSLA 2014) to uint64; wraps modulo 2**64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def derive_keys(purpose: str, seed: int, number: np.ndarray) -> np.ndarray:
    """Return a uint64 key for each integer in `number`, for this purpose and seed."""
    digest = hashlib.blake2b(f"{purpose}/{seed}".encode(), digest_size=8).digest()
    base = np.array(int.from_bytes(digest, "little"), np.uint64)
    return splitmix64(base + GOLDEN_GAMMA * np.asarray(number).astype(np.uint64))


def random_words(key: np.ndarray, stream: int, index: np.ndarray) -> np.ndarray:
    """Return the uint64 random word `index` (below 2**32) of a stream of each key; arguments broadcast."""
    counter = np.uint64(stream << 32) + np.asarray(index).astype(np.uint64)
    return splitmix64(key + GOLDEN_GAMMA * (counter + np.uint64(1)))


def uniform(key: np.ndarray, stream: int, index: np.ndarray) -> np.ndarray:
    """Return `random_words` as float64 in [0, 1)."""
    return (random_words(key, stream, index) >> np.uint64(11)) * 2.0**-53
