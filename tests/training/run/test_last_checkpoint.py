"""A stage starts from its parent's last step only, and is trained when its summary can be read."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from helpers.run_helpers import TOTAL, add_stage, digest, log_bytes, run
from pathways_lite.checkpoints import CheckpointManager
from pathways_lite.errors import UserError
from pathways_lite.recipe import Continue, Grow, Merge, Recipe, Restore, Stack, Start
from pathways_lite.training.init_merging import resolve_merge
from pathways_lite.training.load import load_model
from pathways_lite.training.run import train_run


def run_with_output(recipe: Recipe, path: Path) -> str:
    """Train and return what the user sees."""
    output = io.StringIO()
    assert train_run(recipe, path, console=Console(file=output, width=1000)) == 0
    return output.getvalue()


def checkpoint(path: Path, step: int, stage: str = "base") -> Path:
    return CheckpointManager(path / stage / "checkpoints").path(step)


def flip_bit(checkpoint: Path) -> None:
    file = max((file for file in checkpoint.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 4
    file.write_bytes(content)


@pytest.fixture
def finished(uninterrupted: Path, tmp_path: Path) -> Path:
    """A copy of a run whose only stage is finished."""
    return Path(shutil.copytree(uninterrupted, tmp_path / "run"))


@pytest.mark.parametrize("damage", [flip_bit, shutil.rmtree], ids=["flipped", "deleted"])
@pytest.mark.parametrize("start", [Continue(), Grow(operator=Stack())], ids=["continue", "grow"])
def test_a_stage_whose_last_checkpoint_is_not_whole_is_trained_again_before_the_next_starts(
    damage: Callable[[Path], None], start: Start, recipe: Recipe, finished: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    layers = ["stages.more.model.n_layers=4"] if isinstance(start, Grow) else []
    chain = add_stage(recipe, *layers, "stages.more.budget=2 steps", start=start)
    whole = Path(shutil.copytree(finished, tmp_path / "whole"))
    assert run(chain, whole) == 0
    damage(checkpoint(finished, TOTAL))
    assert "trained again" in run_with_output(chain, finished)
    assert digest(finished) == digest(uninterrupted)
    assert log_bytes(finished) == log_bytes(uninterrupted)
    assert digest(finished, "more", 2) == digest(whole, "more", 2)


def test_a_finished_stage_that_nobody_starts_from_may_lose_its_checkpoints(finished: Path, recipe: Recipe) -> None:
    shutil.rmtree(finished / "base" / "checkpoints")
    assert run(recipe, finished) == 0
    assert not (finished / "base" / "checkpoints").exists()
    with pytest.raises(UserError, match="No other is left; remove"):
        run(add_stage(recipe), finished)


@pytest.mark.parametrize("content", [b"", b'{"step": 12', b"[]", b"\0" * 100, b'{"identity": "0123"}', b"[" * 100_000])
def test_a_stage_without_a_readable_summary_of_its_own_is_concluded_again(
    content: bytes, recipe: Recipe, finished: Path, uninterrupted: Path
) -> None:
    summary = finished / "base" / "summary.json"
    summary.write_bytes(content)
    assert "concluded again" in run_with_output(recipe, finished)
    assert summary.read_text().splitlines()[:3] == (uninterrupted / "base/summary.json").read_text().splitlines()[:3]
    assert (log_bytes(finished), digest(finished)) == (log_bytes(uninterrupted), digest(uninterrupted))


def test_what_reads_an_older_checkpoint_says_so_and_a_start_refuses_it(
    finished: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load_model(finished).path == checkpoint(finished, TOTAL)
    assert not capsys.readouterr().err
    flip_bit(checkpoint(finished, TOTAL))
    assert load_model(finished).path == checkpoint(finished, 8)
    warning = capsys.readouterr().err
    assert "damaged" in warning
    assert f"{checkpoint(finished, 8)} is used instead" in warning
    stage = recipe.stages[0].model_copy(update={"start": Restore(path=str(finished))})
    restored = recipe.model_copy(update={"stages": (stage,)})
    with pytest.raises(UserError, match="Older ones are whole"):
        run(restored, finished.parent / "restored")
    stage = stage.model_copy(update={"start": Restore(path=str(checkpoint(finished, 8)))})
    assert run(recipe.model_copy(update={"stages": (stage,)}), finished.parent / "restored") == 0


def test_a_merge_of_the_newest_checkpoints_refuses_to_pass_over_a_damaged_one(finished: Path, recipe: Recipe) -> None:
    merge = Merge.model_validate({"of": str(finished), "last": 2})
    assert len(resolve_merge(merge, "merged").checkpoints) == 2
    flip_bit(checkpoint(finished, TOTAL))
    with pytest.raises(UserError, match="Older ones are whole"):
        resolve_merge(merge, "merged")
