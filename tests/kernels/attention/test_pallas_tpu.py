"""The TPU kernels in Pallas's interpreters: what they compute, not how fast."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.pallas.mosaic.interpret import interpret_pallas_call
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AbstractDevice, AbstractMesh

from helpers.attention_contract import (
    INTERPRETER_PACKED_SHAPE,
    INTERPRETER_SHAPES,
    SCALE,
    AttentionContract,
    Shape,
    arrays,
    assert_close,
    run,
)
from pathways_kernels.attention import Spans, api, attention
from pathways_kernels.attention.block_sizes import Limits
from pathways_kernels.attention.pallas_tpu import pallas_tpu
from pathways_kernels.attention.spans import causal, from_segments, full, window
from pathways_kernels.attention.support import Request, pallas_tpu_unsupported_reason

INTERPRETED = "pallas_tpu interpreted"
# Several blocks at the small lengths of the tests; the two kernels have different ones.
SMALL = (Limits(256, 128, 1), Limits(128, 256, 1))


def on_cpu(**options) -> api.Backend:
    return api.Backend(partial(pallas_tpu, **{"interpret": True, "limits": SMALL, **options}))


@pytest.fixture(autouse=True, scope="module")
def interpreted():
    """Register the kernels on the CPU, as a backend of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(api.BACKENDS, INTERPRETED, on_cpu())
        yield


def equals_reference(monkeypatch, shape: Shape, spans: Spans, **options) -> None:
    name = f"{INTERPRETED} with {options}"
    monkeypatch.setitem(api.BACKENDS, name, on_cpu(**options))
    args = *arrays(shape), spans
    expected = run(*args, soft_cap=shape.soft_cap, implementation="reference")
    actual = run(*args, soft_cap=shape.soft_cap, implementation=name)
    for what, a, b in zip(("output", "d_q", "d_k", "d_v"), actual, expected, strict=True):
        assert_close(a, b, 1e-5, what)


class TestPallasTpu(AttentionContract):
    implementation = INTERPRETED
    shapes = INTERPRETER_SHAPES
    packed_shape = INTERPRETER_PACKED_SHAPE
    check_vma = False


def between(start: int, stop: int) -> Spans:
    return Spans(np.full((1, 512), start, np.int32), np.full((1, 512), stop, np.int32))


@pytest.mark.parametrize(
    "spans",
    [full(1, 512, 640), causal(1, 512), between(70, 640), between(70, 600)],
    ids=["a run, one left", "pairs", "one before a run", "one before, some full, one after"],
)
def test_runs_of_blocks(monkeypatch, spans):
    """Every path of the loop over five blocks of keys: full ones in runs of four, the rest in pairs or alone."""
    runs = Limits(512, 128, 4)
    equals_reference(monkeypatch, Shape(1, 512, 640, 2, 1, 64), spans, limits=(runs, runs))


def test_keys_in_segments(monkeypatch):
    """A chip too small for all keys at once visits them in segments, and sums the gradients of q."""
    from pathways_kernels.attention import block_sizes

    monkeypatch.setattr(block_sizes, "chip", lambda: ("", 2**20))
    assert block_sizes.block_sizes(SMALL[0], 2**20, 2, 384, 768, 1024, 1024).segment < 768
    spans = from_segments(np.cumsum(np.random.default_rng(0).random((2, 300)) < 0.02, axis=1), bidirectional=True)
    equals_reference(monkeypatch, Shape(2, 300, 700, 4, 2, 64), Spans(spans.start, spans.stop + 400))


