from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from helpers.attention_contract import SCALE, Shape, arrays, assert_close
from pathways_kernels.attention import Spans, attention, support
from pathways_kernels.attention.cudnn import cudnn
from pathways_kernels.attention.spans import causal, from_segments, full, window

SHAPE = Shape(2, 24, 24, 4, 2, 8, dtype="bfloat16")
KINDS = {
    "full": full(2, 24),
    "causal": causal(2, 24),
    "window": window(2, 24, 5),
}


@pytest.fixture
def cudnn_in_sight(monkeypatch):
    """Pretend that the machine has cuDNN; programs are lowered for it but not run."""
    monkeypatch.setattr(support.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=true")
    monkeypatch.setattr(support, "compute_capability", lambda: 90)


def lowered(q, k, v, spans, implementation="cudnn", platform="cuda", **options) -> str:
    @jax.jit
    def gradients(q, k, v):
        f = partial(attention, scale=SCALE, implementation=implementation, **options)
        return jax.grad(lambda *args: f(*args, spans).astype(jnp.float32).sum(), (0, 1, 2))(q, k, v)

    return gradients.trace(q, k, v).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("kind", KINDS)
def test_jax_is_asked_for_the_same_attention(kind, monkeypatch):
    """Jax's XLA implementation, called with cuDNN's arguments, equals the reference."""
    original = partial(jax.nn.dot_product_attention)

    def call_xla(*args, implementation, **options):
        assert implementation == "cudnn"
        return original(*args, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", call_xla)
    q, k, v, _ = arrays(SHAPE._replace(dtype="float32"))
    actual = cudnn(q, k, v, KINDS[kind], scale=SCALE)
    assert_close(actual, attention(q, k, v, KINDS[kind], scale=SCALE, implementation="reference"), 1e-5)


@pytest.mark.parametrize(
    ("kind", "mask", "window_length"), [("full", "NO_MASK", 0), ("causal", "CAUSAL", 0), ("window", "CAUSAL", 5)]
)
@pytest.mark.parametrize("implementation", ["cudnn", None])
def test_lowers_for_cuda(kind, mask, window_length, implementation, cudnn_in_sight):
    text = lowered(*arrays(SHAPE)[:3], KINDS[kind], implementation).replace("\\22", '"')
    for target in ("__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"):
        assert f"@{target}(" in text
    assert f'"mask_type": "{mask}"' in text
    assert f'"sliding_window_length": {window_length}' in text
    assert f'"fmha_scale": {SCALE}' in text


def test_is_for_cuda_only(cudnn_in_sight):
    for platform in ("cpu", "tpu"):
        assert "cudnn" not in lowered(*arrays(SHAPE)[:3], KINDS["causal"], None, platform)


@pytest.mark.parametrize(
    ("shape", "spans", "options", "reason"),
    [
        (SHAPE._replace(dtype="float32"), KINDS["full"], {}, "arrays are float32"),
        (SHAPE._replace(D=136), KINDS["full"], {}, "head dim is 136"),
        (SHAPE._replace(D=12), KINDS["full"], {}, "head dim is 12; it supports multiples of 8"),
        (SHAPE, KINDS["full"], {"logits_soft_cap": 2.0}, "no soft cap"),
        (SHAPE, Spans(*map(jnp.asarray, KINDS["full"])), {}, "known while tracing .* these are others"),
        (SHAPE, from_segments(np.arange(48).reshape(2, 24) // 5), {}, "these are others"),
        (SHAPE._replace(S=30), causal(2, 24), {}, r"Causal\(offset=0\), 24 queries and 30 keys"),
        (SHAPE._replace(S=30), causal(2, 24, offset=6), {}, r"Causal\(offset=6\)"),
    ],
)
def test_refuses_what_it_would_not_compute_exactly(shape, spans, options, reason, cudnn_in_sight):
    with pytest.raises(ValueError, match=reason):
        attention(*arrays(shape)[:3], spans, scale=SCALE, implementation="cudnn", **options)


def test_refuses_without_a_gpu_or_a_fixed_order(monkeypatch):
    call = partial(attention, *arrays(SHAPE)[:3], KINDS["causal"], scale=SCALE, implementation="cudnn")
    monkeypatch.setattr(support.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="cuDNN is not installed"):
        call()
    monkeypatch.setattr(support.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ValueError, match="no NVIDIA GPU is in sight"):
        call()
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(support, "compute_capability", lambda: 90)
    with pytest.raises(ValueError, match="not the same bits every time unless XLA_FLAGS"):
        call()
