import jax
import numpy as np
from jax.test_util import check_grads

from helpers.attention_contract import SCALE, AttentionContract, Shape, arrays, random_spans
from pathways_kernels.attention import attention


class TestReference(AttentionContract):
    implementation = "reference"

    def test_gradients_are_those_of_finite_differences(self):
        shape = Shape(1, 5, 6, 4, 2, 3, soft_cap=1.5)
        q, k, v, _ = arrays(shape)
        spans = random_spans(np.random.default_rng(0), shape.B, shape.T, shape.S)

        @jax.jit
        def f(q, k, v):
            return attention(q, k, v, spans, scale=SCALE, logits_soft_cap=1.5, implementation="reference")

        with jax.default_matmul_precision("highest"):
            check_grads(f, (q, k, v), order=1, modes=("rev",), atol=2e-2, rtol=2e-2)
