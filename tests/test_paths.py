"""Paths as users write them: what the shell can use works, everything else is a sentence."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathways_lite.checkpoints import CheckpointManager, fsck
from pathways_lite.data.build import build
from pathways_lite.data.sources import Source
from pathways_lite.data.store import open_store
from pathways_lite.data.tokenizer_files import load_tokenizer
from pathways_lite.errors import UserError
from pathways_lite.paths import absolute_path, local_path, storage_address, url_scheme
from pathways_lite.recipe import load_recipe
from pathways_lite.scaling.table import read_table
from pathways_lite.studies.study import load_study
from pathways_lite.tracking.run_data import read_run
from pathways_lite.training.load import load_model

SPELLINGS = ["{}", "./{}", "{}/", "../here/{}", "{}/../{}", "../link/{}", "link_of_its_own", "~/here/{}"]
NAMES = ["plain", "with space", "naïve 漢字 🌊", "a%23#?&=1", "[red]", "-dash", "semi:colon", "dots.."]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, below $HOME; `../link` is a link to it."""
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to("here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "here"


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_is_whole_by_any_of_its_names(here: Path, name: str) -> None:
    (here / "link_of_its_own").symlink_to(name)
    for step, spelling in enumerate(SPELLINGS, 1):
        written = spelling.format(name, name)
        with CheckpointManager(written if written[0] != "-" else f"./{written}") as manager:
            manager.save(step, {"x": np.arange(6.0)}, {})
        assert all(finding.ok for finding in fsck(written)), written
    assert len(fsck(here / name)) == len(SPELLINGS)
    assert sorted(path.name for path in here.iterdir()) == sorted([name, "link_of_its_own"])


def test_a_checkpoint_is_found_from_within(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with CheckpointManager("run") as manager:
        manager.save(3, {"x": np.arange(6.0)}, {})
    (here / "best").symlink_to("run/step_00000003")
    assert [finding.ok for finding in fsck("best")] == [True]
    monkeypatch.chdir(here / "run" / "step_00000003" / "arrays")
    assert [finding.ok for finding in fsck("..")] == [True]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_corpus_is_built_and_read_by_any_of_its_names(here: Path, spelling: str) -> None:
    (here / "text.txt").write_text("one two three\n")
    if "own" in spelling:
        (here / "corp").mkdir()
        (here / "link_of_its_own").symlink_to("corp")
    written = spelling.format("corp", "corp")
    (here / "corp").mkdir(exist_ok=True)  # so that `corp/..` is a path
    build(["~/here/text.txt"], written, tokenizer="bytes", held_out=0.0, workers=0)
    assert open_store(written).fingerprint == open_store(str(here / "corp")).fingerprint
    assert load_tokenizer(written).vocab_size == 257
    assert not list(here.rglob("*building"))


@given(st.sampled_from(["gs", "s3", "hf", "http", "https", "file", "hdfs", "abfs", "GS", "memory", "x-y+z.1"]))
def test_a_url_is_no_path(scheme: str) -> None:
    url = f"{scheme}://bucket/runs/a"
    assert url_scheme(url) == scheme.lower()
    readers = (local_path, load_recipe, load_study, load_model, read_run, read_table, load_tokenizer, fsck)
    for read in (*readers, CheckpointManager, lambda text: Source.parse(text).files()):
        with pytest.raises(UserError, match=re.escape(f"{scheme.lower()}://")):
            read(url)
    if scheme.lower() in ("gs", "s3"):
        assert storage_address(url) == url
    else:
        with pytest.raises(UserError, match="not a supported storage"):
            open_store(url)


@pytest.mark.parametrize("url", ["gs://bucket/x", "s3://bucket/x", "hf://datasets/x", "https://host/x"])
def test_a_url_that_became_a_path_is_told_too(url: str) -> None:
    with pytest.raises(UserError, match=url.partition("://")[0]):
        local_path(Path(url))


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=20))
def test_other_names_keep_their_characters(name: str) -> None:
    if name not in (".", "~") and not name.startswith("~"):
        assert str(local_path(name)) == name
        assert str(local_path(local_path(name))) == name


def test_what_is_no_path_is_a_sentence(here: Path) -> None:
    for text, words in (("", "empty"), ("a\0b", "zero byte"), ("~nobody-here/x", "no user"), ("caf\udce9", "UTF-8")):
        with pytest.raises(UserError, match=words):
            local_path(text)
    with pytest.raises(UserError, match=r"write the path alone: /tmp/x"):
        local_path("file:///tmp/x")


def test_a_directory_that_is_not_utf8_is_named_and_not_damaged(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with CheckpointManager("run") as manager:
        manager.save(1, {"x": np.arange(6.0)}, {})
    odd = os.fsencode(here) + b"/caf\xe9"
    os.rename(here / "run", odd)  # noqa: PTH104  pathlib has no bytes
    monkeypatch.chdir(os.fsdecode(odd))
    with pytest.raises(UserError, match=r"caf\\udce9 is not UTF-8; rename it"):
        fsck(".")


def test_two_dots_after_a_link_are_the_parent_of_its_target(here: Path) -> None:
    (here / "deep" / "target").mkdir(parents=True)
    (here / "short").symlink_to("deep/target")
    assert absolute_path("short/../x") == str(here.resolve() / "deep" / "x")
