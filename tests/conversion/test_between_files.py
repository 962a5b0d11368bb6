"""What is made of checkpoints, from file to file: it computes what they compute, or is refused; its recipe is true."""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from pathways_lite import models
from pathways_lite.checkpoints import CheckpointManager, fsck, open_checkpoint
from pathways_lite.conversion.grow_and_merge import grow_offline, merge_offline
from pathways_lite.conversion.sparse_export import convert_sparse
from pathways_lite.conversion.stored_masks import read_masks
from pathways_lite.data.order import DataCursor
from pathways_lite.errors import UserError
from pathways_lite.ledger import Ledger, Seconds
from pathways_lite.methods.pruning import PruneState
from pathways_lite.recipe import (
    SGD,
    AdamW,
    Constant,
    Continue,
    Data,
    DoGE,
    Grow,
    Interpolate,
    MaskedGrowth,
    Model,
    Net2Net,
    Prune,
    Recipe,
    Restore,
    Reweighting,
    Stack,
    Stage,
    Steps,
    ZeroInit,
)
from pathways_lite.training.check_chain import require_kept_optimizer, require_stored_optimizer
from pathways_lite.training.initialize import CheckpointState
from pathways_lite.training.load import TrainedModel, load_model
from pathways_lite.training.spike_guard import GuardState
from pathways_lite.training.stage import StageSpec
from pathways_lite.training.step import TrainState

MODEL = Model(d_model=16, n_layers=2, n_heads=2, head_dim=8, d_ff=24, vocab_size=32, dtype="float32")
DEEPER = MODEL.model_copy(update={"n_layers": 4})
UP = "layers.mlp.up"


def stage(**fields: Any) -> Stage:
    data = Data(corpus="none", seq_len=8)
    defaults = {"model": MODEL, "data": data, "optimizer": SGD(schedule=Constant()), "batch_size": 2}
    return Stage.model_validate(defaults | {"budget": Steps(n=20)} | fields)


def save(path: Path, *stages: Stage, step: int = 20, masks: dict[str, np.ndarray] | None = None, seed: int = 0) -> Path:
    """A checkpoint of the last stage, with random parameters and zeros where masks are false."""
    masks, rng = masks or {}, np.random.default_rng(seed)

    def draw(array: models.ParamSpec, like: Any) -> np.ndarray:
        return np.where(masks.get(array.name, True), np.float32(rng.normal(size=like.shape)), np.float32(0))

    bits: dict[str, Any] = {}
    for name, mask in masks.items():
        *parts, last = name.split(".")
        packed = np.packbits(mask, axis=-1, bitorder="little")
        functools.reduce(lambda tree, part: tree.setdefault(part, {}), parts, bits)[last] = packed
    model = stages[-1].model
    params = jax.tree.map(draw, models.param_specs(model), models.abstract_params(model))
    state = TrainState(np.int32(step), params, PruneState(np.int32(0), bits, (), (), ()), (), np.zeros(2, np.uint32))
    spec = StageSpec(Recipe(name="tiny", stages=stages), len(stages) - 1)
    meta = CheckpointState(state, DataCursor(), GuardState(), Seconds(), Ledger(), None).to_meta(spec)
    with CheckpointManager(path / "checkpoints") as checkpoints:
        checkpoints.save(step, state, meta)
    return path


def mask(seed: int, layers: int = 2) -> dict[str, np.ndarray]:
    return {UP: np.random.default_rng(seed).random((layers, 16, 24)) < 0.5}


def masks_of(path: Path) -> dict[str, np.ndarray]:
    return read_masks(*open_checkpoint(load_model(path).path))


def array(path: Path, name: str = "up") -> np.ndarray:
    return np.asarray(load_model(path).params()["layers"]["mlp"][name])


def quiet(line: str) -> None:
    pass


# ---- growth that is under way ----

MASKED = {"start": Grow(operator=MaskedGrowth(ramp=Steps(n=4))), "model": DEEPER, "name": "grown"}


