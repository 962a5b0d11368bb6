"""The tokens around a new corpus's documents: given by name, or as the tokenizer's own files name them."""

from __future__ import annotations

from pathways_lite.data.tokenizers import Tokenizer
from pathways_lite.document_frame import DocumentFrame
from pathways_lite.errors import UserError

AUTO = "auto"


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
    """Return the names of BOS, as the tokenizer or the files beside it give it, and of EOD; None for one without.

    What closes a document is EOD, and not the EOS of a model that chats, which may only end turns.
    """
    bos = tokenizer.control.bos
    return None if bos is None else tokenizer.token_name(bos), tokenizer.token_name(tokenizer.eod)


def _token_id(tokenizer: Tokenizer, name: str | None, option: str) -> int | None:
    if name is None:
        return None
    if name == AUTO:
        name = published_frame(tokenizer)[option == "eos"]
        if name is None:
            raise UserError(
                f"--{option} auto: neither the tokenizer nor a file beside it (tokenizer_config.json, "
                f"generation_config.json) says which token that is; name one of its tokens: --{option} TOKEN"
            )
    if (token := tokenizer.token_id(name)) is None:
        raise UserError(f"--{option} {name}: the tokenizer has no such token; name one that it has")
    return token
