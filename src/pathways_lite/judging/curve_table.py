"""The table of curves by problem, which `fit coverage TABLE --by problem` takes."""

from __future__ import annotations

import numpy as np

from pathways_lite.judging.judgement import Judgement


def curve_table(judgement: Judgement) -> dict[str, np.ndarray]:
    """Return a row per problem and k: `problem`, `domain`, `k`, `coverage`, `samples`, `correct`, and each selection.

    With a weak verifier also `solved` and `false_positives`, NaN for problems that have none.
    """
    counts, points = judgement.counts, len(judgement.ks)
    problems = len(counts.names)
    table = {
        "problem": np.repeat(np.array(counts.names, dtype=object), points),
        "domain": np.repeat(np.array(counts.domains, dtype=object), points),
        "k": np.tile(judgement.ks, problems),
        "samples": np.repeat(counts.samples, points),
        "correct": np.repeat(counts.correct, points),
        **{name.replace(" ", "_"): curve.by_problem.ravel() for name, curve in judgement.curves.items()},
    }
    if judgement.weak is not None:
        place = {name: i for i, name in enumerate(judgement.weak.counts.names)}
        rows = np.array([place.get(name, -1) for name in counts.names])
        for name in ("solved", "false_positives"):
            by_problem = getattr(judgement.weak, name).by_problem
            at_ks = np.full((problems, points), np.nan)
            shared = np.isin(judgement.ks, judgement.weak.ks)
            columns = np.searchsorted(judgement.weak.ks, judgement.ks[shared])
            at_ks[np.ix_(rows >= 0, shared)] = by_problem[np.ix_(rows[rows >= 0], columns)]
            table[name] = at_ks.ravel()
    return table
