"""One decoder for PaLM and Llama: pure functions over nested dicts of parameters."""

from pathways_lite.models.decoder import (
    Auxiliary,
    LossFn,
    Params,
    TokenLosses,
    abstract_params,
    apply,
    head,
    init,
    logical_axes,
    logits,
    token_losses,
)
from pathways_lite.models.decoding import decode, init_cache
from pathways_lite.models.params import ParamSpec, param_specs

__all__ = [
    "Auxiliary", "LossFn", "ParamSpec", "Params", "TokenLosses", "abstract_params", "apply", "decode", "head", "init",
    "init_cache", "logical_axes", "logits", "param_specs", "token_losses",
]  # fmt: skip
