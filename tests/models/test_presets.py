"""The presets have the published numbers of parameters, counted on shapes alone."""

import math

import jax
import pytest

from pathways_lite import models
from pathways_lite.models import presets
from pathways_lite.models.accounting import parameter_count

PALM_TABLE_1_BILLIONS = {"palm_8b": 8.63, "palm_62b": 62.50, "palm_540b": 540.35}
PUBLISHED_BILLIONS = {
    "tinyllama_1b": (1.10, 2), "llama_7b": (6.738, 3), "llama_13b": (13.016, 3), "llama_70b": (68.977, 3),
    "llama3_8b": (8.030, 3), "llama3_70b": (70.554, 3),
}  # fmt: skip
LADDER_MILLIONS = {"palm_tiny": 1.5, "palm_small": 7.7, "palm_medium": 38, "palm_large": 126, "palm_1b": 1000}


def count(config, scales=True):
    leaves = jax.tree.leaves_with_path(models.abstract_params(config))
    return sum(math.prod(leaf.shape) for path, leaf in leaves if scales or "scale" not in jax.tree_util.keystr(path))


@pytest.mark.parametrize("name", PUBLISHED_BILLIONS)
def test_published_counts(name):
    billions, digits = PUBLISHED_BILLIONS[name]
    config = getattr(presets, name)()
    assert round(count(config) / 1e9, digits) == billions
    assert parameter_count(config) == count(config)


def test_exact_counts_of_the_released_llamas():
    exact = {
        "llama_7b": 6_738_415_616, "llama3_8b": 8_030_261_248, "tinyllama_1b": 1_100_048_384,
        "smollm2_135m": 134_515_008,
    }  # fmt: skip
    assert {name: parameter_count(getattr(presets, name)()) for name in exact} == exact


@pytest.mark.parametrize("name", LADDER_MILLIONS)
def test_the_ladder_is_as_large_as_its_docstrings_say(name):
    config = getattr(presets, name)()
    assert parameter_count(config) / 1e6 == pytest.approx(LADDER_MILLIONS[name], rel=0.03)
    assert getattr(presets, name)(vocab_size=777).vocab_size == 777


@pytest.mark.parametrize("name", PALM_TABLE_1_BILLIONS)
def test_palm_has_the_published_size_and_shape(name):
    config = getattr(presets, name)()
    # The published digits leave the norms' scales out: 2.2 M at 540B, which would round to 540.36.
    assert round(count(config, scales=False) / 1e9, 2) == PALM_TABLE_1_BILLIONS[name]
    assert parameter_count(config) == count(config) == pytest.approx(count(config, scales=False), rel=1e-4)
    assert (config.head_dim, config.n_kv_heads, config.vocab_size) == (256, 1, 256_000)
    assert config.d_ff == 4 * config.d_model
