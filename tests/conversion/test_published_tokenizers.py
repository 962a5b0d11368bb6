"""An imported model brings its tokenizer, so that it generates text and is evaluated where only its checkpoint is."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from helpers.published_tokenizers import as_json, byte_level, published, write_model
from pathways_lite.cli.main import app
from pathways_lite.conversion.grow_and_merge import grow_offline
from pathways_lite.conversion.hf_import import import_hf
from pathways_lite.data.build import build
from pathways_lite.data.sentencepiece import train_sentencepiece
from pathways_lite.data.store import open_store
from pathways_lite.data.tokenizer_files import load_tokenizer
from pathways_lite.errors import UserError
from pathways_lite.evaluation.generation import generate
from pathways_lite.recipe import Grow, Stack
from pathways_lite.training.load import TrainedModel, load_model
from pathways_lite.training.stage import StageSpec

TEXT = "The river runs to the sea, and the sea is not full.\n" * 40


def imported(source: Path, out: Path, **options: Any) -> tuple[TrainedModel, list[str]]:
    said: list[str] = []
    return load_model(import_hf(source, out, None, report=said.append, **options)), said


def run(*arguments: object) -> Any:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of an imported model whose files are gone."""
    place = tmp_path_factory.mktemp("imported")
    source = write_model(place / "hf", published(adds_bos=True))
    path = imported(source, place / "ours")[0].path
    shutil.rmtree(source)
    return path


def test_all_files_of_the_tokenizer_are_carried_as_they_came(tmp_path: Path) -> None:
    files = published(**{"special_tokens_map.json": as_json(bos_token="<s>"), "merges.txt": b"#version: 0.2\n"})
    trained, said = imported(write_model(tmp_path / "hf", files), tmp_path / "ours")
    assert {name.removeprefix("tokenizer/"): content for name, content in trained.companions.items()} == files
    assert trained.manifest.meta["tokenizer"] == trained.tokenizer().fingerprint
    assert any("BOS 257, nothing before a text, EOS 258 256, EOD 256" in line for line in said)
    target = trained.stage.model.model_copy(update={"n_layers": 2 * trained.stage.model.n_layers})
    grown = load_model(grow_offline(trained, Grow(operator=Stack()), target, tmp_path / "grown", lambda line: None))
    assert grown.companions == trained.companions
    assert grown.is_imported


def test_special_ids_of_config_json_count_last(tmp_path: Path) -> None:
    only = {"tokenizer.json": byte_level(special=("<end>", "<s>"))}
    source = write_model(tmp_path / "hf", only, eos_token_id=[256], bos_token_id=257)
    trained, _ = imported(source, tmp_path / "ours")
    tokenizer = trained.tokenizer()
    assert (tokenizer.eod, tokenizer.control.eos, tokenizer.control.bos) == (256, (256,), 257)
    assert tokenizer.control.prefix == ()


