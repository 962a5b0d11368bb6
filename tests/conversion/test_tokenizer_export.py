"""What is written for transformers has our ids: bytes and SentencePiece as a tokenizer.json, others as they came."""

import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sentencepiece as spm
import tokenizers as hf
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.published_tokenizers import published, write_model
from helpers.run_helpers import run
from pathways_lite.conversion.hf_export import export_hf
from pathways_lite.conversion.hf_import import import_hf
from pathways_lite.conversion.tokenizer_export import compare_tokenizers, merges, tokenizer_files, tokenizer_json
from pathways_lite.data.build import build
from pathways_lite.data.documents import Skipped
from pathways_lite.data.sentencepiece import SentencePieceTokenizer, train_sentencepiece
from pathways_lite.data.sources import Source
from pathways_lite.data.tokenizers import ByteTokenizer, Tokenizer
from pathways_lite.errors import UserError
from pathways_lite.recipe import apply_overrides, load_recipe
from pathways_lite.training.load import TrainedModel, load_model

TORCH_PYTHON = os.environ.get("PATHWAYS_LITE_TORCH_PYTHON", sys.executable)
TEXT = Path(__file__).with_name("test_hugging_face.py").read_text() * 3 + "  indented\n\n\tTabs, Zürich…\n"
# As in tests/data/test_tokenizers.py, without U+2581 and names of tokens, of which other ids are expected.
PARTS = [*"a \n\t\r\0é漢🎉\u2028\ufffd", "the ", "  ", "42", "<0x41>"]
texts = st.one_of(st.lists(st.sampled_from(PARTS), max_size=20).map("".join), st.text(max_size=30)).filter(
    lambda text: "▁" not in text and "<unk>" not in text
)


@pytest.fixture(scope="module")
def trained() -> SentencePieceTokenizer:
    return train_sentencepiece([TEXT], 500)


@pytest.fixture(scope="module", params=["bytes", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest, trained: SentencePieceTokenizer) -> Tokenizer:
    return ByteTokenizer() if request.param == "bytes" else trained


@given(text=texts)
@settings(max_examples=100)
def test_the_json_has_our_ids_and_gives_the_text_back(tokenizer: Tokenizer, text: str) -> None:
    written = hf.Tokenizer.from_str(tokenizer_json(tokenizer, tokenizer.eod).decode())
    ids = tokenizer.encode(text)
    assert written.encode(text).ids == [tokenizer.eod, *ids]
    assert written.decode(ids) == text
    assert written.get_vocab_size() == tokenizer.vocab_size


def test_what_gets_other_ids_is_counted_and_shown(trained: SentencePieceTokenizer) -> None:
    written = tokenizer_json(trained, trained.eod)
    same = compare_tokenizers(trained, written, ["a text", TEXT])
    assert (same.texts, same.different) == (2, 0)
    assert str(same) == "the tokenizer.json gives the same ids for all 2 held-out documents"
    other = compare_tokenizers(trained, written, ["a text", "the ends of <eod> here", "a ▁ b"])
    assert (other.texts, other.different) == (3, 2)
    assert "other ids for 2 of 3 held-out documents, such as for 'ends of <eod> here'" in str(other)
    assert "was not compared" in str(compare_tokenizers(trained, written, []))


def test_merges_are_those_of_the_scores() -> None:
    pairs = merges({"a": -5.0, "b": -4.0, "ab": 0.0, "aba": -1.0, "bab": -1.0})
    assert pairs == [("a", "b"), ("ab", "a"), ("b", "ab")]


def sentencepiece_model(**options: Any) -> SentencePieceTokenizer:
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()), model_writer=model, minloglevel=2, hard_vocab_limit=False,
        **{"vocab_size": 300} | options,
    )  # fmt: skip
    return SentencePieceTokenizer(model.getvalue())


LOSSLESS = {"normalization_rule_name": "identity", "add_dummy_prefix": False, "remove_extra_whitespaces": False}


@pytest.mark.parametrize("options", [{}, {"model_type": "bpe"}, LOSSLESS], ids=["unigram", "bpe", "lossless unigram"])
def test_models_of_others_have_our_ids_too(options: dict[str, Any]) -> None:
    """With NFKC and a space before the text, as the library's defaults are."""
    tokenizer = sentencepiece_model(**options)
    written = tokenizer_json(tokenizer, None)
    lines = [line for line in TEXT.splitlines() if line.strip()]
    assert compare_tokenizers(tokenizer, written, lines).different <= len(lines) // 50
    theirs = hf.Tokenizer.from_str(written.decode())
    assert theirs.decode(theirs.encode("two words").ids) == "two words"


def test_models_of_words_are_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match=r"of words or characters has no form as a tokenizer.json"):
        tokenizer_json(sentencepiece_model(model_type="char", vocab_size=60), None)


