"""A chain fails before it starts, not when its last stage does; and what was moved is found again."""

import io
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from helpers.run_helpers import add_stage, describe, describe_stages, run
from pathways_lite.checkpoints import CheckpointManager
from pathways_lite.conversion.grow_and_merge import merge_offline
from pathways_lite.data.build import build
from pathways_lite.data.store import open_store
from pathways_lite.errors import UserError
from pathways_lite.recipe import Continue, Grow, Recipe, Restore, apply_overrides, load_recipe
from pathways_lite.run_directory import RunDirectory
from pathways_lite.training.load import load_model
from pathways_lite.training.resolve import resolve_recipe
from pathways_lite.training.run import train_run

GIVEN = '{"phases": [{"weights": {"kind": "given", "weights": {"%s": 1}}}]}'


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["model.n_layers=4"],
            "cannot start from stage 'base'.*n_layers=4 instead of .*; use start=Grow",
        ),
        (["model.tie_embeddings=false"], "give it the same model:\n.*params.head: not in that stage"),
        (["optimizer=lion", "start.optimizer=keep"], "not that of lion"),
        (["pruning.sparsity=0.5", "start.optimizer=keep"], "with pruning"),
        (["data.seq_len=100000"], "seq_len=100000 needs"),
        (['domain_weights={"kind": "doge", "target": "novels"}'], "target='novels' is not a domain"),
        (['domain_weights={"kind": "doge", "target": "poems"}'], "needs two or more domains"),
        (
            [
                'domain_weights={"kind": "doge"}',
                'data.mixture={"phases": [{"weights": {"kind": "given", "weights": {"tales": 1}}}]}',
            ],
            "needs two or more domains",
        ),
        ([f"data.mixture={GIVEN % 'novels'}"], "novels"),
        (["objective=ul2r"], "special tokens"),
        (["pruning.sparsity=0.5", "pruning.structure=heads", "model.n_heads=1"], "heads|parameters"),
    ],
)
def test_a_later_stage_that_could_not_start_is_refused_before_the_first_begins(
    changes: list[str], message: str, recipe: Recipe, tmp_path: Path
) -> None:
    chain = add_stage(recipe)
    if any(change.startswith("pruning") for change in changes):
        chain = apply_overrides(chain, ['stages.more.pruning={"sparsity": 0.1}'])
    chain = apply_overrides(chain, [f"stages.more.{change}" for change in changes])
    with pytest.raises(UserError, match=message):
        run(chain, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def restored(recipe: Recipe, path: Path, **start: Any) -> Recipe:
    stage = recipe.stages[0].model_copy(update={"start": Restore(path=str(path), **start)})
    return recipe.model_copy(update={"stages": (stage,)})


def test_restoring_what_a_file_does_not_hold_is_refused(recipe: Recipe, uninterrupted: Path, tmp_path: Path) -> None:
    resolve_recipe(restored(recipe, uninterrupted, optimizer="keep"))
    lion = apply_overrides(restored(recipe, uninterrupted, optimizer="keep"), ["stages.base.optimizer=lion"])
    with pytest.raises(UserError, match="holds the state of adamw"):
        resolve_recipe(lion)
    wide = apply_overrides(restored(recipe, uninterrupted), ["stages.base.model.d_ff=128"])
    with pytest.raises(UserError, match=r"params\.layers\.mlp"):
        resolve_recipe(wide)
    model = load_model(uninterrupted)
    merged = merge_offline([model, model], [1, 1], tmp_path / "merged", report=lambda _: None)
    resolve_recipe(restored(recipe, merged))
    with pytest.raises(UserError, match="holds no optimizer state"):
        resolve_recipe(restored(recipe, merged, optimizer="keep"))


def test_a_longer_budget_of_a_stage_that_has_begun_is_a_stage_to_append(
    recipe: Recipe, uninterrupted: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(uninterrupted, tmp_path / "run"))
    with pytest.raises(UserError, match="append a stage") as error:
        run(apply_overrides(recipe, ["stages.base.budget=15 steps"]), path)
    # What the sentence says is pasted into the recipe.
    source = "from pathways_lite.recipe import *\n"
    pasted = str(error.value).partition("to the old recipe: stages=")[2]
    scope: dict[str, Any] = {"stages": recipe.stages}
    exec(f"{source}stages = {pasted}", scope)
    longer = recipe.model_copy(update={"stages": scope["stages"]})
    assert run(longer, path) == 0
    assert CheckpointManager(path / "base_more" / "checkpoints").newest == 3
    for other in ("stages.base.budget=9 steps", "stages.base.optimizer.b1=0.8"):
        with pytest.raises(UserError, match="begun with another recipe") as error:
            run(apply_overrides(recipe, [other]), path)
        assert "append" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("seq_len=16", "more: data begins again, because seq_len changed; 1.22 ktokens of it were read before"),
        (
            "shuffle_seed=3",
            "more: data begins again, because shuffle_seed changed; 1.22 ktokens of it were read before",
        ),
        ("threads=1", "more: data continues at sequence 38"),
    ],
)
def test_where_data_goes_on_is_said_before_and_at_the_start(
    change: str, sentence: str, recipe: Recipe, uninterrupted: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(uninterrupted, tmp_path / "run"))
    chain = add_stage(recipe, f"stages.more.data.{change}", "stages.more.budget=1 steps", start=Continue())
    output = io.StringIO()
    assert train_run(chain, path, console=Console(file=output, width=1000)) == 0
    for text in (describe(chain), output.getvalue()):
        assert sentence in text
    assert "base: data begins at sequence 0" in describe(chain)
    assert describe_stages(chain)[1]["data"] == sentence.removeprefix("more: ")
    # From a checkpoint of another run: the same place, and the same of it was read.
    restored = apply_overrides(chain, [f'stages.more.start={{"kind": "restore", "path": "{uninterrupted}"}}'])
    assert sentence in describe(restored)


