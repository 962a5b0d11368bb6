"""Load and save tokenizers: of a token store, a SentencePiece `.model`, or a `tokenizer.json`.

A tokenizer is *stored*, as a corpus or a checkpoint holds it, or *published*, as it came with somebody's model. A
stored one says all that matters by itself; of a published one the files beside it say which token ends a document.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pathways_lite.checkpoint_names import checkpoint_name, checkpoint_steps
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
from pathways_lite.errors import UserError, closest_names, did_you_mean, similar_path
from pathways_lite.paths import local_path

TOKENIZER_FILES = (BYTES_FILE, SENTENCEPIECE_FILE, HF_FILE, EOD_FILE, *HF_COMPANIONS)


def tokenizer_from_files(
    files: Mapping[str, bytes], name: str, eod: str | None = None, *, published: bool = False
) -> Tokenizer:
    """Make the tokenizer whose `files()` these are. Errors call it `name`. Raises UserError.

    `eod`: the token that marks the end of a document, instead of the one that the files name. `published`: the files
    came with somebody's model; without `eod` the EOS of tokenizer_config.json and generation_config.json is that token.
    """
    if BYTES_FILE in files:
        if eod is not None:
            raise UserError(f"{name} is the bytes, which have an end-of-document token of their own; leave out --eod")
        return ByteTokenizer()
    if eod is None and EOD_FILE in files:
        eod = str(json.loads(files[EOD_FILE])["eod"])
    companions = {file: files[file] for file in HF_COMPANIONS if file in files}
    if SENTENCEPIECE_FILE in files:
        from pathways_lite.data.sentencepiece import SentencePieceTokenizer

        return SentencePieceTokenizer(files[SENTENCEPIECE_FILE], name, eod, companions, published=published)
    if HF_FILE in files:
        return HFTokenizer(files[HF_FILE], name, eod, companions, published=published)
    expected = (BYTES_FILE, SENTENCEPIECE_FILE, HF_FILE)
    raise UserError(f"{name} holds no tokenizer; expected one of: {', '.join(expected)}")


def load_tokenizer(path: str | Path, eod: str | None = None) -> Tokenizer:
    """Load a tokenizer from a `.model` file, a `tokenizer.json` file, or a directory that holds one.

    A token store is such a directory too, and so is a checkpoint, a stage or a run, of which the newest checkpoint
    counts. `eod`: see `tokenizer_from_files`. Raises UserError.
    """
    path = local_path(path)
    if path.is_dir():
        if (stored := stored_tokenizer(path)) is not None:
            return tokenizer_from_files(_read_files(stored), str(stored), eod)
        return tokenizer_from_files(read_published_files(path), str(path), eod, published=True)
    if not path.is_file():
        expected = "a tokenizer is bytes, sentencepiece:SIZE, a .model or a tokenizer.json"
        raise UserError(f"{path}: no such file; {expected}{similar_path(path) or _similar_kind(str(path))}")
    if path.suffix not in (".model", ".json"):
        raise UserError(f"{path} is no tokenizer file; expected a SentencePiece .model or an HF tokenizer.json")
    name = SENTENCEPIECE_FILE if path.suffix == ".model" else HF_FILE
    return tokenizer_from_files({name: path.read_bytes()}, str(path), eod)


def _similar_kind(request: str) -> str:
    """Return a hint at a kind of tokenizer that was misspelled: `. Did you mean 'sentencepiece:1024'?`; or ""."""
    kind, colon, size = request.partition(":")
    close = closest_names(kind, ("sentencepiece", "seqio") if colon else (ByteTokenizer.kind,))
    return f".{did_you_mean(request, (), meant=f'{close[0]}{colon}{size}')}" if close else ""


def stored_tokenizer(path: Path) -> Path | None:
    """Return the directory of the tokenizer that a corpus, checkpoint, stage or run keeps; None where it keeps none."""
    of_stages = sorted(path.glob("*/checkpoints"), key=lambda place: place.stat().st_mtime, reverse=True)
    for place in (path, path / "checkpoints", *of_stages):
        steps = checkpoint_steps(place)
        directory = (place / checkpoint_name(steps[-1]) if steps else place) / "tokenizer"
        if directory.is_dir():
            return directory
    return None


def read_published_files(directory: Path) -> dict[str, bytes]:
    """Read the files of the tokenizer in a directory, such as one of a Hugging Face model, by the names we store.

    A SentencePiece model may have any name; it counts where there is no tokenizer.json. Without a tokenizer, the result
    holds neither.
    """
    files = _read_files(directory)
    models = [directory / "tokenizer.model"] if "tokenizer.model" in files else sorted(directory.glob("*.model"))
    if not has_tokenizer(files) and len(models) == 1:
        files.pop(models[0].name, None)
        files[SENTENCEPIECE_FILE] = models[0].read_bytes()
    return files


def has_tokenizer(files: Mapping[str, bytes]) -> bool:
    """Return whether there is a tokenizer among some files, and not only what belongs beside one."""
    return any(name in files for name in (BYTES_FILE, SENTENCEPIECE_FILE, HF_FILE))


def _read_files(directory: Path) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in TOKENIZER_FILES if (directory / name).is_file()}


def save_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Write the tokenizer so that `load_tokenizer(directory)` returns it."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in tokenizer.files().items():
        (directory / name).write_bytes(content)
