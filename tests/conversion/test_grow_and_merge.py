"""Growth from checkpoint to checkpoint is growth, and needs no more memory than two of the largest arrays."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

from pathways_lite import models
from pathways_lite.checkpoints import CheckpointManager, DamagedError, read_manifest, restore
from pathways_lite.cli.main import app
from pathways_lite.conversion.grow_and_merge import grow_offline
from pathways_lite.data.order import DataCursor
from pathways_lite.errors import UserError
from pathways_lite.ledger import Ledger, Seconds
from pathways_lite.methods.growth import grow
from pathways_lite.recipe import (
    AdamW,
    BlockOrder,
    Compose,
    Data,
    Grow,
    LiGO,
    MaskedGrowth,
    Model,
    Net2Net,
    Operator,
    Recipe,
    Stack,
    Stage,
    VocabularyGrowth,
    ZeroInit,
)
from pathways_lite.training.components import Components
from pathways_lite.training.initialize import CheckpointState
from pathways_lite.training.load import load_model
from pathways_lite.training.spike_guard import GuardState
from pathways_lite.training.stage import StageSpec
from pathways_lite.training.step import TrainState

MODEL = Model(d_model=8, n_layers=3, n_heads=2, head_dim=4, d_ff=12, vocab_size=16, norm="layer", dtype="float32")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as training writes it, of random parameters."""
    path = tmp_path_factory.mktemp("source")
    stage = Stage(
        model=MODEL, data=Data(corpus="none", seq_len=8), optimizer=AdamW(), batch_size=2, budget="10 steps"
    )  # fmt: skip
    components = Components(StageSpec(Recipe(name="small", stages=(stage,)), 0))
    params = jax.tree.map(
        lambda x: np.random.default_rng(x.size).standard_normal(x.shape, np.float32), models.abstract_params(MODEL)
    )
    state = TrainState(step=np.int32(10), params=params, opt_state=(), method_state=(), key=())
    meta = CheckpointState(state, DataCursor(), GuardState(), Seconds(), Ledger(), None).to_meta(components.spec)
    with CheckpointManager(path) as checkpoints:
        checkpoints.save(10, state, meta)
    return path


@pytest.mark.parametrize(
    ("start", "larger"),
    [
        (Grow(operator=Stack(), noise=0.1), {"n_layers": 6}),
        (Grow(operator=BlockOrder(order="12*3")), {"n_layers": 6}),
        (
            Grow(operator=Compose(depth=ZeroInit(), width=Net2Net())),
            {"n_layers": 5, "d_model": 12, "n_heads": 4, "d_ff": 20},
        ),
        (Grow(operator=VocabularyGrowth()), {"vocab_size": 21}),
    ],
    ids=["stack", "blocks", "compose", "vocabulary"],
)
def test_block_by_block_it_is_the_same(source: Path, tmp_path: Path, start: Grow, larger: dict) -> None:
    target = Model.model_validate(dict(MODEL) | larger)
    found = load_model(source)
    path = grow_offline(found, start, target, tmp_path, report=lambda line: None)
    grown = load_model(path)
    assert grown.stage.model == target
    expected = grow(start.operator, found.params(), MODEL, target, grown.spec.keys()[0], noise=start.noise)
    found_params = restore(path, models.abstract_params(target), "params").arrays
    # Programs for one block and for all round sums of random shares differently.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found_params, expected)
    meta = grown.manifest.meta
    assert meta["cursor"]["first_sequence"] == 20
    assert meta["lineage"]["parent"] == found.manifest.digest
    assert meta["ledger"]["total"]["flops"] == found.manifest.meta["ledger"]["total"]["flops"] > 0


def test_a_damaged_source_is_noticed(source: Path, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "source")
    victim = max((tmp_path / "source").rglob("*mlp.up/c/**/0"), key=lambda path: path.is_file())
    raw = bytearray(victim.read_bytes())
    raw[40] ^= 1
    victim.write_bytes(raw)
    found = load_model(tmp_path / "source", examined=False)
    with pytest.raises((DamagedError, ValueError)):
        grow_offline(
            found, Grow(), Model.model_validate(dict(MODEL) | {"n_layers": 6}), tmp_path / "out", lambda _: None
        )
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("operator", [MaskedGrowth(), LiGO()])
def test_what_needs_training_is_not_for_files(source: Path, tmp_path: Path, operator: Operator) -> None:
    with pytest.raises(
        UserError, match=rf"while the grown model trains.*Grow\(operator={type(operator).__name__}\(\)\)"
    ):
        grow_offline(load_model(source), Grow(operator=operator), MODEL, tmp_path, lambda _: None)


def command(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["grow", *map(str, arguments)])


def test_the_command_shows_the_map_and_grows(source: Path, tmp_path: Path) -> None:
    shown = command(source, tmp_path, "--operator", "direct", "--factor", 2, "--dry-run")
    assert "the same function at the start" in shown.output
    assert "d_model 8 → 16: 8 2 times; 0 new" in shown.output
    assert not list(tmp_path.iterdir())
    done = command(source, tmp_path, "--factor", 2, "start.noise=0.1")
    assert done.exit_code == 0, done.output
    assert read_manifest(tmp_path / "step_00000000").arrays["params.layers.mlp.up"].shape == (6, 8, 12)
    with pytest.raises(UserError, match="from 3 to 4"):
        CliRunner().invoke(app, ["grow", str(source), "x", "model.n_layers=4"], catch_exceptions=False)
    with pytest.raises(UserError, match="exists"):
        CliRunner().invoke(app, ["grow", str(source), str(tmp_path), "--factor", "2"], catch_exceptions=False)


def test_advice() -> None:
    advice = command("--advise", "N=7e9", "D=2e12").output
    assert "d = 11.11 G tokens" in advice
    assert "1.75 G parameters" in advice
    assert "84 ZFLOPs" in advice
    assert "a fifth" not in advice
    assert "d = 20 M tokens (a fifth of D; the fit says 38.7 G)" in command("--advise", "N=1e6", "D=1e8").output
    assert "D = 100 M tokens" in command("--advise", "N=1e6", "D=1e8").output
    with pytest.raises(UserError, match="N=7e9 D=2e12"):
        CliRunner().invoke(app, ["grow", "--advise", "7e9"], catch_exceptions=False)


@pytest.mark.slow
def test_eight_billion_parameters_grow_in_little_memory(tmp_path: Path) -> None:
    """Llama 3 8B in bfloat16 of a quarter of its layers: 16 GB from 5, within twice the largest array."""
    script = Path(__file__).parents[2] / "tools" / "bench_growth.py"
    command = [sys.executable, str(script), "--files", "--shape", "llama3_8b", "--directory", str(tmp_path)]
    row = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert row["target_bytes"] > 16e9
    assert row["peak_rss_bytes"] < 2 * row["largest_array_bytes"]