def test_growth_that_grows_nothing_is_refused_unless_it_was_begun(recipe: Recipe, tmp_path: Path) -> None:
    chain = add_stage(recipe, start=Grow())
    with pytest.raises(UserError, match=r"grows nothing: the model has the n_layers=.* of stage 'base'.*Continue\(\)"):
        resolve_recipe(chain)
    with pytest.raises(UserError, match="grows nothing"):
        resolve_recipe(chain, RunDirectory(tmp_path))
    (tmp_path / "more").mkdir()
    resolve_recipe(chain, RunDirectory(tmp_path))
    taller = 2 * recipe.stages[0].model.n_layers
    resolve_recipe(apply_overrides(chain, [f"stages.more.model.n_layers={taller}"]))


def test_a_run_whose_corpus_was_moved_is_used_with_its_new_place(
    recipe_file: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = shutil.copytree(corpus, tmp_path / "old")
    recipe = apply_overrides(load_recipe(recipe_file), [f"stages.base.data.corpus={old}", "stages.base.budget=1 steps"])
    assert run(recipe, tmp_path / "run") == 0
    moved = old.rename(tmp_path / "moved")
    model = load_model(tmp_path / "run")
    with pytest.raises(UserError, match="name it with --corpus"):
        model.open_corpus()
    assert model.open_corpus(str(moved)).fingerprint == open_store(str(corpus)).fingerprint
    assert set(model.evaluator(str(moved)).evaluate(model.params())) == {"poems", "tales"}
    # Another corpus of the same tokenizer, and one of another.
    (tmp_path / "text.txt").write_text("the night of light " * 400)
    build([str(tmp_path / "text.txt")], tmp_path / "bytes", tokenizer="bytes", held_out=0.1, workers=0)
    assert model.open_corpus(str(tmp_path / "bytes")).domains
    other = SimpleNamespace(fingerprint="f", manifest=SimpleNamespace(tokenizer="another"))
    monkeypatch.setattr("pathways_lite.training.load.open_store", lambda path: other)
    with pytest.raises(UserError, match="was tokenized by another"):
        model.open_corpus("other")


def test_a_corpus_and_a_run_are_told_apart(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a corpus, not a run or a checkpoint.*pathways-lite data inspect"):
        load_model(corpus)
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(UserError, match=r"is a run, not a corpus.*pathways-lite inspect"):
        open_store(str(tmp_path))
