"""Load and save tokenizers: of a token store, a SentencePiece `.model`, or a `tokenizer.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pathways_lite.data.tokenizers import (
    BYTES_FILE,
    EOD_FILE,
    HF_COMPANIONS,
    HF_FILE,
    SENTENCEPIECE_FILE,
    ByteTokenizer,
    HFTokenizer,
    Tokenizer,
)
from pathways_lite.errors import UserError
from pathways_lite.paths import local_path

TOKENIZER_FILES = (BYTES_FILE, SENTENCEPIECE_FILE, HF_FILE, EOD_FILE, *HF_COMPANIONS)


def tokenizer_from_files(files: Mapping[str, bytes], name: str, eod: str | None = None) -> Tokenizer:
    """Make the tokenizer whose `files()` these are. Errors call it `name`. Raises UserError.

    `eod`: the token that marks the end of a document, instead of the one that the files name.
    """
    if BYTES_FILE in files:
        if eod is not None:
            raise UserError(f"{name} is the bytes, which have an end-of-document token of their own; leave out --eod")
        return ByteTokenizer()
    if eod is None and EOD_FILE in files:
        eod = str(json.loads(files[EOD_FILE])["eod"])
    if SENTENCEPIECE_FILE in files:
        from pathways_lite.data.sentencepiece import SentencePieceTokenizer

        return SentencePieceTokenizer(files[SENTENCEPIECE_FILE], name, eod)
    if HF_FILE in files:
        companions = {file: files[file] for file in HF_COMPANIONS if file in files}
        return HFTokenizer(files[HF_FILE], name, eod, companions)
    expected = (BYTES_FILE, SENTENCEPIECE_FILE, HF_FILE)
    raise UserError(f"{name} holds no tokenizer; expected one of: {', '.join(expected)}")


def load_tokenizer(path: str | Path, eod: str | None = None) -> Tokenizer:
    """Load a tokenizer from a `.model` file, a `tokenizer.json` file, or a directory that holds one.

    A token store is such a directory too, and so is a checkpoint. `eod`: see `tokenizer_from_files`. Raises UserError.
    """
    path = local_path(path)
    if path.is_dir():
        directory = path / "tokenizer" if (path / "tokenizer").is_dir() else path
        files = {name: (directory / name).read_bytes() for name in TOKENIZER_FILES if (directory / name).is_file()}
        models = sorted(directory.glob("*.model"))
        if not files.keys() - {EOD_FILE, *HF_COMPANIONS} and len(models) == 1:
            files[SENTENCEPIECE_FILE] = models[0].read_bytes()
        return tokenizer_from_files(files, str(directory), eod)
    if not path.is_file():
        raise UserError(f"{path}: no such file; a tokenizer is bytes, sentencepiece:SIZE, a .model or a tokenizer.json")
    if path.suffix not in (".model", ".json"):
        raise UserError(f"{path} is no tokenizer file; expected a SentencePiece .model or an HF tokenizer.json")
    name = SENTENCEPIECE_FILE if path.suffix == ".model" else HF_FILE
    return tokenizer_from_files({name: path.read_bytes()}, str(path), eod)


def save_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Write the tokenizer so that `load_tokenizer(directory)` returns it."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in tokenizer.files().items():
        (directory / name).write_bytes(content)
