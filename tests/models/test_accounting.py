"""Counts are exact: against the tree of parameters, against masks, and against PaLM's published utilisation."""

import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathways_kernels.attention import Spans
from pathways_lite import models
from pathways_lite.models.accounting import (
    attended_pairs,
    flops_per_token,
    flops_with_spans,
    mfu,
    palm_flops_per_token,
    parameter_count,
)
from pathways_lite.recipe import Model


@st.composite
def configs(draw):
    kv = draw(st.integers(1, 3))
    pattern = draw(st.lists(st.none() | st.integers(1, 9), min_size=1, max_size=3))
    block, norm = draw(st.sampled_from(["parallel", "serial"])), draw(st.sampled_from(["rms", "layer"]))
    qk_norm = draw(st.booleans())
    biases = ["qkv", "attention_out", "mlp", "norm"][: 3 + (norm == "layer")]
    return Model(
        d_model=draw(st.integers(1, 40)),
        n_layers=len(pattern) * draw(st.integers(1, 3)),
        n_heads=kv * draw(st.integers(1, 3)),
        n_kv_heads=kv,
        head_dim=2 * draw(st.integers(1, 8)),
        d_ff=draw(st.integers(1, 50)),
        vocab_size=draw(st.integers(1, 99)),
        block=block,
        parallel_norms=draw(st.sampled_from([None, 2])) if block == "parallel" else None,
        norm=norm,
        norm_position=draw(st.sampled_from([None, "post", "both"])) if block == "serial" else None,
        qk_norm=qk_norm,
        qk_norm_over=draw(st.sampled_from([None, "all_heads"])) if qk_norm else None,
        bias=tuple(name for name in biases if draw(st.booleans())) or None,
        activation=draw(st.sampled_from([None, "geglu", "gelu"])),
        tie_embeddings=draw(st.booleans()),
        window=draw(st.none() | st.just(tuple(pattern))),
    )


def sizes(config):
    tree = models.abstract_params(config)
    return {jax.tree_util.keystr(path): math.prod(leaf.shape) for path, leaf in jax.tree.leaves_with_path(tree)}


@settings(max_examples=25)
@given(configs())
def test_parameters_and_flops_follow_from_the_tree(config):
    size = sizes(config)
    assert parameter_count(config) == sum(size.values())
    tables = sum(n for name, n in size.items() if "embedding" in name or "head']" in name)
    assert parameter_count(config, embedding=False) == sum(size.values()) - tables

    # With every pair attended, the exact count is PaLM's less norms and the lookup of an untied embedding.
    rows, length = 3, 7
    pairs = config.n_layers * rows * length**2
    free = sum(n for name, n in size.items() if "scale" in name or "bias" in name)
    free += 0 if config.tie_embeddings else size["['embedding']"]
    exact = flops_with_spans(config, rows * length, pairs)
    assert exact == rows * length * (flops_per_token(config, length) - 6 * free)
    assert 3 * flops_with_spans(config, rows * length, pairs, backward=False) == exact


@settings(max_examples=50)
@given(configs(), st.integers(0, 2**32 - 1))
def test_attended_pairs_are_those_of_the_mask(config, seed):
    rng = np.random.default_rng(seed)
    length = 11
    start = rng.integers(0, length + 1, (2, length), dtype=np.int32)
    stop = rng.integers(0, length + 1, (2, length), dtype=np.int32)
    i, j = np.arange(length)[:, None], np.arange(length)
    seen = (start[..., None] <= j) & (j < stop[..., None])
    pattern = config.window or (None,)
    by_layer = [pattern[layer % len(pattern)] for layer in range(config.n_layers)]
    expected = sum(int((seen & (True if w is None else i - j < w)).sum()) for w in by_layer)
    assert attended_pairs(config, Spans(start, stop)) == expected


@pytest.mark.parametrize(
    ("parameters", "shape", "tokens_per_second", "peak", "expected"),
    [
        (540 * 10**9, (118, 48, 256), 238.3e3, 6144 * 275e12, (0.46199, 0.45697)),  # PaLM table 3
        (530 * 10**9, (105, 128, 160), 65.43e3, 2240 * 312e12, (0.30266, 0.29772)),  # MT-NLG
    ],
)
def test_published_utilisations(parameters, shape, tokens_per_second, peak, expected):
    for seq_len, digits in zip((2048, 0), expected, strict=True):
        per_token = palm_flops_per_token(parameters, *shape, seq_len)
        assert isinstance(per_token, int)
        assert round(mfu(tokens_per_second, per_token, peak), 5) == digits
