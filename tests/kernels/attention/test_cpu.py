import io
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import subprocess_environment
from helpers.attention_contract import SCALE, AttentionContract, Shape, arrays, assert_close, run, training_spans
from pathways_kernels.attention import attention, support
from pathways_kernels.attention.spans import causal

pytestmark = pytest.mark.skipif(support.cpu_library_reason() is not None, reason=f"cpu: {support.cpu_library_reason()}")


class TestCpu(AttentionContract):
    implementation = "cpu"
    check_vma = False  # jax.ffi.ffi_call cannot say over which axes its results vary

    @pytest.mark.parametrize(("D", "cap"), [(16, None), (48, None), (64, 3.0), (128, None)])
    @pytest.mark.parametrize("T", [1, 31, 97, 257])
    def test_parts_of_blocks(self, T, D, cap):
        """Lengths around those of blocks and panels, heads of every number of vectors, more keys than queries."""
        shape = Shape(2, T, T + 40, 4, 2, D, soft_cap=cap)
        args = *arrays(shape), training_spans(np.random.default_rng(T + D), shape.B, shape.T, shape.S)
        for name, x, y in zip(
            ("output", "d_q", "d_k", "d_v"),
            self.run(shape, *args),
            run(*args, soft_cap=cap, implementation="reference"),
            strict=True,
        ):
            assert_close(x, y, 1e-5 if name == "output" else 1e-4, name)

    @pytest.mark.parametrize("wrong", [jnp.nan, jnp.inf])
    def test_what_is_not_finite_stays_so(self, wrong):
        """The spike guard finds a broken state by its loss: a kernel must not make it finite again."""
        shape = Shape(1, 40, 40, 2, 2, 16)
        q, k, v, d_out = arrays(shape)
        spans = causal(1, 40)
        broken = self.run(shape, q.at[0, 7, 0, 3].set(wrong), k, v, d_out, spans)
        assert np.isnan(broken[0][0, 7, 0]).all()
        assert np.isfinite(np.delete(np.asarray(broken[0])[0, :, 0], 7, axis=0)).all()
        assert not np.isfinite(broken[1][0, 7, 0]).any()
        assert np.isnan(self.run(shape, q, k.at[0, 7, 0, 3].set(jnp.nan), v, d_out, spans)[0][0, 7:, 0]).all()
        assert np.isnan(self.run(shape, q, k, v.at[0, 7, 0].set(jnp.nan), d_out, spans)[0][0, 7:, 0]).all()

    def test_a_row_does_not_depend_on_its_batch(self):
        shape = self.packed_shape
        args = *arrays(shape), causal(shape.B, shape.T)
        for both, one in zip(
            self.run(shape, *args), self.run(shape, *jax.tree.map(lambda x: x[:1], args)), strict=True
        ):
            np.testing.assert_array_equal(both[:1], one)

    def test_other_platforms_compute_it_without_the_library(self):
        """Of one traced program, whatever it is lowered for."""
        q, k, v, _ = arrays(Shape(1, 40, 40, 2, 2, 16))
        f = jax.jit(lambda q, k, v: attention(q, k, v, causal(1, 40), scale=SCALE, implementation="cpu"))
        traced = f.trace(q, k, v)
        assert "attention_forward" in traced.lower(lowering_platforms=("cpu",)).as_text()
        assert "attention_forward" not in traced.lower(lowering_platforms=("tpu",)).as_text()

    def test_many_calls_at_once_end(self):
        """More calls than threads, each of which waits for its tasks."""
        shape = Shape(2, 64, 64, 4, 4, 16)
        args = *arrays(shape), causal(2, 64)
        q, k, v, _, spans = args

        @jax.jit
        def many(q, k, v):
            return [attention(q * i, k, v, spans, scale=SCALE, implementation="cpu") for i in range(1, 33)]

        for _ in range(5):
            outs = [many(q, k, v) for _ in range(4)]
            jax.block_until_ready(outs)
        np.testing.assert_array_equal(outs[0][0], self.run(shape, *args)[0])


def test_narrow_vectors_compute_the_same():
    """A process keeps the set that it chose: the same results, summed in another order, from one that is told to."""
    shape = Shape(2, 97, 137, 4, 2, 48, soft_cap=3.0)
    script = f"""
import sys
import numpy as np
from helpers.attention_contract import Shape, arrays, run, training_spans
shape = {shape!r}
args = *arrays(shape), training_spans(np.random.default_rng(0), shape.B, shape.T, shape.S)
np.savez(sys.stdout.buffer, *run(*args, soft_cap=shape.soft_cap, implementation="cpu"))
"""
    environment = subprocess_environment() | {"PATHWAYS_KERNELS_CPU": "avx2"}
    process = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=False)
    assert process.returncode == 0, process.stderr.decode()[-3000:]
    args = *arrays(shape), training_spans(np.random.default_rng(0), shape.B, shape.T, shape.S)
    expected = run(*args, soft_cap=shape.soft_cap, implementation="cpu")
    with np.load(io.BytesIO(process.stdout)) as actual:
        for x, y in zip(actual.values(), expected, strict=True):
            assert_close(x, y, 1e-5)


def test_it_is_taken_on_cpus():
    q, k, v, _ = arrays(Shape(1, 40, 40, 2, 2, 16))
    program = jax.jit(lambda q, k, v: attention(q, k, v, causal(1, 40), scale=SCALE)).lower(q, k, v).as_text()
    assert "attention_forward" in program


@pytest.mark.parametrize(
    ("change", "reason"), [("absent", "not compiled when"), ("newer", "another version of cpu.cc; install")]
)
def test_without_a_library_of_this_version_it_is_refused_and_not_taken(change, reason, monkeypatch, tmp_path):
    library = tmp_path / support.CPU_LIBRARY.name
    if change == "newer":
        library.write_bytes(support.CPU_LIBRARY.read_bytes())
        library.with_name("cpu.cc").write_text("// another version\n")
    monkeypatch.setattr(support, "CPU_LIBRARY", library)
    monkeypatch.setattr(support, "cpu_library", support.cpu_library.__wrapped__)
    monkeypatch.setattr(support, "cpu_library_reason", support.cpu_library_reason.__wrapped__)
    q, k, v, _ = arrays(Shape(1, 40, 40, 2, 2, 16))
    with pytest.raises(ValueError, match=reason):
        attention(q, k, v, causal(1, 40), scale=SCALE, implementation="cpu")
    program = jax.jit(lambda q, k, v: attention(q, k, v, causal(1, 40), scale=SCALE)).lower(q, k, v).as_text()
    assert "attention_forward" not in program
