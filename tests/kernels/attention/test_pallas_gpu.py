import warnings
from contextlib import nullcontext
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.attention_contract import (
    INTERPRETER_PACKED_SHAPE,
    INTERPRETER_SHAPES,
    SCALE,
    AttentionContract,
    Shape,
    arrays,
    run,
)
from helpers.gpu_target import H100, T4, lower_for_gpu
from pathways_kernels.attention import Spans, api, attention, support
from pathways_kernels.attention.pallas_gpu import Tile, Tiles, pallas_gpu
from pathways_kernels.attention.spans import causal

INTERPRETED = "pallas_gpu interpreted"
# Different for each kernel, so that none can use another's.
SMALL = Tiles(forward=Tile(32, 64), dq=Tile(64, 32), dkv=Tile(16, 32))


@pytest.fixture(autouse=True, scope="module")
def interpreted():
    """Register the kernels on the CPU, as a backend of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        backend = api.Backend(partial(pallas_gpu, interpret=True, tiles=SMALL))
        patch.setitem(api.BACKENDS, INTERPRETED, backend)
        yield


def lowered(f, *args, platform: str = "cuda") -> str:
    """Lower for a platform. Only shapes are passed: with a mesh of another machine in context, nothing can run."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), args)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Pallas's Triton
        return jax.jit(f).trace(*shapes).lower(lowering_platforms=(platform,)).as_text()


def gradients(implementation, shape: Shape):
    """Return a function of q, k, v and spans, and its arguments."""

    def f(q, k, v, spans):
        call = partial(attention, scale=SCALE, logits_soft_cap=shape.soft_cap, implementation=implementation)
        return jax.grad(lambda *args: call(*args, spans).astype(jnp.float32).sum(), (0, 1, 2))(q, k, v)

    return f, *arrays(shape)[:3], causal(shape.B, shape.T)


class TestPallasGpu(AttentionContract):
    implementation = INTERPRETED
    shapes = INTERPRETER_SHAPES
    packed_shape = INTERPRETER_PACKED_SHAPE
    check_vma = False

    def test_blocks_without_an_allowed_pair_are_not_read(self):
        """NaN in the keys of another block has no effect, so that block was never multiplied."""
        shape = self.packed_shape
        q, k, v, d_out = arrays(shape)
        start = np.full((shape.B, shape.T), 70, np.int32)
        far = jnp.arange(shape.S)[None, :, None, None] >= 128
        args = q, jnp.where(far, jnp.nan, k), jnp.where(far, jnp.nan, v), d_out, Spans(start, start + 40)
        assert all(np.isfinite(x).all() for x in run(*args, implementation=INTERPRETED))


@pytest.fixture(scope="class")
def gpu_in_full_precision():
    """Skip without an NVIDIA GPU; there, products of float32 are not TF32, as the contract's tolerances need."""
    if support.compute_capability() is None:
        pytest.skip("needs an NVIDIA GPU: tools/gpu_day.sh runs it there")
    with jax.default_matmul_precision("highest"):
        yield


@pytest.mark.usefixtures("gpu_in_full_precision")
class TestCompiled(AttentionContract):
    implementation = "pallas_gpu"


@pytest.mark.parametrize(
    "shape",
    [
        Shape(2, 300, 300, 4, 2, 64, dtype="bfloat16"),
        Shape(1, 1, 300, 4, 1, 100, dtype="bfloat16"),
        Shape(1, 300, 200, 2, 2, 256, soft_cap=2.0),
    ],
)
@pytest.mark.parametrize("implementation", ["pallas_gpu", None])
def test_lowers_to_triton(shape, implementation):
    f, *args = gradients(implementation, shape)
    with lower_for_gpu():
        text = lowered(f, *args)
    for kernel in ("forward_kernel", "dq_kernel", "dkv_kernel"):
        assert f'name = "{kernel}"' in text
    assert text.count("@__gpu$xla.gpu.triton") == 3


def test_lowers_under_vmap():
    """Triton's grid has at most three dimensions."""
    shape = Shape(2, 64, 64, 2, 1, 16)
    f = jax.vmap(jax.vmap(partial(pallas_gpu, spans=causal(2, 64), scale=SCALE)))
    args = [x[None, None] for x in arrays(shape)[:3]]
    with lower_for_gpu():
        assert "xla.gpu.triton" in lowered(f, *args)


@pytest.mark.parametrize("check_vma", [True, False])
def test_lowers_inside_shard_map(check_vma):
    f, *args = gradients("pallas_gpu", Shape(2, 64, 64, 4, 1, 64, dtype="bfloat16"))
    split, whole = jax.sharding.PartitionSpec("x"), jax.sharding.PartitionSpec()
    with lower_for_gpu():
        f = jax.shard_map(f, in_specs=(split,) * 3 + (whole,), out_specs=(split,) * 3, check_vma=check_vma)
        assert lowered(f, *args).count("@__gpu$xla.gpu.triton") == 3


def test_is_for_cuda_only():
    f, *args = gradients(None, Shape(2, 64, 64, 2, 1, 16))
    with lower_for_gpu():
        assert all("triton" not in lowered(f, *args, platform=platform) for platform in ("cpu", "tpu"))
    assert "triton" not in lowered(f, *args)  # no GPU in sight: plain XLA, which runs on all of them


@pytest.mark.parametrize(
    ("kind", "shape", "reason"),
    [
        (None, Shape(1, 4, 4, 1, 1, 8), "no NVIDIA GPU is in sight"),
        (T4, Shape(1, 4, 4, 1, 1, 8), "compute capability is 7.5; it needs 8.0"),
        (H100, Shape(1, 4, 4, 1, 1, 264), "head dim is 264"),
        ("NVIDIA L4", Shape(1, 4, 4, 1, 1, 256), "head dim is 256; on this GPU"),
    ],
)
def test_unsupported_calls_give_the_reason(kind, shape, reason):
    call = partial(attention, *arrays(shape)[:3], causal(1, 4), scale=SCALE, implementation="pallas_gpu")
    with pytest.raises(ValueError, match=reason), nullcontext() if kind is None else lower_for_gpu(kind):
        call()


def test_compute_capability_of_the_gpu_in_sight():
    assert support.compute_capability() is None
    with lower_for_gpu():
        assert support.compute_capability() == 90
    with lower_for_gpu("an unknown GPU"):
        assert support.compute_capability() is None
