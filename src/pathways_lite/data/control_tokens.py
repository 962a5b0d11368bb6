"""The tokens of a published tokenizer that stand for no text: BOS, EOS, padding, as the files beside it say.

tokenizer_config.json names tokens (`eos_token`, and by id in `added_tokens_decoder`), generation_config.json and
config.json give ids (`eos_token_id`, which may be a list), special_tokens_map.json names tokens again, in old files
only there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pathways_lite.errors import UserError

TOKENIZER_CONFIG, GENERATION_CONFIG = "tokenizer_config.json", "generation_config.json"
SPECIAL_TOKENS_MAP, ADDED_TOKENS = "special_tokens_map.json", "added_tokens.json"


@dataclass(frozen=True)
class ControlTokens:
    """Ids of tokens that stand for no text.

    bos: opens a text; None: the tokenizer has none.
    eos: each of them ends a text. The tokenizer's own comes first; models that chat have more, which end a turn.
    pad: fills rows; None: none is named.
    unknown: stands for what the vocabulary does not have; None: none is named.
    prefix: what the tokenizer itself puts before a text: BOS for Llama and Gemma, nothing for GPT-NeoX and Qwen.
    added: all other tokens that were added to the vocabulary as special ones, by name.
    """

    bos: int | None = None
    eos: tuple[int, ...] = ()
    pad: int | None = None
    unknown: int | None = None
    prefix: tuple[int, ...] = ()
    added: tuple[tuple[str, int], ...] = ()


def read_control_tokens(files: Mapping[str, bytes], id_of: Callable[[str], int | None], name: str) -> ControlTokens:
    """Read what the files beside a tokenizer say; `prefix` is empty, as it depends on the tokenizer.

    Args:
      files: by name, those that there are.
      id_of: the id of a token of the vocabulary; None where it has none.
      name: of the tokenizer, for errors.

    Raises UserError for a file that is no JSON object.
    """
    config, generation, names, numbers = (
        _read_object(files, file, name)
        for file in (TOKENIZER_CONFIG, GENERATION_CONFIG, SPECIAL_TOKENS_MAP, ADDED_TOKENS)
    )
    added = {token: number for token, number in numbers.items() if isinstance(number, int)}
    special: dict[str, int] = {}
    decoder = config.get("added_tokens_decoder")
    for number, entry in decoder.items() if isinstance(decoder, dict) else ():
        if (token := _content(entry)) is not None and number.isdecimal():
            added[token] = int(number)
            if isinstance(entry, dict) and entry.get("special"):
                special[token] = int(number)

    def find(role: str) -> Iterator[int]:
        """Yield the ids of a role, those of the tokenizer's own files first."""
        for source in (config, names):
            if (token := _content(source.get(f"{role}_token"))) is not None:
                number = id_of(token)
                number = added.get(token) if number is None else number
                if number is not None:
                    yield number
                    break
        ids = generation.get(f"{role}_token_id")
        yield from (i for i in (ids if isinstance(ids, list) else [ids]) if isinstance(i, int) and i >= 0)

    bos, pad, unknown = (next(find(role), None) for role in ("bos", "pad", "unk"))
    eos = tuple(dict.fromkeys(find("eos")))
    used = {bos, pad, unknown, *eos}
    others = tuple((token, number) for token, number in special.items() if number not in used)
    return ControlTokens(bos, eos, pad, unknown, added=others)


def generation_config_of(config: Mapping[str, Any]) -> dict[str, bytes]:
    """Return a generation_config.json of the special tokens that a model's config.json names; empty if it names none.

    Transformers makes the same file of such a config.
    """
    ids = {key: config.get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    ids = {key: value for key, value in ids.items() if value is not None}
    if not ids:
        return {}
    return {GENERATION_CONFIG: json.dumps({"_from_model_config": True, **ids}, indent=2).encode() + b"\n"}


def adds_bos_token(files: Mapping[str, bytes], name: str, *, otherwise: bool = False) -> bool:
    """Return what tokenizer_config.json says of `add_bos_token`; `otherwise` where it says nothing."""
    value = _read_object(files, TOKENIZER_CONFIG, name).get("add_bos_token")
    return otherwise if value is None else bool(value)


def special_token_names(files: Mapping[str, bytes], name: str) -> dict[str, str]:
    """Return the tokens by their roles (`bos_token`, `eos_token`, ...) as the files beside a tokenizer name them."""
    config, names = (_read_object(files, file, name) for file in (TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP))
    tokens = {role: _content(value) for role, value in (names | config).items() if role.endswith("_token")}
    return {role: token for role, token in tokens.items() if token is not None}


def tokenizer_class(files: Mapping[str, bytes], name: str) -> str:
    """Return the class of transformers that tokenizer_config.json names; empty where it names none."""
    return str(_read_object(files, TOKENIZER_CONFIG, name).get("tokenizer_class") or "")


def _read_object(files: Mapping[str, bytes], file: str, name: str) -> dict[str, Any]:
    if file not in files:
        return {}
    try:
        value = json.loads(files[file])
    except ValueError as error:
        raise UserError(f"{file} of {name} is no JSON: {error}; take the whole file from where it came") from error
    if not isinstance(value, dict):
        raise UserError(f"{file} of {name} is no JSON object; take the whole file from where it came")
    return value


def _content(token: Any) -> str | None:
    """Return the text of a token, which is written as a string or an object."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) and token else None
