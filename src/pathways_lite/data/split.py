"""Which documents are held out."""

from __future__ import annotations

import numpy as np


def held_out(domain: np.ndarray, group: np.ndarray, share: float) -> np.ndarray:
    """Which documents are held out, bool `[D]`: those whose group's hash lies in the lowest `share` of all hashes.

    It depends on nothing but the groups' names, so the same documents are held out in every corpus, but for
    small domains: where a domain would have no training document, its group with the largest hash goes to
    training; where it would have none held out, its group with the smallest hash is, if that leaves every domain
    something to train on. With `share` 0 nothing is held out.

    Args:
      domain: integers `[D]`.
      group: uint64 `[D]`, hashes.
      share: in [0, 1).
    """
    held = group < np.uint64(min(int(share * 2.0**64), 2**64 - 1))
    if not share:
        return held
    domains = np.unique(domain)
    for d in domains:
        if held[domain == d].all():
            held &= group != group[domain == d].max()
    for d in domains:
        here = domain == d
        if held[here].any():
            continue
        for candidate in np.unique(group[here]):
            with_it = held | (group == candidate)
            if all((~with_it[domain == other]).any() for other in np.unique(domain[group == candidate])):
                held = with_it
                break
    return held