def test_an_import_is_used_from_anywhere_without_a_corpus(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    options = ("--temperature", 0, "--max-tokens", 8, "--json")
    assert run("generate", alone, "--prompt", "The river", *options)["samples"][0].startswith("The river")
    result = run("evaluate", alone, "--text", "text.txt", "--seq-len", 64, "--json")
    assert result["seq_len"] == 64
    domain = result["domains"]["text.txt"]
    assert (domain["bytes"], domain["tokens"]) == (len(TEXT), len(TEXT) + 1)
    assert CliRunner().invoke(app, ["inspect", str(alone)]).exit_code == 0

    # The text is scored after BOS, which this tokenizer puts before it, and before EOS.
    model = load_model(alone)
    (document,) = model.evaluator(seq_len=64, documents=held_out(model)).documents["text"]
    assert (document.tokens[0], document.end, model.frame()) == (257, 256, (257, 256))


def held_out(model: TrainedModel) -> Any:
    from pathways_lite.data.held_out_text import HeldOutText

    return HeldOutText.of_texts({"text": TEXT}, model.tokenizer(), model.frame())


def test_the_lines_of_the_library_page_for_imports_run(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parents[2] / "docs" / "library.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text().partition("## Imported models")[2], re.DOTALL)[:1]
    exec(code.replace("runs/llama", str(alone)).replace("max_tokens=40", "max_tokens=2"), {})
    assert float(capsys.readouterr().out.splitlines()[-1]) > 0


def test_a_corpus_is_built_with_an_import_and_records_its_tokenizer(alone: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "more.txt").write_text(TEXT)
    sources = [str(tmp_path / "text.txt"), str(tmp_path / "more.txt")]
    store = build(sources, tmp_path / "corpus", tokenizer=str(alone.parent), held_out=0.5, workers=0)
    model = load_model(alone)
    assert store.manifest.tokenizer == model.manifest.meta["tokenizer"]
    assert store.tokenizer().files() == model.tokenizer().files()
    assert model.open_corpus(str(tmp_path / "corpus")).frame == (256, None)
    # The same ids with another token between documents do as well, other ids do not.
    other = build(sources, tmp_path / "other", tokenizer=str(write_json(tmp_path)), held_out=0.5, workers=0)
    assert model.open_corpus(other.address).fingerprint == open_store(other.address).fingerprint
    build(sources, tmp_path / "bytes", tokenizer="bytes", held_out=0.5, workers=0)
    with pytest.raises(UserError, match=r"build the corpus with --tokenizer .*ours"):
        model.open_corpus(str(tmp_path / "bytes"))


def write_json(directory: Path) -> Path:
    (directory / "tokenizer.json").write_bytes(byte_level(adds_bos=True))
    return directory / "tokenizer.json"


def test_an_import_without_a_tokenizer_says_what_to_pass(tmp_path: Path) -> None:
    source = write_model(tmp_path / "hf", {"generation_config.json": as_json(eos_token_id=2)})
    trained, said = imported(source, tmp_path / "ours")
    assert [line for line in said if "carries no tokenizer: pass --tokenizer PLACE here, or --corpus CORPUS" in line]
    assert not trained.companions
    with pytest.raises(UserError, match=r"imported without a tokenizer; name a corpus .* again with --tokenizer PLACE"):
        trained.tokenizer()
    with pytest.raises(UserError, match="built by: pathways-lite data build"):
        trained.evaluator()
    place = tmp_path / "elsewhere"
    place.mkdir()
    for name, content in published().items():
        (place / name).write_bytes(content)
    assert imported(source, tmp_path / "again", tokenizer=place)[0].tokenizer().control.eos == (258, 256)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"--tokenizer .*empty holds no tokenizer; name a directory with"):
        imported(source, tmp_path / "third", tokenizer=empty)
    with pytest.raises(UserError, match=r"--tokenizer .*nowhere: no such file or directory"):
        imported(source, tmp_path / "third", tokenizer=tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"tokenizer_config.json of .* is no JSON"):
        imported(write_model(tmp_path / "hf", published(**{"tokenizer_config.json": b"{"})), tmp_path / "fourth")


@pytest.mark.parametrize("place", ["", "step_00000000", "of a stage", "of a run"])
def test_a_tokenizer_is_taken_from_a_run_or_checkpoint(place: str, alone: Path, tmp_path: Path) -> None:
    carrying = alone if place.startswith("step") else alone.parent
    if place.startswith("of"):
        carrying = tmp_path / "run"
        shutil.copytree(alone, carrying / "base" / "checkpoints" / alone.name)
        carrying = carrying if place == "of a run" else carrying / "base"
    source = write_model(tmp_path / "hf", {})
    trained, _ = imported(source, tmp_path / "ours", tokenizer=carrying)
    assert trained.companions == load_model(alone).companions
    assert load_tokenizer(carrying).fingerprint == trained.tokenizer().fingerprint


def test_a_sentencepiece_model_comes_along(tmp_path: Path) -> None:
    trained = train_sentencepiece([TEXT], 290)
    files = {
        "tokenizer.model": trained.files()["sentencepiece.model"],
        "tokenizer_config.json": as_json(tokenizer_class="GemmaTokenizer", eos_token="<eod>", add_bos_token=False),
    }
    model, _ = imported(write_model(tmp_path / "hf", files), tmp_path / "ours")
    assert model.tokenizer().fingerprint == trained.fingerprint
    assert model.tokenizer().encode(TEXT) == trained.encode(TEXT)
    assert model.tokenizer().files()["tokenizer_config.json"] == files["tokenizer_config.json"]


def test_prompts_open_as_the_tokenizer_says_and_any_eos_ends_the_answer(alone: Path, tmp_path: Path) -> None:
    import jax

    model = load_model(alone)
    tokenizer, params, config = model.tokenizer(), model.params(), model.stage.model
    opener, ends = model.prompt_tokens(tokenizer)
    assert (opener, ends) == ((257,), (258, 256))

    class Ids:
        """The tokenizer, with ids in place of the text of an answer."""

        eod = tokenizer.eod
        encode = staticmethod(tokenizer.encode)

        @staticmethod
        def decode(ids: list[int]) -> str:
            return "".join(f"{i} " for i in ids)

    def greedy(prompt: str, **options: Any) -> list[int]:
        key = jax.random.key(0)
        text = generate(config, params, Ids(), prompt, max_tokens=8, temperature=0, key=key, **options)
        return [int(i) for i in text.split()]

    # The answers of a random model differ by what opens them, and end before any of the ends.
    answers = {first: greedy("sea", opener=first) for first in ((257,), (3,), ())}
    assert len(set(map(tuple, answers.values()))) > 1
    answer = answers[257,]
    assert len(answer) > 2
    assert greedy("sea", opener=opener, ends=(1, answer[2])) == answer[: answer.index(answer[2])]
    assert greedy("", opener=()) == greedy("")  # something has to come first

    data = model.stage.data.model_copy(update={"corpus": "somewhere"})
    recipe = model.spec.recipe.copy_unchecked(stages=(model.stage.model_copy(update={"data": data}),))
    assert replace(model, spec=StageSpec(recipe, 0)).prompt_tokens(tokenizer) == (None, (258, 256))


def test_the_length_of_windows_is_sensible_without_being_asked(tmp_path: Path) -> None:
    trained, _ = imported(write_model(tmp_path / "hf", published(), max_position_embeddings=131_072), tmp_path / "ours")
    assert trained.stage.data.seq_len == 131_072
    assert trained.evaluated_seq_len == 2048
    assert trained.evaluator(documents=held_out(trained)).scorer.seq_len == 2048
    assert trained.evaluator(documents=held_out(trained), seq_len=4096).scorer.seq_len == 4096
    with pytest.raises(UserError, match="use at most 4095"):
        trained.evaluator(documents=held_out(trained), seq_len=4096, overlap=4096)
    shorter, _ = imported(write_model(tmp_path / "hf", published()), tmp_path / "short")
    assert shorter.evaluated_seq_len == shorter.stage.data.seq_len == 128
    assert np.isfinite(shorter.evaluator(documents=held_out(shorter)).evaluate(shorter.params())["text"].loss)


def test_what_is_refused_is_refused_before_anything_is_said(alone: Path, tmp_path: Path) -> None:
    source = write_model(tmp_path / "hf", published())
    for arguments in (
        ("convert", source, alone.parent, "--from", "hf"),
        ("merge", alone.parent, alone, alone),
    ):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert isinstance(result.exception, UserError)
        assert "exists; name another directory" in str(result.exception)
        assert result.output == ""


def test_inspect_shows_nothing_that_an_import_has_not_done(alone: Path) -> None:
    shown = CliRunner().invoke(app, ["inspect", str(alone)], env={"COLUMNS": "200"}).stdout
    assert "stage imported, nothing trained here" in shown
    assert "step 0 of" not in shown
    assert "goodput" not in shown
    assert f"parameters alone {load_model(alone).manifest.params_digest[:16]}" in shown
