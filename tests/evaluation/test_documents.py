"""Means over documents depend only on the document, and equal the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathways_lite.batch import Batch
from pathways_lite.evaluation.documents import DocumentMeans

EOD, LENGTH = 0, 8


def stored(texts: list[list[int]]) -> list[np.ndarray]:
    return [np.array([EOD, *text], np.int32) for text in texts]


def values(params: float, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Return tokens and targets, weighted by position; padding gives NaN."""
    value = jnp.stack([batch.tokens, batch.targets], axis=-1) * params
    return jnp.where(batch.loss_weights[..., None] > 0, value, jnp.nan), batch.positions + 1


MEANS = {rows: DocumentMeans(values, rows=rows, seq_len=LENGTH) for rows in (1, 4)}


@settings(max_examples=12)
@given(texts=st.lists(st.lists(st.integers(1, 99), max_size=30), min_size=1, max_size=30), rows=st.sampled_from([1, 4]))
def test_means_are_weighted_by_the_position_in_the_window(texts: list[list[int]], rows: int) -> None:
    progress: list[int] = []
    means = MEANS[rows](2.0, iter(stored(texts)), done=progress.append)
    assert sum(progress) == len(texts)
    for mean, text in zip(means, texts, strict=True):
        weight = np.arange(len(text) + 1) % LENGTH + 1
        inputs, targets = np.array([EOD, *text]), np.array([*text, EOD])
        expected = [2 * np.sum(x * weight) / np.sum(weight) for x in (inputs, targets)]
        assert mean == pytest.approx(expected, rel=1e-5)
