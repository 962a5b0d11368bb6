"""One decoder for PaLM and Llama: pure functions over nested dicts of parameters."""

from pathways_lite.models.decoder import Params, abstract_params, apply, head, init, logical_axes, logits, token_losses
from pathways_lite.models.decoding import decode, init_cache
from pathways_lite.models.params import Array, arrays_of

__all__ = [
    "Array", "Params", "abstract_params", "apply", "arrays_of", "decode", "head", "init", "init_cache",
    "logical_axes", "logits", "token_losses",
]  # fmt: skip
