"""Growth, pruning, merging and training of published models: exact where they are exact here, and out again."""

import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from helpers.hf_goldens import CASES, golden, logits_and_greedy, write_published
from helpers.run_helpers import run, stub_slow_parts
from pathways_lite import models
from pathways_lite.checkpoints import CheckpointManager
from pathways_lite.cli.grow import _resolve_target
from pathways_lite.conversion.grow_and_merge import grow_offline, merge_offline
from pathways_lite.conversion.hf_export import export_hf
from pathways_lite.conversion.hf_import import import_hf
from pathways_lite.conversion.sparse_export import convert_sparse
from pathways_lite.data.order import DataCursor
from pathways_lite.errors import UserError
from pathways_lite.methods import growth
from pathways_lite.methods.pruning import PruneState
from pathways_lite.recipe import (
    SGD,
    UL2R,
    AdamW,
    Channels,
    Constant,
    Continue,
    Data,
    Grow,
    Interpolate,
    LinUpper,
    Model,
    Prune,
    Recipe,
    Reference,
    Restore,
    Reweighting,
    Stack,
    Stage,
    Steps,
    ZeroInit,
)
from pathways_lite.training.initialize import CheckpointState
from pathways_lite.training.load import TrainedModel, load_model
from pathways_lite.training.stage import StageSpec
from pathways_lite.training.step import TrainState

FAST = ("gemma3", "pythia")
"""A serial block with norms on both sides, windows, and norms of queries; a parallel one with LayerNorms and biases."""

SOME_FAST = [case if case in FAST else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
NO_PLACE_FOR_HEADS = {"pythia": "head_dim"}  # GPT-NeoX's heads are as wide as d_model / n_heads


def quiet(line: str) -> None: ...


def imported(directory: Path, case: str, **config: Any) -> TrainedModel:
    return load_model(import_hf(write_published(directory / "hf", case, **config), directory / "ours", None, quiet))


def out_and_in(trained: TrainedModel, directory: Path) -> TrainedModel:
    """Export a model, and import what was written."""
    back = export_hf(trained, directory / "back", dtype="float32", shard_bytes=10**9, report=quiet)
    return load_model(import_hf(back, directory / "again", None, quiet))


def assert_same_arrays(a: Any, b: Any) -> None:
    """Equal, but for Gemma's norms, whose 1 + w is rounded."""
    rounding = np.spacing(np.float32(1))  # of 1 + w, where new blocks begin with scales of 0
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=3e-7, atol=rounding), a, b)


@pytest.mark.parametrize("case", CASES)
def test_a_stacked_model_keeps_its_windows_and_goes_out_again(case: str, tmp_path: Path) -> None:
    base = imported(tmp_path, case)
    start, target = _resolve_target(base.stage.model, "stack", 2, [])
    grown = load_model(grow_offline(base, start, target, tmp_path / "grown", quiet))
    layers, windows = base.stage.model.n_layers, growth.windows_of_layers(base.stage.model)
    assert growth.windows_of_layers(grown.stage.model) == windows * 2
    before, after = base.params()["layers"], grown.params()["layers"]
    for half in (slice(0, layers), slice(layers, None)):
        jax.tree.map(lambda x, y, rows=half: np.testing.assert_array_equal(x, y[rows]), before, after)
    again = out_and_in(grown, tmp_path)
    assert growth.windows_of_layers(again.stage.model) == windows * 2
    assert_same_arrays(again.params(), grown.params())
    assert again.cost.cost_elsewhere == grown.cost.cost_elsewhere == "unknown"


