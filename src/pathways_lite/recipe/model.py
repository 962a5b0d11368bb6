"""The configuration of the decoder. One model covers PaLM (parallel, multi-query) and Llama (serial, grouped-query)."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from pathways_lite.recipe.base import Frozen

__all__ = ["Model", "Remat"]

Norm = Literal["rms", "layer"]
Remat = Literal["none", "full", "attention", "up", "dots", "offload"]


class Model(Frozen):
    """A decoder-only transformer. Sizes are counts of elements; no dense layer or norm has a bias.

    Defaults are PaLM's (Chowdhery et al. 2022, arXiv 2204.02311, section 2): parallel block, one shared
    scale-only norm, multi-query attention, SwiGLU, RoPE, tied embeddings, logits divided by sqrt(d_model).
    """

    not_identity: ClassVar[frozenset[str]] = frozenset({"attention"})

    d_model: int = Field(gt=0, description="width of the residual stream")
    n_layers: int = Field(gt=0, description="number of blocks")
    n_heads: int = Field(gt=0, description="query heads")
    n_kv_heads: int = Field(1, gt=0, description="1 = multi-query, n_heads = multi-head, between = grouped-query")
    head_dim: int = Field(gt=0, description="width of a head")
    d_ff: int = Field(gt=0, description="width of the MLP")
    vocab_size: int = Field(gt=0, description="rows of the embedding; at least as many as the tokenizer has ids")

    block: Literal["parallel", "serial"] = Field(
        "parallel", description="parallel: PaLM's, attention and MLP side by side; serial: Llama's"
    )
    norm: Norm = Field("rms", description="rms, or layer (LayerNorm without bias); both scale-only")
    norm_epsilon: float = Field(1e-6, ge=0, lt=1, description="added to the mean square in norms")
    qk_norm: bool = Field(False, description="RMS-normalize queries and keys per head before RoPE")
    rope_base: float = Field(10_000.0, gt=0, description="wavelengths of the rotary embedding go up to 2 pi times this")
    tie_embeddings: bool = Field(True, description="use the embedding as the output head, too")
    logit_scale: float | None = Field(None, description="None: 1/sqrt(d_model) where tied (PaLM section 5), else 1")
    logit_soft_cap: float | None = Field(None, gt=0, description="final logits z become cap * tanh(z / cap)")
    attention_soft_cap: float | None = Field(None, gt=0, description="the same for attention logits")
    window: tuple[int | None, ...] | None = Field(
        None, description="sliding window in tokens per layer (None = unlimited), repeated over the layers"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="on each block's branch outputs; PaLM: 0 in pretraining")
    stochastic_depth: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="probability that training drops the last block's branches; block l of L has l / L of it "
        "(arXiv 1603.09382); branches that are kept are scaled up; None: 0",
    )
    stochastic_depth_by: Literal["row", "batch"] | None = Field(
        None, description="row: each sequence draws by itself; batch: those of a microbatch together; None: row"
    )
    init: Literal["palm", "normal"] = Field(
        "palm", description="palm: kernels N(0, 1/fan_in), embedding N(0, 1); normal: all N(0, 0.02^2)"
    )

    dtype: Literal["float32", "bfloat16"] = Field("bfloat16", description="of the computation; parameters are float32")
    scan_layers: bool = Field(True, description="run the stacked blocks with jax.lax.scan (else unrolled)")
    remat: Remat = Field(
        "none",
        description="what the backward pass recomputes. none: nothing; full: whole blocks; attention: all but q, k, v "
        "and attention; up: all but these and the MLP's up product; dots: only elementwise work; offload: as dots, "
        "with the saved activations in host memory",
    )
    attention: str | None = Field(None, description="attention implementation; None chooses by platform and shape")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads={self.n_heads} is not a multiple of n_kv_heads={self.n_kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} is odd; RoPE rotates pairs, so use an even number")
        if self.window is not None:
            if not self.window or self.n_layers % len(self.window):
                raise ValueError(f"window has {len(self.window)} entries, which do not divide n_layers={self.n_layers}")
            if any(w is not None and w < 1 for w in self.window):
                raise ValueError("a window must be at least 1 token; use null for no limit")
        return self

    @property
    def resolved_logit_scale(self) -> float:
        """Factor on the final logits."""
        if self.logit_scale is not None:
            return self.logit_scale
        return self.d_model**-0.5 if self.tie_embeddings else 1.0
