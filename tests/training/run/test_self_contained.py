"""A checkpoint is used where only it is: without its corpus, from another directory, grown and merged too."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import tokenizers
from typer.testing import CliRunner

from helpers.run_helpers import StopAfter, run
from pathways_lite.checkpoints import read_manifest
from pathways_lite.cli.main import app
from pathways_lite.conversion.grow_and_merge import grow_offline, merge_offline
from pathways_lite.data.build import build
from pathways_lite.data.store import open_store
from pathways_lite.data.tokenizer_files import load_tokenizer
from pathways_lite.errors import UserError
from pathways_lite.recipe import Grow, Recipe, Stack, apply_overrides
from pathways_lite.run_directory import RunDirectory
from pathways_lite.training.companions import carried_tokenizer, companion_files
from pathways_lite.training.going_on import branched
from pathways_lite.training.load import load_model
from pathways_lite.training.replay import data_stream, load_reading


@pytest.fixture
def alone(recipe: Recipe, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose corpus is gone, seen from another working directory."""
    copied = shutil.copytree(corpus, tmp_path / "corpus")
    moved = apply_overrides(recipe, [f"stages.base.data.corpus={copied}", "stages.base.saving.keep=9"])
    assert run(moved, tmp_path / "run") == 0
    shutil.rmtree(copied)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return tmp_path / "run"


def evaluate(path: Path, *options: str) -> dict[str, dict[str, float]]:
    result = CliRunner().invoke(app, ["evaluate", str(path), "--json", *options], catch_exceptions=False)
    assert result.exit_code == 0
    domains: dict[str, dict[str, float]] = json.loads(result.stdout)["domains"]
    return domains


def generate(path: Path, *options: str) -> str:
    arguments = ["generate", str(path), "--prompt", "the", "--temperature", "0", "--max-tokens", "5", *options]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_evaluation_without_the_corpus_is_that_of_the_run_to_the_bit(alone: Path, corpus: Path) -> None:
    summary = RunDirectory(alone).stage("base").summary
    assert summary is not None
    assert evaluate(alone) == summary["domains"]
    assert evaluate(alone, "--tokens", "100") == evaluate(alone, "--tokens", "100", "--corpus", str(corpus))
    assert generate(alone) == generate(alone, "--corpus", str(corpus))
    # More than it carries is in the corpus alone; `poems` and `tales` have a few hundred held-out tokens.
    model = load_model(alone)
    carried = model.held_out_documents()
    assert carried.serves(10**9) == (set(carried.complete) == set(carried.domains))


def test_a_checkpoint_that_is_copied_out_of_its_run_is_enough(alone: Path, tmp_path: Path) -> None:
    one = shutil.copytree(load_model(alone).path, tmp_path / "copied")
    expected = evaluate(alone), generate(alone)
    shutil.rmtree(alone)
    assert (evaluate(one), generate(one)) == expected


def test_all_checkpoints_of_a_stage_share_the_files(alone: Path) -> None:
    paths = sorted((alone / "base" / "checkpoints").glob("step_*"))
    names = [name for name in read_manifest(paths[0]).files if not name.startswith("arrays/")]
    assert "held_out.npz" in names
    assert any(name.startswith("tokenizer/") for name in names)
    assert len(paths) > 1
    for name in names:
        assert len({(path / name).stat().st_ino for path in paths}) == 1


def test_grown_and_merged_checkpoints_carry_the_files_of_their_source(alone: Path, tmp_path: Path) -> None:
    model = load_model(alone)
    target = model.stage.model.model_copy(update={"n_layers": 2 * model.stage.model.n_layers})
    grown = grow_offline(model, Grow(operator=Stack()), target, tmp_path / "grown", lambda line: None)
    paths = sorted((alone / "base" / "checkpoints").glob("step_*"))[-2:]
    merged = merge_offline([load_model(path) for path in paths], [1, 1], tmp_path / "merged", lambda line: None)
    for path in (grown, merged):
        made = load_model(path)
        assert made.companions == model.companions
        assert made.tokenizer().fingerprint == model.tokenizer().fingerprint
        assert evaluate(path).keys() == evaluate(alone).keys()
        assert generate(path)


def test_a_corpus_is_built_with_the_tokenizer_of_a_checkpoint(alone: Path, corpus: Path) -> None:
    assert load_tokenizer(load_model(alone).path).fingerprint == load_tokenizer(corpus).fingerprint


def test_damaged_files_are_told_and_the_corpus_serves_instead(alone: Path, corpus: Path) -> None:
    for name in load_model(alone).companions:
        path = load_model(alone).path / name
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(UserError, match="its content is not what was written"):
        load_model(alone).tokenizer()
    assert evaluate(alone, "--corpus", str(corpus))
    assert CliRunner().invoke(app, ["fsck", str(alone)]).exit_code == 1
    assert load_model(alone).params()  # which is all that another stage starts from


