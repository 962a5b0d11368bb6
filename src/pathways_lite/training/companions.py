"""The companion files of a training checkpoint: its tokenizer, and the held-out text that it is evaluated on.

    tokenizer/...     what `Tokenizer.files` returns; of an imported model also the files that came with it
    document_frame.json  the ids that open and close documents, where those are not the tokenizer's EOD alone
    held_out.npz      the documents of the stage's evaluation (`data.held_out_text`), where they are not too large

With them a checkpoint is evaluated, and generates text, wherever it is: after the corpus has moved, on another machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pathways_lite.data.control_tokens import generation_config_of
from pathways_lite.data.held_out_text import HeldOutText
from pathways_lite.data.store import Store
from pathways_lite.data.tokenizer_files import tokenizer_from_files
from pathways_lite.data.tokenizers import Tokenizer
from pathways_lite.document_frame import DocumentFrame
from pathways_lite.errors import UserError

TOKENIZER = "tokenizer/"
FRAME = "document_frame.json"
HELD_OUT = "held_out.npz"
MAX_HELD_OUT_BYTES = 64 << 20
"""Larger held-out text stays in the corpus, whose fingerprint and place are in the recipe."""


def companion_files(store: Store, held_out_tokens: int) -> dict[str, bytes]:
    """Return the files that checkpoints of a stage carry, given its corpus and the tokens per domain of its evaluation.

    Raises UserError where the corpus cannot be read.
    """
    files = tokenizer_companions(store.tokenizer()) | frame_companion(store.tokenizer(), store.frame)
    held_out = HeldOutText.of_store(store, held_out_tokens).to_bytes()
    return files if len(held_out) > MAX_HELD_OUT_BYTES else files | {HELD_OUT: held_out}


def tokenizer_companions(tokenizer: Tokenizer) -> dict[str, bytes]:
    """Return the companion files of a checkpoint that has no corpus, such as an imported one."""
    return {f"{TOKENIZER}{name}": content for name, content in tokenizer.files().items()}


def frame_companion(tokenizer: Tokenizer, frame: DocumentFrame) -> dict[str, bytes]:
    """Return the companion file that says how documents are framed; none where only the tokenizer's EOD opens them."""
    return {} if frame == DocumentFrame(tokenizer.eod) else {FRAME: json.dumps(frame._asdict()).encode()}


def carried_frame(companions: Mapping[str, bytes], tokenizer: Tokenizer, address: str) -> DocumentFrame:
    """Return the tokens around the documents that a checkpoint at `address` was trained on. Raises UserError."""
    if FRAME not in companions:
        return DocumentFrame(tokenizer.eod)
    try:
        return DocumentFrame(**json.loads(companions[FRAME]))
    except (ValueError, TypeError) as error:
        raise UserError(f"{address}/{FRAME} does not say what opens and closes documents: {error}") from error


def published_companions(
    files: Mapping[str, bytes], name: str, config: Mapping[str, Any] | None = None
) -> dict[str, bytes]:
    """Return the companion files of an imported checkpoint: its tokenizer, with all that came beside it.

    Where the tokenizer puts BOS before a text, the model's documents were framed by it and EOS, else by EOD.

    Args:
      files: of the tokenizer, by the names of `data.tokenizer_files.TOKENIZER_FILES`; others are left out.
      name: where they are from, for errors.
      config: the model's config.json, whose special tokens count where no file of `files` gives ids.

    Raises UserError where there is no tokenizer among the files, or none that can be read.
    """
    return framed_companions(
        tokenizer_from_files(generation_config_of(config or {}) | dict(files), name, published=True)
    )


def framed_companions(tokenizer: Tokenizer) -> dict[str, bytes]:
    """Return the companion files of a tokenizer, and of the frame of documents it implies: BOS where it adds it."""
    prefix = tokenizer.control.prefix
    opens, closes = (prefix[0], tokenizer.eod) if prefix and prefix[0] != tokenizer.eod else (tokenizer.eod, None)
    return tokenizer_companions(tokenizer) | frame_companion(tokenizer, DocumentFrame(opens, closes))


def carried_tokenizer(companions: Mapping[str, bytes], address: str) -> Tokenizer | None:
    """Return the tokenizer among the files of a checkpoint at `address`; None where there is none. Raises UserError."""
    files = {
        name.removeprefix(TOKENIZER): content for name, content in companions.items() if name.startswith(TOKENIZER)
    }
    return tokenizer_from_files(files, f"{address}/{TOKENIZER.rstrip('/')}") if files else None


def carried_held_out(companions: Mapping[str, bytes], tokenizer: Tokenizer, address: str) -> HeldOutText | None:
    """Return the held-out text among the files of a checkpoint; None where there is none. Raises UserError."""
    content = companions.get(HELD_OUT)
    if content is None:
        return None
    frame = carried_frame(companions, tokenizer, address)
    return HeldOutText.from_bytes(content, tokenizer, frame, f"{address}/{HELD_OUT}")
