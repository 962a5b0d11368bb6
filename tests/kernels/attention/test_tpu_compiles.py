"""The TPU kernels compile for every chip on a machine that has none (needs the extra `tpu`)."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys
from pathways_lite.planner.chips import abstract_on_device, described_device, quiet_libtpu, tracing_for
quiet_libtpu()
import jax
import jax.numpy as jnp
from pathways_kernels.attention import Spans, attention

def run(q, k, v, spans, d_out):
    out, pullback = jax.vjp(lambda q, k, v: attention(q, k, v, spans, scale=0.1, logits_soft_cap=cap), q, k, v)
    return out, pullback(d_out)

chip = sys.argv[1]
for T, D, H, K, dtype, cap in json.loads(sys.argv[2]):
    q, k = (jax.ShapeDtypeStruct((1, T, heads, D), dtype) for heads in (H, K))
    bound = jax.ShapeDtypeStruct((1, T), jnp.int32)
    with tracing_for(chip):
        lowered = jax.jit(run).lower(*abstract_on_device((q, k, k, Spans(bound, bound), q), described_device(chip)))
    text = lowered.compile().as_text()
    print("%d kernels" % text.count('custom_call_target="tpu_custom_call"'), flush=True)
"""
# T, D, query heads, key heads, type, soft cap: the shortest and the longest, multi-head, grouped, multi-query.
SHORT, LONG = (2048, 128, 2, 2, "bfloat16", None), (32768, 256, 4, 1, "bfloat16", None)
FAST = {"v4": LONG, "v5e": SHORT, "v5p": LONG, "v6e": SHORT}  # the longest where vector memory is least
ALL = [
    SHORT,
    LONG,
    (32768, 128, 2, 2, "bfloat16", None),
    (8192, 256, 2, 2, "bfloat16", None),
    (4096, 128, 16, 2, "bfloat16", 30.0),
    (2048, 64, 2, 1, "bfloat16", None),
    (2048, 128, 2, 1, "float32", None),
    (1000, 80, 2, 2, "bfloat16", None),
]


@pytest.mark.libtpu
@pytest.mark.parametrize(
    ("chip", "cases"),
    [
        *(pytest.param(chip, [case], id=chip) for chip, case in FAST.items()),
        *(pytest.param(chip, ALL, id=f"{chip}, all", marks=pytest.mark.slow) for chip in FAST),
    ],
)
def test_forward_and_backward_compile(chip, cases):
    command = [sys.executable, "-c", SCRIPT, chip, json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split("\n")[:-1] == ["2 kernels"] * len(cases)
