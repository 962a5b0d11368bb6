from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.attention_contract import SCALE, AttentionContract, Shape, arrays, assert_close, run, training_spans
from pathways_kernels.attention import Spans, attention, chunked, one_block
from pathways_kernels.attention.blocks import accelerator_blocks
from pathways_kernels.attention.common import LogitTransform
from pathways_kernels.attention.spans import causal, dense_mask


def temporary_bytes(T: int, implementation: str) -> int:
    """Return the bytes of one compiled forward and backward pass, without its arguments and results."""
    array = jax.ShapeDtypeStruct((1, T, 2, 16), jnp.float32)
    kv = jax.ShapeDtypeStruct((1, T, 1, 16), jnp.float32)
    ends = jax.ShapeDtypeStruct((1, T), jnp.int32)
    compiled = run.lower(array, kv, kv, array, Spans(ends, ends), implementation=implementation).compile()
    return compiled.memory_analysis().temp_size_in_bytes


class TestChunked(AttentionContract):
    implementation = "chunked"

    def test_memory_grows_with_the_length_and_not_its_square(self):
        short, long = temporary_bytes(1024, "chunked"), temporary_bytes(4096, "chunked")
        assert long <= 4.1 * short
        assert temporary_bytes(4096, "reference") > 15 * long

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    @pytest.mark.parametrize("length", [40, 530])
    def test_every_platform_computes_the_same(self, length, dtype):
        """Run the programs for accelerators on the CPU, where no other test would reach them."""
        shape = Shape(2, length, length, 4, 2, 8, soft_cap=None if length == 40 else 2.0, dtype=dtype)
        q, k, v, d_out = arrays(shape)
        spans = Spans(*map(jnp.asarray, training_spans(np.random.default_rng(7), shape.B, shape.T, shape.S)))
        b = accelerator_blocks(shape.B, shape.T, shape.S, shape.H)

        @jax.jit
        def both(q, k, v, d_out, spans):
            if length == 40:
                out, weights = one_block._forward(b, SCALE, q, k, v, spans)
                return out, *one_block._backward(b, SCALE, q, k, v, weights, d_out)
            transform = LogitTransform(SCALE, shape.soft_cap)
            out, lse = chunked._forward(b, transform, q, k, v, spans)
            return out, *chunked._backward(b, transform, q, k, v, spans, out, lse, d_out)

        exact = (x.astype(jnp.float32) for x in (q, k, v, d_out))
        expected = run(*exact, spans, soft_cap=shape.soft_cap, implementation="reference")
        for name, x, y in zip(("output", "d_q", "d_k", "d_v"), both(q, k, v, d_out, spans), expected, strict=True):
            assert_close(x, y, 1e-5 if dtype == "float32" else 2**-6, name)

    def test_blocks_without_an_allowed_pair_are_not_read(self):
        """NaN in the keys of another block has no effect, so that block was never multiplied."""
        shape = Shape(1, 600, 600, 16, 1, 8)
        q, k, v, d_out = arrays(shape)
        start = np.full((1, shape.T), 200, np.int32)
        spans = Spans(start, start + 40)
        far = jnp.arange(shape.S)[None, :, None, None] >= 400
        actual = run(q, jnp.where(far, jnp.nan, k), jnp.where(far, jnp.nan, v), d_out, spans, implementation="chunked")
        assert all(np.isfinite(x).all() for x in actual)
        assert dense_mask(spans, shape.S).any()

    @pytest.mark.parametrize("platform", ["tpu", "cuda"])
    def test_choices_for_the_cpu_do_not_reach_other_platforms(self, platform):
        shape = Shape(4, 1024, 1024, 4, 1, 8, dtype="bfloat16")

        def text(platform):
            chunked = partial(attention, spans=causal(4, 1024), scale=1.0, implementation="chunked")
            f = jax.jit(jax.grad(lambda *a: chunked(*a).astype(jnp.float32).sum()))
            return f.trace(*arrays(shape)[:3]).lower(lowering_platforms=(platform,)).as_text()

        assert "optimization_barrier" in text("cpu")
        assert "optimization_barrier" not in text(platform)
        products = [line for line in text(platform).splitlines() if "dot_general" in line]
        assert products
        assert all(line.count("bf16") == 2 for line in products)
