"""The tokenizer of a build: loaded, or trained on a sample of the sources."""

from __future__ import annotations

import hashlib
import heapq
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from pathways_lite.atomic_file import replace_atomically
from pathways_lite.data.documents import Document, InputChunk
from pathways_lite.data.sources import Source
from pathways_lite.data.tokenizer_files import load_tokenizer, save_tokenizer
from pathways_lite.data.tokenizers import ByteTokenizer, Tokenizer
from pathways_lite.errors import UserError

# Text that a tokenizer is trained on, per token of its vocabulary: a token that is rarer than once in 256 bytes times
# the vocabulary size is seldom worth its place. The bound keeps training of the largest vocabularies to a few minutes.
SAMPLE_BYTES_PER_TOKEN, MAX_SAMPLE_BYTES = 256, 64 << 20
_FEW = 0.5  # of the text that a vocabulary should have
_LEAST_VOCABULARY = 512  # with 256 bytes among them; below it bytes do as well
_TRAINED = "sentencepiece"

TokenizerPhase = Literal["sample", "train tokenizer"]


def tokenizer_identity(request: str | Tokenizer) -> str:
    """Return what, together with the sources, determines the tokenizer; its path does not matter."""
    if not isinstance(request, str):
        return request.fingerprint
    if request == ByteTokenizer.kind:
        return request
    if request.startswith(f"{_TRAINED}:"):
        trained_size(request)
        return request
    return load_tokenizer(request).fingerprint


def trained_size(request: str) -> int | None:
    """Return SIZE of `sentencepiece:SIZE`, and None for others. Raises UserError if it is no number of tokens."""
    if not request.startswith(f"{_TRAINED}:"):
        return None
    size = request.removeprefix(f"{_TRAINED}:")
    if not size.isdigit() or not int(size):
        raise UserError(f"--tokenizer {request}: {size!r} is not a number of tokens; write e.g. {_TRAINED}:8192")
    return int(size)


def vocabulary_note(request: str, text_bytes: int) -> str:
    """Say that a tokenizer which `data build` trains has too many tokens for its text; "" where it has not.

    `request`: as of --tokenizer; `text_bytes`: of the text that it is trained on.
    """
    size = trained_size(request)
    if size is None or text_bytes >= SAMPLE_BYTES_PER_TOKEN * size * _FEW:
        return ""
    fitting = 1 << max(0, (text_bytes // SAMPLE_BYTES_PER_TOKEN).bit_length() - 1)
    instead = "--tokenizer bytes" if fitting < _LEAST_VOCABULARY else f"--tokenizer sentencepiece:{fitting}"
    return (
        f"A vocabulary of {size:,} tokens is large for {text_bytes:,} bytes of text, {text_bytes // size:,} for each: "
        f"most tokens are read so rarely that a model learns little of them. {instead} suits that much text; "
        f"{SAMPLE_BYTES_PER_TOKEN} bytes for each token are a good measure."
    )


def load_or_train_tokenizer(
    directory: Path, request: str | Tokenizer, sources: Sequence[Source], report_phase: Callable[[TokenizerPhase], None]
) -> Tokenizer:
    """Return the requested tokenizer; a trained one is saved in `directory`, so that it is trained only once."""
    if not isinstance(request, str):
        return request
    if request == ByteTokenizer.kind:
        return ByteTokenizer()
    if (size := trained_size(request)) is None:
        return load_tokenizer(request)
    trained = _load_trained(directory)
    if trained is None:
        from pathways_lite.data.sentencepiece import train_sentencepiece

        report_phase("sample")
        texts = sample_texts(sources, min(SAMPLE_BYTES_PER_TOKEN * size, MAX_SAMPLE_BYTES))
        report_phase("train tokenizer")
        with replace_atomically(directory) as temporary:
            save_tokenizer(train_sentencepiece(texts, size), temporary)
        trained = load_tokenizer(directory)
    return trained


def _load_trained(directory: Path) -> Tokenizer | None:
    """Load the tokenizer that an earlier process has trained; None if there is none that can be read."""
    if not directory.exists():
        return None
    try:
        return load_tokenizer(directory)
    except UserError:  # of a machine that lost its power
        shutil.rmtree(directory)
        return None


def sample_texts(sources: Sequence[Source], size: int) -> list[str]:
    """Sample about `size` bytes of text, spread evenly over all chunks of the sources; deterministic."""
    chosen: list[tuple[int, int, InputChunk]] = []  # a heap, the largest key first
    total = 0
    chunks = (chunk for source in sources for chunk in source.chunks() if chunk.size)
    for number, chunk in enumerate(chunks):
        key = int.from_bytes(hashlib.blake2b(str(number).encode(), digest_size=8).digest())
        heapq.heappush(chosen, (-key, number, chunk))
        total += chunk.size
        while total - chosen[0][2].size >= size:
            total -= heapq.heappop(chosen)[2].size
    # So that a single huge chunk does not crowd out the others.
    allowance = max(1 << 16, 2 * size // max(1, len(chosen)))
    texts = []
    for _, _, chunk in sorted(chosen, key=lambda entry: entry[1]):
        remaining = allowance
        for item in chunk.read():
            if isinstance(item, Document):
                texts.append(item.text[:remaining])
                remaining -= len(item.text)
            if remaining <= 0:
                break
    return texts
