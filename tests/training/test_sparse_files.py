"""What `convert --sparse` writes: a smaller model that computes the same, values that unpack, masks in bits."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pathways_kernels.attention import Spans
from pathways_lite import models
from pathways_lite.checkpoints import Checkpoints, open_checkpoint
from pathways_lite.cli.main import app
from pathways_lite.errors import UserError
from pathways_lite.ledger import Ledger, Seconds
from pathways_lite.methods.pruning.compressed import decompressed
from pathways_lite.methods.pruning.packing import unpacked
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
from pathways_lite.training.cursor import Cursor
from pathways_lite.training.guard import GuardState
from pathways_lite.training.load import load_model
from pathways_lite.training.setup import Setup
from pathways_lite.training.sparse_files import convert_sparse
from pathways_lite.training.starts import Position

MODEL = Model(
    d_model=16, n_layers=4, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=24, vocab_size=32, dtype="float32",
    window=(2, None),
)  # fmt: skip
AT_ONCE = {"begin": 0.0, "end": 0.0}


def saved(path: Path, pruning: Prune | None, model: Model = MODEL, optimizer: object = None) -> Path:
    """A checkpoint of a stage before its first step."""
    optimizer = optimizer or SGD(schedule=Constant())
    data = Data(corpus="none", seq_len=8)
    stage = Stage(model=model, data=data, optimizer=optimizer, batch_size=2, budget=Steps(n=4), pruning=pruning)
    setup = Setup(Recipe(name="tiny", stages=(stage,)), 0)
    position = Position(setup.fresh_state(), Cursor(), GuardState(), Seconds(), Ledger(), None)
    with Checkpoints(path / "checkpoints") as checkpoints:
        checkpoints.save(0, position.state, position.to_meta(setup))
        checkpoints.wait()
    return path


def hidden(path: Path) -> np.ndarray:
    """What the model in a checkpoint computes of some tokens."""
    found = load_model(path)
    tokens = np.arange(16, dtype=np.int32).reshape(2, 8)
    place = np.broadcast_to(np.arange(8, dtype=np.int32), (2, 8))
    return np.asarray(models.apply(found.stage.model, found.params(), tokens, place, Spans(0 * place, place + 1)))


SMALLER = [
    (Prune(sparsity=0.5, **AT_ONCE, structure=Channels()), {"d_ff": 12}, {}),
    (Prune(sparsity=0.5, **AT_ONCE, structure=Heads()), {"n_heads": 2, "n_kv_heads": 1}, {}),
    (Prune(sparsity=0.25, **AT_ONCE, structure=Heads()), {"n_heads": 3}, {"n_kv_heads": 1}),
    (Prune(sparsity=0.5, **AT_ONCE, structure=WholeBlocks()), {"n_layers": 2}, {}),
]


@pytest.mark.parametrize(
    ("prune", "sizes", "model"), [SMALLER[1], *(pytest.param(*case, marks=pytest.mark.slow) for case in SMALLER)]
)
def test_a_smaller_model_computes_the_same(prune: Prune, sizes: dict, model: dict, tmp_path: Path) -> None:
    before = saved(tmp_path / "pruned", prune, MODEL.model_copy(update=model))
    found = load_model(before)
    after = convert_sparse(found, tmp_path / "smaller", report=lambda line: None)
    smaller = load_model(after)
    assert {name: getattr(smaller.stage.model, name) for name in sizes} == sizes
    assert parameter_count(smaller.stage.model) < parameter_count(found.stage.model)
    assert smaller.stage.pruning is None
    np.testing.assert_allclose(hidden(after), hidden(before), rtol=2e-5, atol=2e-6)


def test_values_and_places_of_patterns_unpack(tmp_path: Path) -> None:
    before = saved(tmp_path / "pruned", Prune(sparsity=0.5, **AT_ONCE, structure=NM()))
    report = CliRunner().invoke(app, ["convert", str(before), "--sparse", str(tmp_path / "packed")])
    assert report.exit_code == 0, report.output
    manifest, reader = open_checkpoint(next((tmp_path / "packed").glob("step_*")))
    whole = lambda name: reader.part(name, tuple(map(slice, manifest.arrays[name].shape)))  # noqa: E731
    params = load_model(before).params()["layers"]
    for part, name, axis in (("attention", "q", 1), ("attention", "out", 2), ("mlp", "down", 1)):
        stem = f"sparse.layers.{part}.{name}"
        values, places = whole(f"{stem}.values"), whole(f"{stem}.places")
        np.testing.assert_array_equal(decompressed(values, places, axis, NM()), params[part][name])
    assert "params.layers.mlp.up" not in manifest.arrays
    assert "params.embedding" in manifest.arrays


def test_masks_go_beside_parameters_and_are_drawn(tmp_path: Path) -> None:
    before = saved(tmp_path / "pruned", Prune(sparsity=0.75, **AT_ONCE, scope=("layers.mlp.up",)))
    out = convert_sparse(load_model(before), tmp_path / "masks", report=lambda line: None)
    reader = open_checkpoint(out)[1]
    bits = reader.part("masks.layers.mlp.up", (slice(0, 4), slice(0, 16), slice(0, 3)))
    up = np.asarray(load_model(out).params()["layers"]["mlp"]["up"])
    np.testing.assert_array_equal(unpacked(bits, 24), up != 0)
    picture = tmp_path / "picture.png"
    report = CliRunner().invoke(app, ["inspect", str(out), "--picture", str(picture)])
    assert report.exit_code == 0, report.output
    assert "layers.mlp.up" in report.output
    assert "25.0%" in report.output
    assert picture.stat().st_size > 5000


def test_what_cannot_be_converted_is_said(tmp_path: Path) -> None:
    dense = load_model(saved(tmp_path / "dense", None))
    with pytest.raises(UserError, match="prunes nothing"):
        convert_sparse(dense, tmp_path / "out", report=lambda line: None)
    late = Prune(sparsity=0.5, begin=0.5, end=0.5, structure=NM())
    with pytest.raises(UserError, match="not 2:4 yet"):
        convert_sparse(load_model(saved(tmp_path / "late", late)), tmp_path / "out", report=lambda line: None)
    assert not list((tmp_path / "out").glob("step_*"))
    assert CliRunner().invoke(app, ["convert", str(tmp_path / "dense"), str(tmp_path / "out")]).exit_code != 0
    averaged = saved(tmp_path / "averaged", Prune(sparsity=0.5), optimizer=ScheduleFree())
    with pytest.raises(UserError, match="schedule-free"):
        convert_sparse(load_model(averaged), tmp_path / "out", report=lambda line: None)