@pytest.mark.parametrize("verb", ["merge", "grow", "convert"])
def test_what_masks_of_growth_hide_is_not_read_from_files(verb: str, tmp_path: Path) -> None:
    pruned = stage(**MASKED, pruning=Prune(sparsity=0.5))

    def apply(step: int) -> Path:
        trained = load_model(save(tmp_path / str(step), stage(), pruned, step=step, masks=mask(0, 4)))
        out = tmp_path / f"{verb}_{step}"
        if verb == "merge":
            return merge_offline([trained, trained], [1, 1], out, quiet)
        if verb == "grow":
            return grow_offline(trained, Grow(), DEEPER.model_copy(update={"n_layers": 8}), out, quiet)
        return convert_sparse(trained, out, quiet)

    for step in (0, 3):
        with pytest.raises(UserError, match=f"growth is under way at step {step}.*until step 4"):
            apply(step)
        assert not (tmp_path / f"{verb}_{step}").exists()
    out = apply(4)  # masks are all 1, though the stage has 20 steps
    np.testing.assert_array_equal(array(out)[:4], array(tmp_path / "4"))


# ---- pruned models ----


@pytest.mark.parametrize(("operator", "order"), [(Stack(), [0, 1, 0, 1]), (Interpolate(), [0, 0, 1, 1])])
def test_masks_of_copied_blocks_are_copied(operator: Any, order: list[int], tmp_path: Path) -> None:
    trained = load_model(save(tmp_path / "pruned", stage(pruning=Prune(sparsity=0.5)), masks=mask(1)))
    out = grow_offline(trained, Grow(operator=operator), DEEPER, tmp_path / "out", quiet)
    np.testing.assert_array_equal(masks_of(out)[UP], mask(1)[UP][order])
    assert load_model(out).stage.pruning == Prune(sparsity=0.5)
    assert all(finding.ok for finding in fsck(tmp_path / "out"))
    converted = convert_sparse(load_model(out), tmp_path / "converted", quiet)
    np.testing.assert_array_equal(masks_of(converted)[UP], array(out) != 0)


@pytest.mark.parametrize(
    ("start", "larger"),
    [
        (Grow(noise=0.1), {"n_layers": 4}),
        (Grow(operator=Net2Net(split="even")), {"d_ff": 48}),
        (Grow(operator=ZeroInit()), {"d_ff": 48}),
    ],
)
def test_where_pruned_weights_change_the_grown_model_is_dense(start: Grow, larger: dict, tmp_path: Path) -> None:
    trained = load_model(save(tmp_path / "pruned", stage(pruning=Prune(sparsity=0.5)), masks=mask(1)))
    lines: list[str] = []
    target = Model.model_validate(dict(MODEL) | larger)
    out = grow_offline(trained, start, target, tmp_path / "out", lines.append)
    assert load_model(out).stage.pruning is None
    assert masks_of(out) == {}
    assert any("masks of pruning are not carried over" in line for line in lines)
    with pytest.raises(UserError, match="prunes nothing"):
        convert_sparse(load_model(out), tmp_path / "sparse", quiet)


def test_an_average_prunes_what_all_its_models_prune(tmp_path: Path) -> None:
    pruned = stage(pruning=Prune(sparsity=0.5))
    trained = [load_model(save(tmp_path / str(n), pruned, masks=mask(n), seed=n)) for n in (1, 2)]
    out = merge_offline(trained, [1, 3], tmp_path / "out", quiet)
    np.testing.assert_array_equal(masks_of(out)[UP], mask(1)[UP] | mask(2)[UP])
    np.testing.assert_array_equal(array(out) != 0, masks_of(out)[UP])
    assert load_model(out).stage.pruning is not None
    again = merge_offline([load_model(out), trained[0]], [1, 1], tmp_path / "again", quiet)
    np.testing.assert_array_equal(masks_of(again)[UP], masks_of(out)[UP])


