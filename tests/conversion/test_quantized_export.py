"""Quantized copies of runs as files: codes give the weights, killed commands continue, commands work on the copies."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from helpers.invoke import invoke
from pathways_lite.checkpoints import fsck, open_checkpoint
from pathways_lite.conversion import quantized_export
from pathways_lite.conversion.quantized_export import WORK, convert_quantized
from pathways_lite.data.order import DataCursor
from pathways_lite.errors import UserError
from pathways_lite.methods.quantization import Quantization, QuantizedBlock, places, quantize_params
from pathways_lite.methods.quantization.nearest import decode
from pathways_lite.models.block_by_block import BlockByBlock
from pathways_lite.scaling.runs_table import runs_table
from pathways_lite.scaling.table import read_table
from pathways_lite.training.calibration_text import read_calibration_text
from pathways_lite.training.load import TrainedModel, load_model

GPTQ = Quantization("gptq", bits=3, group=20)  # of 32 and 64 numbers: the last group has fewer


@pytest.fixture(scope="module")
def run(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quantized") / "tiny"
    assert invoke("train", recipe_file, "--out", path).exit_code == 0
    return path


@pytest.fixture(scope="module")
def copy(run: Path) -> Path:
    """The run by GPTQ, 3 bits, groups of 20."""
    out = run.parent / "gptq_3"
    arguments = ("--quantize", "gptq", "--bits", 3, "--group", 20, "--calibration-tokens", 2000)
    assert invoke("convert", run, out, *arguments).exit_code == 0
    return out


def quiet(line: str) -> None:
    pass


def write(model: TrainedModel, out: Path) -> Path:
    return convert_quantized(model, GPTQ, read_calibration_text(model, 2000), out, quiet)


def test_codes_and_scales_give_the_weights_to_the_bit(copy: Path) -> None:
    model = load_model(copy)
    manifest, reader = open_checkpoint(model.path)
    for name, place in places(model.stage.model).items():
        layers = range(model.stage.model.n_layers)
        codes, scales, zeros, weights = (
            reader.read_slice(f"{part}.{name}", (slice(None),) * len(manifest.arrays[f"{part}.{name}"].shape))
            for part in ("codes", "scales", "zeros", "params")
        )
        assert codes.max() < 8
        assert codes.shape == weights.shape
        groups = -(-place.shape[0] // 20)
        assert scales.shape == zeros.shape == (len(layers), groups, *place.out_shape)
        for layer in layers:
            flat = (value[layer].reshape(-1, place.shape[1]) for value in (codes, scales, zeros))
            np.testing.assert_array_equal(decode(*flat, group=20), place.to_matrix(weights[layer]))
    assert all(finding.ok for finding in fsck(copy))
    assert not (copy / WORK).exists()


def test_files_and_memory_give_the_same_weights(run: Path, copy: Path) -> None:
    model = load_model(run)
    blocks = BlockByBlock(model.stage.model, model.components.layout)
    params = quantize_params(blocks, GPTQ, model.params(), read_calibration_text(model, 2000).batches)
    jax.tree.map(np.testing.assert_array_equal, params, load_model(copy).params())


def test_the_copy_says_how_it_was_made(run: Path, copy: Path) -> None:
    parent, model = load_model(run), load_model(copy)
    said = model.manifest.meta["quantized"]
    assert (said["method"], said["bits"], said["group"]) == ("gptq", 3, 20)
    assert said["effective_bits"] == GPTQ.effective_bits(model.stage.model)
    assert said["left_out"] == ["embedding", "final_norm.scale", "layers.norm.scale"]
    assert said["calibration"]["tokens"] >= 2000
    errors, nearest = said["errors"], said["errors_of_nearest"]
    assert sum(map(sum, errors.values())) < sum(map(sum, nearest.values()))
    assert model.cost == parent.cost
    assert model.manifest.meta["lineage"]["parent"] == parent.manifest.digest


def test_a_command_that_was_killed_continues(
    run: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done: list[int] = []
    original = quantized_export.quantize_block

    def quantize(*arguments: object) -> QuantizedBlock:
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(1)
        return original(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(quantized_export, "quantize_block", quantize)
        with pytest.raises(KeyboardInterrupt):
            write(load_model(run), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [WORK]
    with monkeypatch.context() as patch:  # only the block that is missing
        patch.setattr(quantized_export, "quantize_block", quantize)
        done.clear()
        write(load_model(run), tmp_path / "out")
    assert load_model(tmp_path / "out").manifest.digest == load_model(copy).manifest.digest
    said, whole = (load_model(path).manifest.meta["quantized"] for path in (tmp_path / "out", copy))
    assert said == whole


def test_blocks_of_another_copy_are_not_used(run: Path, copy: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    (tmp_path / "out" / WORK).mkdir(parents=True)
    (tmp_path / "out" / WORK / "key.json").write_text("{}")
    (tmp_path / "out" / WORK / "block_00000.npz").write_bytes(b"of another")
    model = load_model(run)
    convert_quantized(model, GPTQ, read_calibration_text(model, 2000), tmp_path / "out", lines.append)
    assert "blocks of another copy" in lines[0]
    assert load_model(tmp_path / "out").manifest.digest == load_model(copy).manifest.digest


def test_calibration_is_on_training_text_in_the_order_of_the_run(run: Path) -> None:
    """Its windows are the first ones that the stage trained on, which no held-out document is part of."""
    model = load_model(run)
    text = read_calibration_text(model, 3000)
    stream = model.spec.stream(DataCursor.from_json(model.manifest.meta["cursor"]))
    first = np.concatenate([stream.batch_at(step).tokens for step in range(4)])
    tokens = np.concatenate([batch.tokens for batch in text.batches])
    np.testing.assert_array_equal(tokens[: len(first)], first)
    assert text.tokens >= 3000 or text.tokens == tokens.size


def test_commands_work_on_the_copy(run: Path, copy: Path, tmp_path: Path) -> None:
    losses = {
        path: json.loads(invoke("evaluate", path, "--json").stdout)["domains"]["tales"]["loss"] for path in (run, copy)
    }
    assert 0 < losses[copy] - losses[run] < 0.2
    generated = invoke("generate", copy, "--prompt", "the", "--max-tokens", 4)
    assert generated.exit_code == 0
    assert invoke("convert", copy, tmp_path / "hf", "--to", "hf").exit_code == 0
    assert (tmp_path / "hf" / "config.json").is_file()
    assert "quantized" in invoke("runs", run.parent).stdout
    assert "checkpoint, 3 bits by gptq" in invoke("runs", run.parent).stdout


def test_tables_have_the_bits(run: Path, copy: Path, tmp_path: Path) -> None:
    table = runs_table([run, copy])
    assert table["P"].tolist()[-1] == 3
    assert np.isnan(table["P"][:-1]).all()
    assert table["effective_bits"][-1] == pytest.approx(GPTQ.effective_bits(load_model(copy).stage.model))
    assert table["D"][-1] == table["D"][-2]
    assert table["N"][-1] == table["N"][-2]
    along = tmp_path / "along.csv"
    invoke("evaluate", copy, "--along", "--out", along)
    assert read_table(along)["P"].tolist() == [3]


def test_nearest_needs_no_text(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"  # its corpus is not there
    shutil.copytree(run, moved)
    assert invoke("convert", moved, tmp_path / "out", "--quantise", "nearest", "--bits", 4, "--group", 0).exit_code == 0
    said = load_model(tmp_path / "out").manifest.meta["quantized"]
    assert (said["group"], said["calibration"]) == (None, None)


def test_eight_bits_cost_almost_nothing(run: Path, tmp_path: Path) -> None:
    """Measured on this run: 8 bits move the loss by 7e-4 nats."""
    assert invoke("convert", run, tmp_path / "out", "--quantize", "nearest", "--bits", 8).exit_code == 0
    results = [json.loads(invoke("evaluate", path, "--json").stdout) for path in (run, tmp_path / "out")]
    losses = [result["domains"]["tales"]["loss"] for result in results]
    assert abs(losses[1] - losses[0]) < 2e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--quantize", "gptq"], "needs --bits"),
        (["--quantize", "gptq", "--bits", "9"], "from 2 to 8"),
        (["--bits", "4", "--to", "hf"], "--bits is of a quantized copy"),
        (["--quantize", "nearest", "--bits", "4", "--act-order"], "--act-order is of calibration"),
        (["--quantize", "nearest", "--bits", "4", "--sparse"], "give one of"),
    ],
)
def test_mistakes(run: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        invoke("convert", run, tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_a_copy_is_not_quantized_again(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="quantized already; quantize the checkpoint that it was made of"):
        invoke("convert", copy, tmp_path / "out", "--quantize", "nearest", "--bits", 4)
    assert not (tmp_path / "out").exists()
