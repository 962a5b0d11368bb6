"""Documents that nearly repeat an earlier one: MinHash with locality-sensitive hashing, by `datasketch`.

A document is the set of its shingles, all stretches of so many characters, after case and white space are levelled. Two
documents are alike by their sets' Jaccard similarity, the size of the intersection by that of the union. Characters
rather than words, as not every language has spaces.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from datasketch import MinHash, MinHashLSH

from pathways_lite.keyed import GOLDEN_GAMMA, splitmix64

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
    """Of each text, its similarity with the kept text most like it, float64; 0 where none reaches `threshold`.

    The first of several near duplicates is kept (its number is 0), and later ones are compared with kept texts only.
    Texts `before` are all kept. Similarities are estimates of `permutations` hashes, so with s = 0.8 and 128 of them
    they are off by 0.035 (standard deviation).

    Args:
      threshold: least Jaccard similarity of near duplicates, in (0, 1].
      shingle: characters.
      permutations: hash functions.
    """
    # Candidates are checked below, so the index rather finds too many than too few; near 1 it cannot be made.
    index = MinHashLSH(min(threshold, 0.9), permutations, weights=(0.1, 0.9))
    empty = MinHash(permutations, seed, hashfunc=int)
    kept: list[MinHash] = []

    def insert(sketch: MinHash) -> None:
        index.insert(len(kept), sketch)
        kept.append(sketch)

    for text in before:
        insert(_sketch(text, shingle, empty))
    found = []
    for text in texts:
        sketch = _sketch(text, shingle, empty)
        most = max((sketch.jaccard(kept[number]) for number in index.query(sketch)), default=0.0)
        if most < threshold:
            insert(sketch)
        found.append(most if most >= threshold else 0.0)
    return np.asarray(found, np.float64)


def shingles(text: str, length: int) -> np.ndarray:
    """The set of hashes, uint32, of all stretches of `length` characters; of the whole text if it is shorter."""
    levelled = " ".join(text.casefold().split())
    characters = np.frombuffer(levelled.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
    length = min(length, len(characters))
    hashes = np.zeros(len(characters) - length + 1, np.uint64)
    for i in range(length):
        hashes = splitmix64(hashes + characters[i : len(characters) - length + 1 + i] + GOLDEN_GAMMA)
    return np.unique(hashes.astype(np.uint32))


def _sketch(text: str, length: int, empty: MinHash) -> MinHash:
    sketch, hashes = empty.copy(), shingles(text, length)
    for at in range(0, len(hashes), _BLOCK):
        sketch.update_batch(hashes[at : at + _BLOCK].tolist())
    return sketch
