"""Whole models, of every architecture: which arrays, in which order, on what the quantized blocks below compute."""

import json
from functools import cache
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from helpers.eight_devices import run_on_eight_devices
from helpers.small_models import FAMILIES, random_params
from pathways_kernels.attention.spans import causal
from pathways_lite import models
from pathways_lite.methods.quantization import (
    Calibration,
    Quantization,
    QuantizedBlock,
    block_names,
    left_out,
    places,
    quantize_block,
    quantize_params,
)
from pathways_lite.methods.quantization.places import block_params, steps
from pathways_lite.models.block_by_block import BlockByBlock, Texts
from pathways_lite.recipe import Model

B, T = 4, 32
NAMES = sorted(FAMILIES)


def texts(seed: int, rows: int = B) -> Texts:
    tokens = np.random.default_rng(seed).integers(0, 11, (rows, T), dtype=np.int32)
    positions = np.broadcast_to(np.arange(T, dtype=np.int32), (rows, T))
    return Texts(tokens, positions, causal(rows, T), np.ones((rows, T), np.float32))


@cache
def model_of(family: str, width: int = 8) -> tuple[Model, Any]:
    fields = FAMILIES[family] | {"d_model": width, "head_dim": width // 2, "d_ff": 3 * width // 2}
    model = Model(**fields)
    return model, random_params(model)


def block_of(model: Model, params: Any, index: int) -> dict[str, np.ndarray]:
    values = (np.asarray(leaf[index]) for leaf in jax.tree.leaves(params["layers"]))
    return dict(zip(block_names(model), values, strict=True))


@pytest.mark.parametrize("family", NAMES)
def test_blocks_one_by_one_are_the_model(family: str) -> None:
    model, params = model_of(family)
    blocks, text = BlockByBlock(model), texts(0)
    x = blocks.embed(params["embedding"], text)
    for index in range(model.n_layers):
        x = blocks.run(jax.tree.map(lambda leaf, i=index: leaf[i], params["layers"]), index, x, text)
    expected = models.apply(model, params, text.tokens, text.positions, text.spans)
    unrolled = model.model_copy(update={"scan_layers": False})
    same = models.apply(unrolled, params, text.tokens, text.positions, text.spans)
    norm = _final_norm(model, params)
    np.testing.assert_allclose(norm(x), expected, atol=2e-5)
    np.testing.assert_allclose(norm(x), same, atol=2e-5)


def _final_norm(model: Model, params: Any) -> Any:
    from pathways_lite.models.decoding import _norm_structure

    return nnx.merge(_norm_structure(model), params["final_norm"])


@pytest.mark.parametrize("family", NAMES)
def test_kernels_are_quantized_and_nothing_else(family: str) -> None:
    model, params = model_of(family)
    specs = {array.name: array for array in jax.tree.leaves(models.param_specs(model))}
    assert set(places(model)) | set(left_out(model)) == set(specs)
    assert all("embedding" not in name and name != "head" for name in places(model))
    quantized = quantize_params(BlockByBlock(model), Quantization("nearest", 2, None), params, None)
    for (path, before), after in zip(
        jax.tree_util.tree_flatten_with_path(params)[0], jax.tree.leaves(quantized), strict=True
    ):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        changed = not np.array_equal(before, after)
        assert changed == (name in places(model)), name
    levels = [len(np.unique(quantized["layers"]["mlp"]["down"][0][:, column])) for column in range(model.d_model)]
    assert max(levels) <= 4


def test_the_order_of_blocks() -> None:
    def order(family: str) -> list[list[str]]:
        return [[place.name.rpartition(".")[2] for place in step] for step in steps(model_of(family)[0])]

    assert order("palm") == [["k", "q", "v", "gate", "up"], ["out", "down"]]
    assert order("llama") == order("gemma") == [["k", "q", "v"], ["out"], ["gate", "up"], ["down"]]
    assert order("neox") == [["k", "q", "v", "up"], ["out", "down"]]  # without a gate
    reads = {
        family: {place.read for place in places(model_of(family)[0]).values()} for family in ("palm", "llama", "neox")
    }
    assert [len(reads[family]) for family in ("palm", "llama", "neox")] == [3, 4, 4]


@pytest.mark.parametrize(("family", "kernel"), [("palm", "down"), ("palm", "out"), ("neox", "out"), ("llama", "down")])
def test_hessians_predict_what_another_kernel_changes(family: str, kernel: str) -> None:
    """A block that adds Wᵀ x to its output adds (W + E)ᵀ x with another kernel: |Eᵀ x|² more, which H knows."""
    model, params = model_of(family)
    blocks, text = BlockByBlock(model), texts(1)
    place = next(place for name, place in places(model).items() if name.endswith(kernel))
    block = block_of(model, params, 0)
    calibration = Calibration(blocks, [text, text], params["embedding"])
    hessian = calibration.hessians(0, block, [place.read])[place.read]
    error = np.random.default_rng(2).standard_normal(place.array.shape, np.float32)
    other = block | {place.name: block[place.name] + error}
    x = blocks.embed(params["embedding"], text)
    outputs = [np.float64(blocks.run(block_params(model, values), 0, x, text)) for values in (block, other)]
    matrix = place.to_matrix(np.float64(error))
    expected = B * T / 2 * np.vdot(matrix, hessian @ matrix)
    assert np.sum((outputs[1] - outputs[0]) ** 2) == pytest.approx(expected, rel=1e-3)


def test_padding_does_not_count() -> None:
    model, params = model_of("llama")
    short = texts(2, rows=2)
    counts = np.concatenate([np.ones((2, T), np.float32), np.zeros((2, T), np.float32)])
    long = texts(2, rows=4)
    long = Texts(np.concatenate([short.tokens, long.tokens[2:]]), long.positions, long.spans, counts)
    results = [
        Calibration(BlockByBlock(model), [text], params["embedding"]).hessians(0, block_of(model, params, 0), ["units"])
        for text in (short, long)
    ]
    np.testing.assert_allclose(results[0]["units"], results[1]["units"], atol=1e-6)


@cache
def trained_like(family: str) -> tuple[Model, Any, list[QuantizedBlock]]:
    """A model wide enough for the theory, and its blocks by GPTQ at 3 bits."""
    model, params = model_of(family, width=48)
    calibration = Calibration(BlockByBlock(model), [texts(seed, 16) for seed in range(4)], params["embedding"])
    how, layers = Quantization("gptq", 3, 32), range(model.n_layers)
    blocks = [quantize_block(model, how, index, block_of(model, params, index), calibration) for index in layers]
    return model, params, blocks


@pytest.mark.parametrize("family", NAMES)
def test_gptq_is_at_least_as_good_as_nearest_for_every_array(family: str) -> None:
    for block in trained_like(family)[2]:
        for name, error in block.errors.items():
            assert error <= block.errors_of_nearest[name], name


def test_blocks_and_steps_see_what_is_quantized_before_them() -> None:
    """The Hessian of each step is that of a model in which all before it is quantized already."""
    model, params, blocks = trained_like("llama")
    how = Quantization("gptq", 3, 32)
    calibration = Calibration(BlockByBlock(model), [texts(seed, 16) for seed in range(4)], params["embedding"])
    again = quantize_params(BlockByBlock(model), how, params, [texts(seed, 16) for seed in range(4)])
    for index, block in enumerate(blocks):
        stored = block_of(model, again, index)
        for step in steps(model):
            reads = [place.read for place in step]
            original = block_of(model, params, index)
            before = dict(original)
            for earlier in steps(model)[: steps(model).index(step)]:
                before |= {place.name: stored[place.name] for place in earlier}
            hessians = calibration.hessians(index, before, reads)
            for place in step:
                error = stored[place.name] - original[place.name]
                error, weights = (place.to_matrix(np.float64(x)) for x in (error, original[place.name]))
                hessian = hessians[place.read]
                expected = np.vdot(error, hessian @ error) / np.vdot(weights, hessian @ weights)
                assert block.errors[place.name] == pytest.approx(expected, rel=1e-5)
        calibration.pass_block(index, stored)


def test_eight_bits_change_almost_nothing() -> None:
    """Measured: of logits with a deviation of 2.0, 8 bits move 0.034 (root mean square), 2 bits 2.1."""
    model, params = model_of("llama", width=48)
    text = texts(5)

    def difference(bits: int) -> float:
        quantized = quantize_params(BlockByBlock(model), Quantization("nearest", bits, 32), params, None)
        return float(np.sqrt(np.mean((logits(quantized) - logits(params)) ** 2)))

    def logits(values: Any) -> np.ndarray:
        hidden = models.apply(model, values, text.tokens, text.positions, text.spans)
        return np.asarray(models.logits(model, values, hidden))

    assert difference(8) < 0.03 * np.std(logits(params))
    assert difference(2) > 20 * difference(8)


def test_meshes_give_the_same_copies() -> None:
    result = json.loads(run_on_eight_devices("quantize"))
    for name, case in result.items():
        assert case["hessians"] < 1e-5, name
        assert case["codes"] > 0.99, name
