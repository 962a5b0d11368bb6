"""Near-duplicate documents: MinHash with locality-sensitive hashing, by `datasketch`.

A document is the set of its shingles: all its substrings of n characters, after case and white space are normalized.
The similarity of two documents is the Jaccard similarity of their sets, the size of the intersection divided by that of
the union, so a short text inside a long one is no near duplicate of it. Shingles are of characters, not words, as not
every language has spaces.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.extras import install_command
from pathways_lite.keyed import GOLDEN_GAMMA, splitmix64

if TYPE_CHECKING:
    from datasketch import MinHash

_BLOCK = 1 << 14  # shingles hashed at once


def near_duplicates(
    texts: Iterable[str],
    *,
    before: Iterable[str] = (),
    threshold: float = 0.8,
    shingle: int = 9,
    permutations: int = 128,
    seed: int = 1,
) -> np.ndarray:
    """Return each text's similarity with the most similar kept text, float64; 0 where none reaches `threshold`.

    The first of several near duplicates is kept (its similarity is 0); later texts are compared with kept ones only.
    Similarities are estimates: for a similarity of 0.8, 128 permutations give a standard deviation of 0.035.

    Args:
      before: texts that precede `texts` and are all kept.
      threshold: least Jaccard similarity of near duplicates, in (0, 1].
      shingle: number of characters of a shingle.
      permutations: number of hash functions.

    Raises UserError where the extra `selection` is not installed.
    """
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError as error:
        raise UserError(f"near duplicates are found by datasketch, an extra: {install_command('selection')}") from error
    # Candidates are checked below, so the index favors recall over precision; near 1 it cannot be built.
    index = MinHashLSH(min(threshold, 0.9), permutations, weights=(0.1, 0.9))
    empty = MinHash(permutations, seed, hashfunc=int)
    kept: list[MinHash] = []

    def insert(sketch: MinHash) -> None:
        index.insert(len(kept), sketch)
        kept.append(sketch)

    for text in before:
        insert(_sketch(text, shingle, empty))
    similarities = []
    for text in texts:
        sketch = _sketch(text, shingle, empty)
        highest = max((sketch.jaccard(kept[number]) for number in index.query(sketch)), default=0.0)
        if highest < threshold:
            insert(sketch)
        similarities.append(highest if highest >= threshold else 0.0)
    return np.asarray(similarities, np.float64)


def shingles(text: str, length: int) -> np.ndarray:
    """Return the unique hashes, uint32, of all substrings of `length` characters, or of the whole text if shorter."""
    normalized = " ".join(text.casefold().split())
    characters = np.frombuffer(normalized.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
    length = min(length, len(characters))
    hashes = np.zeros(len(characters) - length + 1, np.uint64)
    for i in range(length):
        hashes = splitmix64(hashes + characters[i : len(characters) - length + 1 + i] + GOLDEN_GAMMA)
    return np.unique(hashes.astype(np.uint32))


def _sketch(text: str, length: int, empty: MinHash) -> MinHash:
    sketch, hashes = empty.copy(), shingles(text, length)
    for start in range(0, len(hashes), _BLOCK):
        sketch.update_batch(hashes[start : start + _BLOCK].tolist())
    return sketch
