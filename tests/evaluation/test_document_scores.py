"""Losses and embeddings of documents are those of the evaluation and of the model itself, whatever else is read."""

from pathlib import Path

import jax
import numpy as np
import pytest

from pathways_kernels.attention.spans import causal
from pathways_lite import models
from pathways_lite.evaluation.document_scores import embeddings, mean_losses
from pathways_lite.recipe import load_recipe
from pathways_lite.training.components import Components
from pathways_lite.training.stage import StageSpec


@pytest.fixture(scope="module")
def components(recipe_file: Path) -> Components:
    return Components(StageSpec(load_recipe(recipe_file), 0))


@pytest.fixture(scope="module")
def params(components: Components) -> models.Params:
    return jax.jit(models.init, static_argnums=0)(components.stage.model, jax.random.key(0))


def test_losses_add_up_to_what_the_evaluation_says(components: Components, params: models.Params) -> None:
    documents = components.evaluator.documents["tales"]
    losses = mean_losses(components.evaluator, params, [document.tokens for document in documents])
    total = np.dot(losses, [len(document.tokens) for document in documents])
    assert total == pytest.approx(components.evaluator.scorer(params, documents).nll, rel=1e-5)


def test_embeddings_are_means_of_the_models_hidden_states(components: Components, params: models.Params) -> None:
    """A document of three windows among others: each window is read by itself, and its later positions count more."""
    length = components.stage.data.seq_len
    others = [document.tokens for document in components.evaluator.documents["tales"]]
    document = np.arange(1, 2 * length + 6, dtype=np.int32) % 250
    windows = np.pad(document, (0, length - 5)).reshape(3, length)  # what follows is not seen
    place = np.arange(3 * length).reshape(3, length)
    apply = jax.jit(models.apply, static_argnums=0)
    hidden = apply(components.stage.model, params, windows, place % length, causal(3, length))
    weight = np.where(place < len(document), place % length + 1, 0)
    expected = np.einsum("wt,wte->e", weight, np.asarray(hidden, np.float64)) / weight.sum()
    found = embeddings(components.evaluator, params, [*others, document], "position")
    assert found.shape == (len(others) + 1, components.stage.model.d_model)
    assert found[-1] == pytest.approx(expected, abs=1e-4)
