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
from pathways_lite.models.decoding import empty_cache, merge, step, step_logits, unstack
from pathways_lite.models.params import ParamSpec, param_specs

__all__ = [
    "Auxiliary", "LossFn", "ParamSpec", "Params", "TokenLosses", "abstract_params", "apply", "empty_cache", "head",
    "init", "logical_axes", "logits", "merge", "param_specs", "step", "step_logits", "token_losses", "unstack",
]  # fmt: skip
