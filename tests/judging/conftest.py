"""Directories of samples of sums and of programs."""

from pathlib import Path

import numpy as np
import pytest

from helpers.drawn_samples import ALMOST, RIGHT, WRONG, Drawn, code_problem, make_samples, sum_problem


@pytest.fixture
def sums(tmp_path: Path) -> Drawn:
    """Samples of 24 sums, 32 each, with accuracies of a Beta(0.5, 3) and wrong answers that differ."""
    rng = np.random.default_rng(0)
    problems = [sum_problem(i) for i in range(24)]
    accuracy = rng.beta(0.5, 3, len(problems))
    right = rng.random((24, 32)) < accuracy[:, None]
    wrong = rng.integers(1000, 1006, (24, 32))
    texts = [
        [f" {2 * i + 1}\n" if right[i, j] else f" {wrong[i, j]}\n" for j in range(32)] for i in range(len(problems))
    ]
    return make_samples(tmp_path / "sums", problems, texts, -5 + 2.0 * right + rng.normal(size=right.shape))


@pytest.fixture
def programs(tmp_path: Path) -> Drawn:
    """Samples of 8 programs, 10 each: 3 right, 1 that passes a part of the visible tests, 6 wrong."""
    texts = [RIGHT] * 3 + [ALMOST] + [WRONG] * 5 + ["import os\n"]
    return make_samples(tmp_path / "programs", [code_problem(i) for i in range(8)], [texts] * 8)