def test_held_out_text_that_is_too_large_stays_in_the_corpus(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: Path
) -> None:
    monkeypatch.setattr("pathways_lite.training.companions.MAX_HELD_OUT_BYTES", 10)
    names = companion_files(open_store(str(corpus)), 500)
    assert names
    assert all(name.startswith("tokenizer/") for name in names)
    expected = evaluate(uninterrupted)
    tokenizer_alone = {name: load_model(uninterrupted).companions[name] for name in names}
    monkeypatch.setattr("pathways_lite.training.load.read_companions", lambda path, manifest: tokenizer_alone)
    assert evaluate(uninterrupted) == expected


def test_files_beside_a_published_tokenizer_travel_from_the_corpus_to_the_checkpoint(tmp_path: Path) -> None:
    """An imported model's tokenizer_config.json and generation_config.json."""
    published = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<eos>": 0, "night": 1, "[UNK]": 2}, "[UNK]"))
    published.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    folder = tmp_path / "published"
    folder.mkdir()
    published.save(str(folder / "tokenizer.json"))
    companions = {"tokenizer_config.json": b'{"bos_token": "<s>"}', "generation_config.json": b'{"eos_token_id": 0}'}
    for name, content in companions.items():
        (folder / name).write_bytes(content)
    (tmp_path / "text.txt").write_text("night night " * 400)
    store = build([str(tmp_path / "text.txt")], tmp_path / "store", tokenizer=str(folder), held_out=0.1, workers=0)
    files = companion_files(store, 100)
    for name, content in companions.items():
        assert files[f"tokenizer/{name}"] == content
    tokenizer = carried_tokenizer(files, "here")
    assert tokenizer is not None
    assert tokenizer.fingerprint == store.manifest.tokenizer
    assert pickle.loads(pickle.dumps(tokenizer)).files() == tokenizer.files()


def test_a_checkpoint_without_the_files_uses_its_corpus(
    uninterrupted: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Checkpoints of earlier versions carry nothing."""
    expected = evaluate(uninterrupted), generate(uninterrupted)
    model = load_model(uninterrupted)
    monkeypatch.setattr("pathways_lite.training.load.read_companions", lambda path, manifest: {})
    assert (evaluate(uninterrupted), generate(uninterrupted)) == expected
    # What is made from it carries them.
    target = model.stage.model.model_copy(update={"n_layers": 2 * model.stage.model.n_layers})
    old = load_model(uninterrupted)
    grown = grow_offline(old, Grow(operator=Stack()), target, tmp_path / "grown", lambda line: None)
    monkeypatch.undo()
    assert load_model(grown).companions == model.companions


def test_a_finished_run_says_so_without_its_corpus_and_an_unfinished_one_says_what_to_type(
    alone: Path, recipe: Recipe, corpus: Path
) -> None:
    result = CliRunner().invoke(app, ["train", str(alone)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "is finished: nothing is left to train" in result.output
    # The recipe as it was given, not resolved.
    again = apply_overrides(recipe, [f"stages.base.data.corpus={alone.parent / 'corpus'}", "stages.base.saving.keep=9"])
    assert run(again, alone) == 0
    with pytest.raises(UserError, match=r"'stages\.\*\.data\.corpus=PLACE'"):
        run(apply_overrides(again, ["stages.base.batch_size=1"]), alone.parent / "other")
    (alone / "base" / "summary.json").unlink()
    with pytest.raises(UserError, match=r"'stages\.\*\.data\.corpus=PLACE'"):
        run(again, alone)
    assert run(apply_overrides(again, [f"stages.*.data.corpus={corpus}"]), alone) == 0


def test_a_relative_corpus_is_found_from_another_working_directory(
    recipe: Recipe, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(corpus, tmp_path / "here" / "corpora" / "x")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    relative = apply_overrides(recipe, ["stages.base.data.corpus=corpora/x"])
    assert run(relative, tmp_path / "run", StopAfter(4)) == 143
    monkeypatch.chdir(tmp_path / "there")
    assert load_model(tmp_path / "run").open_corpus().address.endswith("corpora/x")
    assert data_stream(load_reading(tmp_path / "run")).batch_at(0).tokens.size
    branch = branched(RunDirectory(tmp_path / "run"), 4, None, "1 steps")
    assert branch.stages[0].data.corpus == str(tmp_path / "here" / "corpora" / "x")
    assert run(RunDirectory(tmp_path / "run").recipe(), tmp_path / "run") == 0