@pytest.fixture(scope="module")
def tiny_run(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on a corpus of bytes."""
    directory = tmp_path_factory.mktemp("run")
    assert run(load_recipe(recipe_file), directory) == 0
    return directory


def exported(trained: TrainedModel, out: Path) -> tuple[Path, list[str]]:
    said: list[str] = []
    return export_hf(trained, out, dtype="float32", shard_bytes=10**9, report=said.append), said


def test_files_of_others_are_written_as_they_came(tmp_path: Path) -> None:
    files = published(adds_bos=True)
    source = write_model(tmp_path / "hf", files)
    out, _ = exported(load_model(import_hf(source, tmp_path / "ours", None, lambda line: None)), tmp_path / "out")
    written = {path.name: path.read_bytes() for path in out.iterdir()}
    assert {name: written.get(name) for name in files} == files
    assert written.keys() == files.keys() | {"config.json", "model.safetensors"}


def test_a_run_is_written_with_its_tokenizer(tiny_run: Path, tmp_path: Path) -> None:
    out, said = exported(load_model(tiny_run), tmp_path / "out")
    read = {name: json.loads((out / name).read_text()) for name in ("tokenizer_config.json", "generation_config.json")}
    assert read["tokenizer_config.json"].items() >= {"bos_token": "<eod>", "eos_token": "<eod>"}.items()
    assert read["generation_config.json"]["eos_token_id"] == 256
    config = json.loads((out / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (256, 256)
    held_out = sum(len(list(load_model(tiny_run).held_out_documents().held_out(d, 500))) for d in ("poems", "tales"))
    assert held_out > 5
    assert [line for line in said if "the same ids for all" in line]
    # It comes back as an import that generates as the run does.
    again = load_model(import_hf(out, tmp_path / "again", None, lambda line: None))
    tokenizer = again.tokenizer()
    assert again.prompt_tokens(tokenizer) == ((256,), (256,))
    assert tokenizer.encode("é the") == ByteTokenizer().encode("é the")


def test_every_file_is_there_where_nothing_came(trained: SentencePieceTokenizer) -> None:
    files = tokenizer_files(trained, trained.eod, [trained.eod, 0], 64)
    assert files.keys() == {"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "generation_config.json"}
    assert json.loads(files["generation_config.json"])["eos_token_id"] == [trained.eod, 0]
    nothing_before = json.loads(tokenizer_files(trained, None, [trained.eod], 64)["tokenizer.json"])
    assert nothing_before["post_processor"] is None


@pytest.mark.slow
def test_a_thousand_documents_have_the_same_ids() -> None:
    """Of text on which the vocabulary was not trained: the sources and documentation of Python."""
    documents = []
    for chunk in Source.parse("python:").chunks():
        documents += [item.text[:20_000] for item in chunk.read() if not isinstance(item, Skipped)]
        if len(documents) > 3000:
            break
    random.Random(0).shuffle(documents)
    held_out = [text for text in documents[600:] if "<eod>" not in text and "▁" not in text][:1000]
    assert len(held_out) == 1000
    for tokenizer in (ByteTokenizer(), train_sentencepiece(documents[:600], 4096)):
        compared = compare_tokenizers(tokenizer, tokenizer_json(tokenizer, tokenizer.eod), held_out)
        assert (compared.texts, compared.different) == (1000, 0)


GENERATE = """
import json, sys
import torch, transformers
directory, prompt = sys.argv[1:]
tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
out = model.generate(**inputs, max_new_tokens=32, do_sample=False)[0].tolist()
print(json.dumps({"ids": inputs["input_ids"][0].tolist(), "new": out[inputs["input_ids"].shape[1]:],
                  "decoded": tokenizer.decode(tokenizer(prompt)["input_ids"], skip_special_tokens=True)}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bytes", "sentencepiece", "published", "published with BOS"])
def test_transformers_reads_the_same_ids_and_generates_the_same_tokens(
    kind: str, recipe_file: Path, corpus: Path, tmp_path: Path
) -> None:
    from pathways_lite.objectives.prompts import Prompt
    from pathways_lite.sampling import GREEDY, Request, Sampler

    if subprocess.run([TORCH_PYTHON, "-c", "import torch, transformers"], capture_output=True).returncode:
        pytest.skip(f"torch and transformers are not installed in {TORCH_PYTHON}; see PATHWAYS_LITE_TORCH_PYTHON")
    if kind.startswith("published"):
        source = write_model(tmp_path / "hf", published(adds_bos="BOS" in kind))
        model = load_model(import_hf(source, tmp_path / "ours", None, lambda line: None))
    else:
        place = corpus
        if kind == "sentencepiece":
            place = tmp_path / "corpus"
            lines = TEXT.splitlines(keepends=True)
            records = [{"text": "".join(lines[i : i + 20])} for i in range(0, len(lines), 20)]
            (tmp_path / "text.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
            build([str(tmp_path / "text.jsonl")], place, tokenizer="sentencepiece:500", held_out=0.2, workers=0)
        changes = [
            f"stages.base.data.corpus={place}",
            "stages.base.model.vocab_size=512",
            "stages.base.model.dropout=0",
        ]
        assert run(apply_overrides(load_recipe(recipe_file), changes), tmp_path / "run") == 0
        model = load_model(tmp_path / "run")
    out, said = exported(model, tmp_path / "out")
    assert kind.startswith("published") or [line for line in said if "the same ids for all" in line]
    prompt = "def test(tokenizer):\n    return 42  # é"
    command = [TORCH_PYTHON, "-c", GENERATE, str(out), prompt]
    result = subprocess.run(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    theirs = json.loads(result.stdout.splitlines()[-1])

    tokenizer = model.tokenizer()
    opener, ends = model.prompt_tokens(tokenizer)
    opened = list(opener) if opener is not None else [model.frame().opens]
    assert theirs["ids"] == [*opened, *tokenizer.encode(prompt)]
    assert theirs["decoded"] == prompt
    config = model.stage.model.model_copy(update={"dtype": "float32"})
    ask = Prompt(theirs["ids"], 0, ends[0])
    sampler = Sampler.of_params(config, model.params(), {*model.frame().ids, *ends}, rows=1)
    ours = next(sampler.sample([Request(ask, GREEDY, 32)])).answer
    assert len(ours) > 3
    assert theirs["new"][: len(ours)] == ours
    assert len(theirs["new"]) == len(ours) or theirs["new"][len(ours)] in (*ends, *model.frame().ids)
