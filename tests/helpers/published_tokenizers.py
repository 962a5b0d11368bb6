"""Tokenizers as they are published with models, and tiny models that have them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers as hf

from helpers.hf_goldens import golden, tool

NAMES = ("<|endoftext|>", "<s>", "<|im_end|>", "<pad>")
"""Special tokens of `byte_level`, in the order of their ids, from 256 on."""
TEMPLATE = "{% for m in messages %}{{ '<|im_start|>' + m['role'] }}{% endfor %}"


def byte_level(*, adds_bos: bool = False, special: tuple[str, ...] = NAMES) -> bytes:
    """A tokenizer.json: bytes in the order of ByteLevel's alphabet, no merges, and some special tokens."""
    alphabet = sorted(hf.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = hf.Tokenizer(hf.models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = hf.decoders.ByteLevel()
    tokenizer.add_special_tokens([hf.AddedToken(name, special=True) for name in special])
    if adds_bos:
        tokenizer.post_processor = hf.processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 257)])
    return tokenizer.to_str().encode()


def as_json(**values: Any) -> bytes:
    return json.dumps(values).encode()


def published(*, adds_bos: bool = False, **more: bytes) -> dict[str, bytes]:
    """The files of an instruct model's tokenizer: its EOS ends turns, and a list of EOS ends a text."""
    return {
        "tokenizer.json": byte_level(adds_bos=adds_bos),
        "tokenizer_config.json": as_json(
            tokenizer_class="PreTrainedTokenizerFast", bos_token="<s>", pad_token="<pad>",
            eos_token={"__type": "AddedToken", "content": "<|im_end|>", "special": True},
        ),
        "generation_config.json": as_json(eos_token_id=[258, 256]),
        "chat_template.jinja": TEMPLATE.encode(),
        **more,
    }  # fmt: skip


def write_model(directory: Path, files: Mapping[str, bytes], case: str = "llama2", **config: Any) -> Path:
    """Write a tiny model with 300 token ids, and the files of its tokenizer."""
    stored = golden(case)
    shapes = {name: [300 if size == 61 else size for size in shape] for name, shape in stored["shapes"].items()}
    config = stored["config"] | {"vocab_size": 300} | config
    tool.write_checkpoint(directory, case, stored | {"config": config, "shapes": shapes})
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory
