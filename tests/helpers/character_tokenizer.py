"""A tokenizer as it is published with a model: a character is a token, and there are some special ones."""

import json
import string
from collections.abc import Sequence
from pathlib import Path

import tokenizers as hf

CHARACTERS = "\n" + string.ascii_lowercase + " .," + string.digits + string.ascii_uppercase
BOS, EOS = "<|begin|>", "<|end|>"


def write_tokenizer(directory: Path, size: int = 61, special: Sequence[str] = (BOS, EOS)) -> Path:
    """Write tokenizer.json and tokenizer_config.json with `size` ids, of which the last ones are `special`."""
    characters = CHARACTERS[: size - len(special)]
    assert len(characters) + len(special) == size
    tokenizer = hf.Tokenizer(hf.models.BPE({character: i for i, character in enumerate(characters)}, []))
    tokenizer.decoder = hf.decoders.Fuse()
    tokenizer.add_special_tokens([hf.AddedToken(name, special=True) for name in special])
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.json").write_text(tokenizer.to_str())
    (directory / "tokenizer_config.json").write_text(json.dumps({"bos_token": BOS, "eos_token": {"content": EOS}}))
    return directory
