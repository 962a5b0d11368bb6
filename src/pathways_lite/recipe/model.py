"""The configuration of the decoder. One model covers PaLM (parallel, multi-query) and Llama (serial, grouped-query)."""

from __future__ import annotations

from typing import ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from pathways_lite.recipe.base import Frozen
from pathways_lite.recipe.rope_scaling import RopeScaling

__all__ = ["Activation", "Bias", "Model", "Remat"]

Norm = Literal["rms", "layer"]
Activation = Literal["geglu", "geglu_tanh", "reglu", "silu", "gelu", "gelu_tanh", "relu"]
Bias = Literal["qkv", "attention_out", "mlp", "norm"]
Remat = Literal["none", "full", "attention", "up", "dots", "offload"]


class Model(Frozen):
    """A decoder-only transformer. Sizes are counts of elements; only what `bias` names has a bias.

    Defaults are PaLM's (Chowdhery et al. 2022, arXiv 2204.02311, section 2): parallel block, one shared
    scale-only norm, multi-query attention, SwiGLU, RoPE, tied embeddings, logits divided by sqrt(d_model).
    """

    not_identity: ClassVar[frozenset[str]] = frozenset({"attention"})

    d_model: int = Field(gt=0, description="width of the residual stream")
    n_layers: int = Field(gt=0, description="number of blocks")
    n_heads: int = Field(gt=0, description="query heads")
    n_kv_heads: int = Field(
        default=1, gt=0, description="1 = multi-query, n_heads = multi-head, between = grouped-query"
    )
    head_dim: int = Field(gt=0, description="width of a head")
    d_ff: int = Field(gt=0, description="width of the MLP")
    vocab_size: int = Field(gt=0, description="rows of the embedding; at least as many as the tokenizer has ids")

    block: Literal["parallel", "serial"] = Field(
        default="parallel", description="parallel: PaLM's, attention and MLP side by side; serial: Llama's"
    )
    parallel_norms: Literal[2] | None = Field(
        default=None,
        description="2: attention and MLP of a parallel block have a norm each (GPT-NeoX); None: one for both",
    )
    norm: Norm = Field(default="rms", description="rms, or layer (LayerNorm); scale-only, unless bias names norm")
    norm_epsilon: float = Field(default=1e-6, ge=0, lt=1, description="added to the mean square in norms")
    norm_position: Literal["post", "both"] | None = Field(
        default=None,
        description="of a serial block's norms. None: before attention and MLP; post: after them, before the sum with "
        "the residual stream (OLMo 2); both (Gemma 2)",
    )
    qk_norm: bool = Field(default=False, description="RMS-normalize queries and keys before RoPE")
    qk_norm_over: Literal["all_heads"] | None = Field(
        default=None,
        description="None: qk_norm normalizes each head by itself; all_heads: all of a position at once (OLMo 2)",
    )
    bias: tuple[Bias, ...] | None = Field(
        default=None,
        description="what has a bias: qkv (Qwen 2), attention_out, mlp, norm (LayerNorms of the residual stream)",
    )
    activation: Activation | None = Field(
        default=None,
        description="of the MLP; None: SwiGLU. geglu, geglu_tanh, reglu: gated too, with three matrices; silu, gelu, "
        "gelu_tanh, relu: two. tanh: GELU by its approximation",
    )
    rope_base: float = Field(
        default=10_000.0, gt=0, description="wavelengths of the rotary embedding go up to 2 pi times this"
    )
    rope_scaling: RopeScaling | None = Field(
        default=None, description="of the rotary frequencies, for longer sequences"
    )
    rope_fraction: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="of a head's dimensions, the first of which rotate (GPT-NeoX: 0.25); None: all",
    )
    local_rope_base: float | None = Field(
        default=None, gt=0, description="rope_base of layers with a window, which then have no rope_scaling (Gemma 3)"
    )
    attention_scale: float | None = Field(
        default=None, gt=0, description="factor of products of queries and keys; None: 1/sqrt(head_dim)"
    )
    embedding_scale: float | None = Field(
        default=None, gt=0, description="factor of embedded tokens (Gemma: sqrt(d_model)); None: 1"
    )
    tie_embeddings: bool = Field(default=True, description="use the embedding as the output head, too")
    logit_scale: float | None = Field(
        default=None, description="None: 1/sqrt(d_model) where tied (PaLM section 5), else 1"
    )
    logit_soft_cap: float | None = Field(default=None, gt=0, description="final logits z become cap * tanh(z / cap)")
    attention_soft_cap: float | None = Field(default=None, gt=0, description="the same for attention logits")
    window: tuple[int | None, ...] | None = Field(
        default=None, description="sliding window in tokens per layer (None = unlimited), repeated over the layers"
    )
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="on each block's branch outputs; PaLM: 0 in pretraining"
    )
    stochastic_depth: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="probability that training drops the last block's branches; block l of L has l / L of it "
        "(arXiv 1603.09382); branches that are kept are scaled up; None: 0",
    )
    stochastic_depth_by: Literal["row", "batch"] | None = Field(
        default=None, description="row: each sequence draws by itself; batch: those of a microbatch together; None: row"
    )
    init: Literal["palm", "normal"] = Field(
        default="palm", description="palm: kernels N(0, 1/fan_in), embedding N(0, 1); normal: all N(0, 0.02^2)"
    )

    dtype: Literal["float32", "bfloat16"] = Field(
        default="bfloat16", description="of the computation; parameters are float32"
    )
    scan_layers: bool = Field(default=True, description="run the stacked blocks with jax.lax.scan (else unrolled)")
    remat: Remat = Field(
        default="none",
        description="what the backward pass recomputes. none: nothing; full: whole blocks; attention: all but q, k, v "
        "and attention; up: all but these and the MLP's up product; dots: only elementwise work; offload: as dots, "
        "with the saved activations in host memory",
    )
    attention: str | None = Field(
        default=None, description="attention implementation; None chooses by platform and shape"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads={self.n_heads} is not a multiple of n_kv_heads={self.n_kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} is odd; RoPE rotates pairs, so use an even number")
        if self.window is not None:
            if not self.window or self.n_layers % len(self.window):
                raise ValueError(
                    f"n_layers={self.n_layers} is not a multiple of the {len(self.window)} entries of window"
                )
            if any(w is not None and w < 1 for w in self.window):
                raise ValueError("a window must be at least 1 token; use null for no limit")
        self._check_variants()
        return self

    def _check_variants(self) -> None:
        """Raise ValueError where optional fields do not fit each other."""
        if self.parallel_norms is not None and self.block == "serial":
            raise ValueError("parallel_norms is for block='parallel'; a serial block has two norms anyway")
        if self.norm_position is not None and self.block == "parallel":
            raise ValueError(
                f"norm_position={self.norm_position!r} needs block='serial'; a parallel block's are before"
            )
        if self.qk_norm_over is not None and not self.qk_norm:
            raise ValueError(f"qk_norm_over={self.qk_norm_over!r} needs qk_norm=True")
        if self.bias is not None:
            if list(self.bias) != [name for name in get_args(Bias) if name in self.bias] or not self.bias:
                raise ValueError(f"bias={self.bias} must name some of {', '.join(get_args(Bias))}, in this order")
            if "norm" in self.bias and self.norm == "rms":
                raise ValueError("bias names norm, but an RMSNorm has none; use norm='layer'")
        if self.local_rope_base is not None and not any(self.window or ()):
            raise ValueError("local_rope_base is for layers with a window, and window gives none")
        if self.rotary_dim % 2 or not self.rotary_dim:
            raise ValueError(
                f"rope_fraction={self.rope_fraction} of head_dim={self.head_dim} is {self.rotary_dim} dimensions; RoPE "
                "rotates pairs, so use a fraction that gives an even number"
            )

    @property
    def rotary_dim(self) -> int:
        """The dimensions of a head that rotate, the first ones."""
        return self.head_dim if self.rope_fraction is None else int(self.head_dim * self.rope_fraction)

    @property
    def is_gated(self) -> bool:
        """Whether the MLP has a gate beside its up projection."""
        return self.activation in (None, "geglu", "geglu_tanh", "reglu")

    def has_bias(self, name: Bias) -> bool:
        """Whether the named part has a bias."""
        return name in (self.bias or ())

    @property
    def adds_bias(self) -> bool:
        """Whether a block adds something to the residual stream where all its kernels are zero."""
        after_branches = self.norm_position is not None and self.has_bias("norm")
        return self.has_bias("attention_out") or self.has_bias("mlp") or after_branches

    @property
    def resolved_attention_scale(self) -> float:
        """Factor on the products of queries and keys."""
        return self.head_dim**-0.5 if self.attention_scale is None else self.attention_scale

    @property
    def resolved_logit_scale(self) -> float:
        """Factor on the final logits."""
        if self.logit_scale is not None:
            return self.logit_scale
        return self.d_model**-0.5 if self.tie_embeddings else 1.0
