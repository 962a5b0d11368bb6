"""Tokens that a published vocabulary holds in reserve: no text is encoded to them, and nobody has trained them.

Llama 3 has `<|reserved_special_token_0|>` and so on, Gemma `<unused0>`, BERT `[unused0]`, T5 `<extra_id_0>`, Phi
`<|placeholder1|>` and `<|dummy_0|>`, DeepSeek its placeholders.
"""

from __future__ import annotations

import re

from pathways_lite.data.tokenizers import Tokenizer
from pathways_lite.errors import UserError

_WORDS = "reserved_special_token|reserved|unused|unused_token|extra|extra_id|extra_token|special|placeholder|dummy"
_RESERVED = re.compile(
    rf"<\|?({_WORDS})_?\d+\|?>|\[unused_?\d+\]|<\uff5cplace\u2581holder\u2581no\u2581\d+\uff5c>", re.IGNORECASE
)


def reserved_ids(tokenizer: Tokenizer) -> list[int]:
    """Return the ids of a tokenizer's reserved tokens by their names, ascending."""
    names = ((token, tokenizer.token_name(token)) for token in range(tokenizer.vocab_size))
    return [token for token, name in names if name is not None and _RESERVED.fullmatch(name)]


def require_extension(old: Tokenizer, new: Tokenizer) -> None:
    """Raise UserError where `new` is not `old` with more tokens after its own: then a model's rows would not fit."""
    if new.vocab_size < old.vocab_size:
        raise UserError(
            f"the tokenizer has {new.vocab_size} tokens, fewer than the {old.vocab_size} of the model's; an extended "
            "one has all of them, and more after them"
        )
    for token in range(old.vocab_size):
        if (was := old.token_name(token)) != (now := new.token_name(token)) or was is None:
            raise UserError(
                f"token {token} is {now!r} in the new tokenizer and {was!r} in the model's; an extended tokenizer "
                "keeps the names and ids of all old tokens, and adds its own after them"
            )