def test_an_average_with_a_dense_model_is_dense(tmp_path: Path) -> None:
    pruned = load_model(save(tmp_path / "pruned", stage(pruning=Prune(sparsity=0.5)), masks=mask(1)))
    dense = load_model(save(tmp_path / "dense", stage(), seed=3))
    for number, models_ in enumerate(([pruned, dense], [dense, pruned])):
        lines: list[str] = []
        out = merge_offline(models_, [1, 1], tmp_path / f"out{number}", lines.append)
        assert load_model(out).stage.pruning is None
        assert any("not carried over" in line for line in lines)


def test_without_masks_nothing_is_converted(tmp_path: Path) -> None:
    """Whatever the recipe says: as of a file that another program wrote, or before pruning begins."""
    pruned = stage(pruning=Prune(sparsity=0.5))
    without = save(tmp_path / "without", pruned)
    early = save(tmp_path / "early", pruned, masks={UP: np.ones((2, 16, 24), bool)}, step=1)
    for path, says in ((without, "holds no masks"), (early, "nothing of .* is pruned at step 1")):
        with pytest.raises(UserError, match=says):
            convert_sparse(load_model(path), tmp_path / "out", quiet)


def test_a_derived_stage_does_not_claim_to_weigh_samples(tmp_path: Path) -> None:
    for number, fields in enumerate(({"domain_weights": DoGE()}, {"reweighting": Reweighting()})):
        trained = load_model(save(tmp_path / str(number), stage(**fields)))
        out = load_model(grow_offline(trained, Grow(), DEEPER, tmp_path / f"out{number}", quiet))
        assert (out.stage.domain_weights, out.stage.reweighting) == (None, None)


# ---- an optimizer's state that is kept ----


def derived(tmp_path: Path) -> TrainedModel:
    trained = load_model(save(tmp_path / "base", stage(optimizer=AdamW())))
    return load_model(grow_offline(trained, Grow(), DEEPER, tmp_path / "out", quiet))


def test_a_state_that_no_file_holds_cannot_be_kept(tmp_path: Path) -> None:
    model = derived(tmp_path)
    keeps = stage(model=DEEPER, optimizer=AdamW(), start=Restore(path=str(model.path), optimizer="keep"))
    with pytest.raises(UserError, match=r"start.optimizer='keep'.*holds no optimizer state.*use 'reset'"):
        require_stored_optimizer(keeps, model)
    require_stored_optimizer(stage(model=DEEPER, start=Restore(path=str(model.path), optimizer="keep")), model)
    require_stored_optimizer(keeps.model_copy(update={"start": Restore(path=str(model.path))}), model)


@pytest.mark.parametrize(
    ("start", "before", "after"),
    [
        (Continue(optimizer="keep"), {"optimizer": AdamW()}, {"optimizer": SGD(momentum=0.9)}),
        (Continue(optimizer="keep"), {}, {"optimizer": SGD(momentum=0.9)}),
        (Continue(optimizer="keep"), {"pruning": Prune(sparsity=0.5)}, {}),
        (Continue(optimizer="keep"), {}, {"pruning": Prune(sparsity=0.5)}),
        (Grow(optimizer="grow"), {"optimizer": SGD(momentum=0.9)}, {"model": DEEPER}),
    ],
)
def test_the_state_of_another_optimizer_is_refused_before_anything_trains(
    start: Any, before: dict, after: dict
) -> None:
    first, second = stage(**before), stage(**after, name="more", start=start)
    with pytest.raises(UserError, match=r"stages.more.start.optimizer='(keep|grow)', but the state of"):
        require_kept_optimizer(Recipe(name="two", stages=(first, second)), 1)
    same = stage(**before, name="more", start=Continue(optimizer="keep"))
    require_kept_optimizer(Recipe(name="two", stages=(first, same)), 1)


def test_another_model_is_told_before_the_state_of_its_optimizer() -> None:
    first = stage(optimizer=AdamW())
    second = stage(optimizer=AdamW(), model=DEEPER, name="more", start=Continue(optimizer="keep"))
    with pytest.raises(UserError, match=r"n_layers=4 instead of 2.*use start=Grow\(\)"):
        require_kept_optimizer(Recipe(name="two", stages=(first, second)), 1)