@pytest.mark.parametrize(("kind", "T", "S"), [("full", 200, 300), ("causal", 300, 200), ("window", 200, 300)])
def test_spans_known_while_tracing_need_no_arrays(monkeypatch, kind, T, S):
    """Their kinds are computed in the kernel: the program has no bounds to load."""
    spans = {"full": full(1, T, S), "causal": causal(1, T, 50), "window": window(1, T, 70, 20)}[kind]
    q, k, v, _ = arrays(Shape(1, T, S, 2, 1, 64))
    call = partial(pallas_tpu, scale=1.0, limits=SMALL, interpret=True)
    assert "i32[1,8," not in str(jax.make_jaxpr(lambda *args: call(*args, spans))(q, k, v))
    assert "i32[1,8," in str(jax.make_jaxpr(call)(q, k, v, Spans(*map(jnp.asarray, spans))))

    monkeypatch.setitem(api.BACKENDS, "static", on_cpu())

    def gradients(name, q, k, v):
        return jax.grad(
            lambda *args: (attention(*args, spans, scale=SCALE, implementation=name) ** 2).sum(), (0, 1, 2)
        )(q, k, v)

    for what, a, b in zip(
        ("d_q", "d_k", "d_v"), gradients("static", q, k, v), gradients("reference", q, k, v), strict=True
    ):
        assert_close(a, b, 1e-5, what)


def test_heads_in_groups(monkeypatch):
    """More query heads per key head than one block holds: the groups' gradients of k and v are summed."""
    few_rows = Limits(512, 128, 1), Limits(256, 128, 1)
    equals_reference(monkeypatch, Shape(1, 256, 256, 8, 1, 64), causal(1, 256), limits=few_rows)


def test_a_head_dim_of_several_lanes(monkeypatch):
    equals_reference(monkeypatch, Shape(1, 200, 200, 2, 2, 160, soft_cap=3.0), causal(1, 200))


def test_no_races_and_nothing_outside_its_memory(monkeypatch):
    """Pallas's TPU interpreter, which simulates copies between memories and fills fresh memory with NaN."""
    simulated = pltpu.InterpretParams(detect_races=True, uninitialized_memory="nan")
    spans = from_segments(np.arange(512).reshape(2, 256) // 100)
    equals_reference(monkeypatch, Shape(2, 256, 256, 2, 1, 64), spans, interpret=simulated)
    assert interpret_pallas_call.races is not None
    assert not interpret_pallas_call.races.races_found


def test_blocks_without_an_allowed_pair_are_not_computed():
    """NaN in the keys of another block has no effect, so that block was never multiplied."""
    shape = Shape(1, 256, 512, 2, 1, 64)
    q, k, v, d_out = arrays(shape)
    start = np.full((1, 256), 70, np.int32)
    far = jnp.arange(512)[None, :, None, None] >= 256
    args = q, jnp.where(far, jnp.nan, k), jnp.where(far, jnp.nan, v), d_out, Spans(start, start + 40)
    assert all(np.isfinite(x).all() for x in run(*args, implementation=INTERPRETED))


def test_sums_are_float32():
    """Two thousand keys of equal weight: in bfloat16 their sum would stop growing at 256."""
    q = jnp.zeros((1, 128, 1, 64), jnp.bfloat16)
    k = v = jnp.ones((1, 2048, 1, 64), jnp.bfloat16)
    out = attention(q, k, v, full(1, 128, 2048), scale=1.0, implementation=INTERPRETED)
    np.testing.assert_allclose(out.astype(jnp.float32), 1)


def test_is_chosen_only_where_a_tpu_is_in_sight():
    shape = Shape(1, 256, 256, 2, 1, 64, dtype="bfloat16")
    spans = Spans(*map(jnp.asarray, causal(1, 256)))
    call = partial(attention, *arrays(shape)[:3], spans, scale=SCALE)
    half = Request(*(jax.typeof(x.astype(jnp.float16)) for x in arrays(shape)[:3]), None)
    with pytest.raises(ValueError, match="no TPU is in sight"):
        call(implementation="pallas_tpu")
    assert "pallas_call" not in str(jax.make_jaxpr(call)())
    v5e = AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")
    with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("x",), abstract_device=v5e)):
        assert "pallas_call" in str(jax.make_jaxpr(call)())
        assert pallas_tpu_unsupported_reason(half) == "the arrays are float16; it supports bfloat16 and float32."
