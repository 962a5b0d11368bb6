"""The text model inside a published model of text and images (Gemma 3): its config, and its tensors by their names.

What the vision tower and the projector into the text model compute is left out: without an image they compute nothing.
"""

from __future__ import annotations

import re

import numpy as np

from pathways_lite.conversion.hf_config import ConfigReader
from pathways_lite.conversion.safetensors_files import TensorReader

TEXT_PARTS = {
    "gemma3": {
        "model_type": "gemma3_text",
        "vocab_size": 262_208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131_072,
    }
}
"""By `model_type`, the keys of the text model and their values where `text_config` leaves them out (the defaults of
transformers' Gemma3TextConfig)."""

_OTHER = re.compile(r"(model\.)?(vision_tower|multi_modal_projector)\.")
_TEXT = re.compile(r"language_model\.(?=model\.|lm_head\.)|(?<=^model\.)language_model\.")


def text_config(config: ConfigReader) -> ConfigReader | None:
    """Return the config of the text model inside a model of text and images; None for any other config.

    Raises UserError where there is none inside.
    """
    kind = config.values.get("model_type")
    if kind not in TEXT_PARTS:
        return None
    inside = config.values.get("text_config")
    if not isinstance(inside, dict):
        raise config.refuse("text_config", inside, "an object that describes the text model is expected")
    shared = {key: config.values[key] for key in ("bos_token_id", "eos_token_id", "dtype", "torch_dtype")
              if key in config.values}  # fmt: skip
    return ConfigReader(
        {**TEXT_PARTS[kind], **shared, **inside, "model_type": TEXT_PARTS[kind]["model_type"]}, config.path
    )


class TextPartReader:
    """The tensors of the text model alone, by the names that they have in a text model's files."""

    def __init__(self, whole: TensorReader) -> None:
        self._whole = whole
        self._stored = {_TEXT.sub("", name, count=1): name for name in whole.tensors if not _OTHER.match(name)}
        self.tensors = {name: whole.tensors[stored] for name, stored in self._stored.items()}

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """Read a tensor, or some rows of it, as float32. Raises UserError for a dtype that holds no plain numbers."""
        return self._whole.read(self._stored[name], rows)

    def digest(self) -> str:
        """Return the SHA-256 of the names and contents of all files."""
        return self._whole.digest()