@pytest.mark.parametrize("case", SOME_FAST)
def test_a_padded_model_computes_the_same_and_goes_out_again(case: str, tmp_path: Path) -> None:
    base = imported(tmp_path, case)
    sizes = ["model.n_layers=6", f"model.d_model={base.stage.model.d_model + 16}", "model.d_ff=72"]
    if case in NO_PLACE_FOR_HEADS:
        sizes += ["model.n_heads=3", "model.n_kv_heads=3"]
    start, target = _resolve_target(base.stage.model, "zero", None, sizes)
    assert growth.is_function_preserving(growth.plan_growth(start, base.stage.model, target))
    grown = load_model(grow_offline(base, start, target, tmp_path / "grown", quiet))
    expected, _ = logits_and_greedy(case, base.stage.model, base.params())
    logits, _ = logits_and_greedy(case, target, grown.params())
    np.testing.assert_allclose(logits, expected, atol=5e-6 * np.abs(expected).max())
    again = out_and_in(grown, tmp_path)
    logits, _ = logits_and_greedy(case, again.stage.model, again.params())
    np.testing.assert_allclose(logits, expected, atol=5e-6 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("operator", "changes"),
    [
        ("interpolate", ["model.n_layers=12"]),
        ('{"kind": "blocks", "order": "1234566654"}', ["model.n_layers=10"]),
        ("zero", ["model.n_layers=9"]),
    ],
)
def test_the_command_gives_copies_the_windows_of_their_blocks(operator: str, changes: list[str]) -> None:
    """Gemma 3's kind: windows of most layers, with a RoPE base of their own."""
    model = Model(
        d_model=8, n_layers=6, n_heads=2, head_dim=4, d_ff=12, vocab_size=11, block="serial",
        window=(4, 4, 4, 4, 4, None), local_rope_base=100.0, embedding_scale=math.sqrt(8),
    )  # fmt: skip
    start, target = _resolve_target(model, operator, None, changes)
    plan = growth.plan_growth(start, model, target)
    assert growth.windows_of_layers(target) == growth.windows_of_copies(plan)
    asked = _resolve_target(model, operator, None, [*changes, "model.window=[4]"])[1]
    assert asked.window == (4,)
    wider = _resolve_target(model, "direct", 2, [])[1]
    assert (wider.window, wider.embedding_scale) == (model.window, math.sqrt(16))


def units_alive(model: Model, *, heads: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Masks of the blocks' matrices without a third of the MLP's channels and, with `heads`, half of the heads."""
    alive = {"mlp": np.arange(model.d_ff) % 3 > 0}
    if heads:
        alive["heads"] = np.arange(model.n_heads) >= model.n_heads // 2
        if model.n_kv_heads > 1:
            alive["kv"] = np.arange(model.n_kv_heads) >= model.n_kv_heads // 2
    for array in jax.tree.leaves(models.param_specs(model)):
        for axis in set(array.axes) & set(alive) if array.stacked and array.is_matrix else ():
            shape = [1] * (1 + len(array.shape))
            shape[array.axis_number(axis)] = -1
            yield array.name, np.broadcast_to(alive[axis].reshape(shape), (model.n_layers, *array.shape)).copy()


def pruned(trained: TrainedModel, path: Path, *, heads: bool) -> TrainedModel:
    """A checkpoint of a stage that has pruned units of the model."""
    masks, bits = dict(units_alive(trained.stage.model, heads=heads)), dict[str, Any]()
    for name, mask in masks.items():
        *parts, last = name.split(".")
        packed = np.packbits(mask, axis=-1, bitorder="little")
        functools.reduce(lambda at, part: at.setdefault(part, {}), parts, bits)[last] = packed
    specs = models.param_specs(trained.stage.model)
    params = jax.tree.map(lambda a, x: np.where(masks.get(a.name, True), x, np.float32(0)), specs, trained.params())
    fields = {
        "name": "sparse", "optimizer": SGD(schedule=Constant()), "pruning": Prune(sparsity=0.3, structure=Channels()),
        "start": Continue(),
    }  # fmt: skip
    stages = (*trained.spec.recipe.stages, trained.stage.model_copy(update=fields))
    spec = StageSpec(trained.spec.recipe.model_copy(update={"stages": stages}), 1)
    state = TrainState(np.int32(1), params, PruneState(np.int32(0), bits, (), (), ()), (), np.zeros(2, np.uint32))
    position = CheckpointState.initial(state, DataCursor(), trained.cost, trained.manifest.digest)
    with CheckpointManager(path / "checkpoints") as checkpoints:
        checkpoints.save(1, state, position.to_meta(spec))
    return load_model(path)


@pytest.mark.parametrize("case", SOME_FAST)
def test_a_pruned_model_computes_the_same_and_goes_out_where_its_family_can_hold_it(case: str, tmp_path: Path) -> None:
    base = imported(tmp_path, case)
    heads = base.stage.model.qk_norm_over is None
    if not heads:
        with pytest.raises(UserError, match="2 heads are pruned, but qk_norm_over='all_heads'"):
            convert_sparse(pruned(base, tmp_path / "refused", heads=True), tmp_path / "none", quiet)
    sparse = pruned(base, tmp_path / "sparse", heads=heads)
    smaller = load_model(convert_sparse(sparse, tmp_path / "smaller", quiet))
    model = smaller.stage.model
    assert (model.n_heads, model.d_ff) == (base.stage.model.n_heads // (1 + heads), base.stage.model.d_ff * 2 // 3)
    assert smaller.cost.cost_elsewhere == "unknown"
    expected, _ = logits_and_greedy(case, base.stage.model, sparse.params())
    logits, _ = logits_and_greedy(case, model, smaller.params())
    np.testing.assert_allclose(logits, expected, atol=5e-6 * np.abs(expected).max())
    if case in NO_PLACE_FOR_HEADS:
        with pytest.raises(UserError, match=f"cannot say {NO_PLACE_FOR_HEADS[case]}="):
            out_and_in(smaller, tmp_path)
        smaller = load_model(convert_sparse(pruned(base, tmp_path / "mlp", heads=False), tmp_path / "narrow", quiet))
    assert_same_arrays(out_and_in(smaller, tmp_path).params(), smaller.params())


@pytest.mark.parametrize("case", ["gemma2", "pythia", "palm"])
def test_two_imports_of_one_shape_are_averaged_and_go_out_again(case: str, tmp_path: Path) -> None:
    one, other = imported(tmp_path / "one", case), imported(tmp_path / "other", case)
    deeper = one.stage.model.model_copy(update={"n_layers": 6})
    moved = load_model(grow_offline(other, Grow(operator=Interpolate()), deeper, tmp_path / "b", quiet))
    stacked = load_model(grow_offline(one, Grow(operator=Stack()), deeper, tmp_path / "a", quiet))
    soup = load_model(merge_offline([stacked, moved], [3, 1], tmp_path / "soup", quiet))
    mean = jax.tree.map(lambda x, y: 0.75 * x + 0.25 * y, stacked.params(), moved.params())
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), soup.params(), mean)
    assert_same_arrays(out_and_in(soup, tmp_path).params(), soup.params())
    assert soup.cost.cost_elsewhere == "unknown"
    with pytest.raises(UserError, match=r"of another model: n_layers=3, not 6"):
        merge_offline([stacked, one], [1, 1], tmp_path / "none", quiet)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_an_import_trains_by_every_method_and_goes_out_again(
    case: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """UL2R weighted by the import's own losses, pruning, then growth with its moments, in one recipe."""
    stub_slow_parts(monkeypatch)
    base = imported(tmp_path, case, vocab_size=300)
    model = base.stage.model.model_copy(update={"dtype": "float32"})
    path = str(base.path)

    def stage(name: str, **fields: Any) -> Stage:
        return Stage.model_validate(
            {"name": name, "model": model, "data": Data(corpus=str(corpus), seq_len=32), "batch_size": 2,
             "optimizer": AdamW(learning_rate=1e-4), "budget": Steps(n=2), **fields}
        )  # fmt: skip

    reweighting = Reweighting(rule=LinUpper(), reference=Reference(path=path))
    larger = {"n_layers": 2 * model.n_layers, "d_ff": model.d_ff + 8}
    stages = (
        stage("ul2r", start=Restore(path=path), objective=UL2R(), reweighting=reweighting),
        stage("sparse", start=Continue(), pruning=Prune(sparsity=0.3, begin=0, end=0.5, update_every=1)),
        stage("dense", start=Continue()),
        stage("grown", start=Grow(operator=ZeroInit(), optimizer="grow"), model=model.model_copy(update=larger)),
    )
    assert run(Recipe(name="methods", stages=stages), tmp_path / "run") == 0
    trained = load_model(tmp_path / "run")
    assert trained.cost.cost_elsewhere == "unknown"
    assert_same_arrays(out_and_in(trained, tmp_path).params(), trained.params())
    assert golden(case)["config"]["num_hidden_layers"] == model.n_layers
