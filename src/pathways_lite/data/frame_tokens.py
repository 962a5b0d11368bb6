"""The tokens around a new corpus's documents: given by name, or as the tokenizer's own files name them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pathways_lite.data.tokenizers import Tokenizer
from pathways_lite.document_frame import DocumentFrame
from pathways_lite.errors import UserError

AUTO = "auto"
_CONFIGS = ("tokenizer_config.json", "special_tokens_map.json")


def resolve_frame(tokenizer: Tokenizer, bos: str | None, eos: str | None) -> DocumentFrame:
    """Return the ids of the tokens that open and close documents.

    Args:
      bos, eos: names of tokens; "auto": as the tokenizer's files name them. With one of them, that token opens every
        document and so closes the one before it; with neither, the tokenizer's EOD does.

    Raises UserError where the tokenizer does not have a token, or where both are the same.
    """
    opens, closes = (_token_id(tokenizer, name, option) for name, option in ((bos, "bos"), (eos, "eos")))
    if opens is not None and opens == closes:
        raise UserError(
            f"--bos and --eos are the same token, id {opens}; where one token does both, name it with --eod alone"
        )
    if opens is None:
        return DocumentFrame(tokenizer.eod if closes is None else closes)
    return DocumentFrame(opens, closes)


def published_frame(tokenizer: Tokenizer) -> tuple[str | None, str | None]:
    """Return the names of BOS and EOS that the files beside a tokenizer give; None for one that they do not."""
    files = tokenizer.files()
    names: dict[str, str] = {}
    for file in _CONFIGS:
        config = _read_json(files.get(file, b""))
        for kind in ("bos", "eos"):
            name = config.get(f"{kind}_token")
            name = name.get("content") if isinstance(name, Mapping) else name
            if isinstance(name, str) and tokenizer.token_id(name) is not None:
                names.setdefault(kind, name)
    own: tuple[str | None, str | None] = getattr(tokenizer, "bos_and_eos", (None, None))  # a SentencePiece model's
    return names.get("bos", own[0]), names.get("eos", own[1])


def _read_json(content: bytes) -> Mapping[str, Any]:
    try:
        config = json.loads(content or b"{}")
    except ValueError:
        return {}
    return config if isinstance(config, Mapping) else {}


def _token_id(tokenizer: Tokenizer, name: str | None, option: str) -> int | None:
    if name is None:
        return None
    if name == AUTO:
        name = published_frame(tokenizer)[option == "eos"]
        if name is None:
            raise UserError(
                f"--{option} auto: the tokenizer's files ({', '.join(_CONFIGS)}) name no {option}_token; name one of "
                f"its tokens: --{option} TOKEN"
            )
    if (token := tokenizer.token_id(name)) is None:
        raise UserError(f"--{option} {name}: the tokenizer has no such token; name one that it has")
    return token
