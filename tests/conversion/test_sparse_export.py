"""What `convert --sparse` writes: a smaller model that computes the same, values that unpack, masks in bits."""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

from pathways_kernels.attention import Spans
from pathways_lite import models
from pathways_lite.checkpoints import CheckpointManager, open_checkpoint
from pathways_lite.cli.main import app
from pathways_lite.conversion.sparse_export import convert_sparse
from pathways_lite.data.order import DataCursor
from pathways_lite.errors import UserError
from pathways_lite.ledger import Ledger, Seconds
from pathways_lite.methods.pruning import PruneState
from pathways_lite.methods.pruning.compact import decompress_nm
from pathways_lite.methods.pruning.pruned_params import unpack_np
from pathways_lite.models.accounting import parameter_count
from pathways_lite.recipe import (
    NM,
    SGD,
    Channels,
    Constant,
    Data,
    Heads,
    Model,
    Prune,
    Recipe,
    ScheduleFree,
    Stage,
    Steps,
    WholeBlocks,
)
from pathways_lite.training.initialize import CheckpointState
from pathways_lite.training.load import load_model
from pathways_lite.training.spike_guard import GuardState
from pathways_lite.training.stage import StageSpec
from pathways_lite.training.step import TrainState

MODEL = Model(
    d_model=16, n_layers=4, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=24, vocab_size=32, dtype="float32",
    window=(2, None),
)  # fmt: skip


def saved(
    path: Path, pruning: Prune | None, masks: dict[str, np.ndarray], model: Model = MODEL, optimizer: object = None
) -> Path:
    """A checkpoint with random parameters under masks."""
    data, optimizer = Data(corpus="none", seq_len=8), optimizer or SGD(schedule=Constant())
    stage = Stage(model=model, data=data, optimizer=optimizer, batch_size=2, budget=Steps(n=4), pruning=pruning)
    rng = np.random.default_rng(0)

    def draw(array: models.ParamSpec, like: Any) -> np.ndarray:
        x = np.float32(rng.normal(size=like.shape))
        return np.where(masks[array.name], x, 0) if array.name in masks else x

    bits: dict[str, Any] = {}
    for name, mask in masks.items():
        *parts, last = name.split(".")
        functools.reduce(lambda at, part: at.setdefault(part, {}), parts, bits)[last] = np.packbits(
            mask, axis=-1, bitorder="little"
        )
    params = jax.tree.map(draw, models.param_specs(model), models.abstract_params(model))
    opt_state = PruneState(density=np.int32(0), masks=bits, active=(), sums=(), inner=())
    state = TrainState(np.int32(0), params, opt_state, (), np.zeros(2, np.uint32))
    position = CheckpointState(state, DataCursor(), GuardState(), Seconds(), Ledger(), None)
    with CheckpointManager(path / "checkpoints") as checkpoints:
        checkpoints.save(0, state, position.to_meta(StageSpec(Recipe(name="tiny", stages=(stage,)), 0)))
        checkpoints.wait()
    return path


def shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Of the kernels of the blocks."""
    arrays = jax.tree.leaves(models.param_specs(model))
    return {a.name: (model.n_layers, *a.shape) for a in arrays if a.stacked and a.is_matrix}


def along(model: Model, axes: dict[str, int], alive: np.ndarray) -> dict[str, np.ndarray]:
    """Masks of units [layers, units] along an axis of each array, each as many neighbours as there are."""
    found = {}
    for name, axis in axes.items():
        shape = shapes(model)[f"layers.{name}"]
        units = np.repeat(alive, shape[axis] // alive.shape[1], axis=1)
        wide = units.reshape([shape[at] if at in (0, axis) else 1 for at in range(len(shape))])
        found[f"layers.{name}"] = np.broadcast_to(wide, shape).copy()
    return found


def alive(*rows: str) -> np.ndarray:
    return np.array([[letter == "x" for letter in row] for row in rows])


def hidden(path: Path) -> np.ndarray:
    """What the model in a checkpoint computes of some tokens."""
    found = load_model(path)
    tokens = np.arange(16, dtype=np.int32).reshape(2, 8)
    place = np.broadcast_to(np.arange(8, dtype=np.int32), (2, 8))
    return np.asarray(models.apply(found.stage.model, found.params(), tokens, place, Spans(0 * place, place + 1)))


SHARED = MODEL.model_copy(update={"n_kv_heads": 1})
ATTENTION = {"attention.q": 2, "attention.k": 2, "attention.v": 2, "attention.out": 1}
MLP = {"mlp.gate": 2, "mlp.up": 2, "mlp.down": 1}
BLOCKS = np.array([True, False, False, True])
SMALLER = {
    "heads": (Heads(), MODEL, along(MODEL, ATTENTION, alive("x-", "-x", "x-", "-x")), {"n_heads": 2, "n_kv_heads": 1}),
    "queries": (
        Heads(), SHARED, along(SHARED, {"attention.q": 2, "attention.out": 1}, alive("xx-x", "-x--", "xxx-", "----")),
        {"n_heads": 3},
    ),
    "channels": (Channels(), MODEL, along(MODEL, MLP, alive(*["x-x-x--x" * 3] * 3, "--x" * 8)), {"d_ff": 12}),
    "blocks": (
        WholeBlocks(), MODEL,
        {name: np.broadcast_to(BLOCKS.reshape(4, *[1] * (len(s) - 1)), s).copy() for name, s in shapes(MODEL).items()},
        {"n_layers": 2, "window": (2, None)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ["heads", *(pytest.param(c, marks=pytest.mark.slow) for c in list(SMALLER)[1:])])
def test_a_smaller_model_computes_the_same(case: str, tmp_path: Path) -> None:
    structure, model, masks, sizes = SMALLER[case]
    before = saved(tmp_path / "pruned", Prune(sparsity=0.5, structure=structure), masks, model)
    found = load_model(before)
    after = convert_sparse(found, tmp_path / "smaller", report=lambda line: None)
    smaller = load_model(after)
    assert {name: getattr(smaller.stage.model, name) for name in sizes} == sizes
    assert parameter_count(smaller.stage.model) < parameter_count(found.stage.model)
    assert smaller.stage.pruning is None
    np.testing.assert_allclose(hidden(after), hidden(before), rtol=2e-5, atol=2e-6)


def patterns(active: int) -> dict[str, np.ndarray]:
    """Masks of all kernels with so many of every 4 weights along the input."""
    masks = {}
    for name, shape in shapes(MODEL).items():
        axis = {"out": 2, "down": 1}.get(name.split(".")[-1], 1)
        rows = np.random.default_rng(0).permuted(
            np.tile(np.arange(4) < active, (*np.delete(shape, axis), shape[axis] // 4, 1)), axis=-1
        )
        masks[name] = np.moveaxis(rows.reshape(*rows.shape[:-2], -1), -1, axis)
    return masks


def test_values_and_places_of_patterns_unpack(tmp_path: Path) -> None:
    before = saved(tmp_path / "pruned", Prune(sparsity=0.5, structure=NM()), patterns(active=2))
    report = CliRunner().invoke(app, ["convert", str(before), "--sparse", str(tmp_path / "packed")])
    assert report.exit_code == 0, report.output
    manifest, reader = open_checkpoint(next((tmp_path / "packed").glob("step_*")))
    whole = lambda name: reader.read_slice(name, tuple(map(slice, manifest.arrays[name].shape)))  # noqa: E731
    params = load_model(before).params()["layers"]
    for part, name, axis in (("attention", "q", 1), ("attention", "out", 2), ("mlp", "down", 1)):
        stem = f"sparse.layers.{part}.{name}"
        values, places = whole(f"{stem}.values"), whole(f"{stem}.places")
        np.testing.assert_array_equal(decompress_nm(values, places, axis, NM()), params[part][name])
    assert "params.layers.mlp.up" not in manifest.arrays
    assert "params.embedding" in manifest.arrays


def test_masks_go_beside_parameters_and_are_drawn(tmp_path: Path) -> None:
    mask = np.random.default_rng(1).permuted(np.tile(np.arange(24) < 6, (4, 16, 1)), axis=2)
    before = saved(tmp_path / "pruned", Prune(sparsity=0.75), {"layers.mlp.up": mask})
    out = convert_sparse(load_model(before), tmp_path / "masks", report=lambda line: None)
    reader = open_checkpoint(out)[1]
    bits = reader.read_slice("masks.layers.mlp.up", (slice(0, 4), slice(0, 16), slice(0, 3)))
    np.testing.assert_array_equal(unpack_np(bits, 24), mask)
    np.testing.assert_array_equal(np.asarray(load_model(out).params()["layers"]["mlp"]["up"]) != 0, mask)
    picture = tmp_path / "picture.png"
    report = CliRunner().invoke(app, ["inspect", str(out), "--picture", str(picture)])
    assert report.exit_code == 0, report.output
    assert "layers.mlp.up" in report.output
    assert "25.0%" in report.output
    assert picture.stat().st_size > 5000


def test_what_cannot_be_converted_is_said(tmp_path: Path) -> None:
    dense = saved(tmp_path / "dense", None, {})
    averaged = saved(tmp_path / "averaged", Prune(sparsity=0.5), {}, optimizer=ScheduleFree())
    late = saved(tmp_path / "late", Prune(sparsity=0.5, structure=NM()), patterns(active=3))
    for path, says in ((dense, "prunes nothing"), (averaged, "schedule-free"), (late, "not 2:4 yet")):
        with pytest.raises(UserError, match=says):
            convert_sparse(load_model(path), tmp_path / "out", report=lambda line: None)
    assert not list((tmp_path / "out").glob("step_*"))
    assert CliRunner().invoke(app, ["convert", str(dense), str(tmp_path / "out")]).exit_code != 0
