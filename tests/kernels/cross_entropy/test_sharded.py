"""Cross-entropy with the head spread over the vocabulary and the tokens over a data axis: what goes over the wires."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json, math, re, sys
from types import SimpleNamespace
case = SimpleNamespace(**json.loads(sys.argv[1]))
if case.topology:
    from pathways_lite.parallel.described import quiet_libtpu
    quiet_libtpu()
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from pathways_kernels.cross_entropy import chunked, cross_entropy

devices = jax.devices()
if case.topology:
    devices = topologies.get_topology_desc(platform="tpu", topology_name=case.topology).devices
else:
    chunked.CHUNK_TOKENS = case.chunk_tokens
mesh = Mesh(np.array(devices).reshape(case.mesh), ("data", "tensor"))
B, T, E, V = case.shape
over_data, over_tensor = (NamedSharding(mesh, PartitionSpec(axis)) for axis in ("data", "tensor"))

def run(hidden, head, targets, d_loss, d_log_z):
    function = lambda h, w: cross_entropy(h, w, targets, soft_cap=5.0, token_shards=case.token_shards)
    values, pull_back = jax.vjp(function, hidden, head)
    return *values, *pull_back((d_loss, d_log_z))

shardings = (over_data, over_tensor, over_data, over_data, over_data)
sharded = jax.jit(run, in_shardings=shardings, out_shardings=(over_data,) * 3 + (over_tensor,))
wide = jnp.bfloat16 if case.topology else jnp.float32
kinds = ((B, T, E), wide), ((V, E), wide), ((B, T), jnp.int32), ((B, T), jnp.float32), ((B, T), jnp.float32)
shapes = [jax.ShapeDtypeStruct(shape, dtype, sharding=s) for (shape, dtype), s in zip(kinds, shardings)]
compiled = sharded.lower(*shapes).compile()

collectives = []
for line in compiled.as_text().splitlines():
    kinds_of = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    found = re.search(rf" = (.*?) ({kinds_of})(-start)?[(]", line)
    if found:
        sizes = [math.prod(map(int, filter(None, s.split(",")))) for s in re.findall(r"\\w\\[([\\d,]*)\\]", found[1])]
        collectives.append([found[2], max(sizes), "while/body" in line])
errors = []
if not case.topology:
    random = np.random.default_rng(0)
    arrays = [jnp.asarray(random.integers(0, V, s) if d == jnp.int32 else random.normal(size=s), d) for s, d in kinds]
    placed = [jax.device_put(x, s) for x, s in zip(arrays, shardings)]
    for a, b in zip(compiled(*placed), jax.jit(run)(*(jax.device_put(x, jax.devices()[0]) for x in arrays))):
        errors.append(float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max()))
print(json.dumps([collectives, errors]))
"""


def compiled(**case):
    """The collectives (kind, elements, whether in a loop) and the results' relative errors against one device's."""
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    case = {"topology": None, "chunk_tokens": 32} | case
    done = subprocess.run([sys.executable, "-c", SCRIPT, json.dumps(case)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


# So that the shards of the head, of a chunk's hidden states and of its logits differ in size.
E, V = 24, 512


def test_vocabulary_sharded_head_stays_where_it_is():
    shape = 2, 64, E, V
    collectives, errors = compiled(mesh=(1, 8), shape=shape, token_shards=1)
    assert max(errors) < 1e-5
    chunk_tokens = 32
    assert {kind for kind, *_ in collectives} == {"all-reduce"}
    assert sorted({elements for _, elements, _ in collectives}) == [chunk_tokens, chunk_tokens * E]
    assert chunk_tokens * E < V * E // 8  # so that the head's shard would be seen


def test_tokens_sharded_too_sum_the_heads_gradient_once():
    shape = 8, 64, E, V
    collectives, errors = compiled(mesh=(4, 2), shape=shape, token_shards=4)
    assert max(errors) < 1e-5
    assert {kind for kind, *_ in collectives} == {"all-reduce"}
    head_shard, chunk_tokens = V * E // 2, 32
    assert [in_loop for _, elements, in_loop in collectives if elements == head_shard] == [False]
    assert {elements for _, elements, _ in collectives} == {chunk_tokens, chunk_tokens * E, head_shard}


def test_without_token_shards_the_heads_gradient_is_sent_once_per_chunk():
    """Why `token_shards` exists. Should the compiler learn to move the sum out of the loop, drop the argument."""
    shape = 8, 64, E, V
    collectives, errors = compiled(mesh=(4, 2), shape=shape, token_shards=1)
    assert max(errors) < 1e-5
    assert [in_loop for _, elements, in_loop in collectives if elements == V * E // 2] == [True]


@pytest.mark.libtpu
@pytest.mark.parametrize(("mesh", "token_shards"), [((1, 4), 1), ((2, 2), 2)])
def test_collectives_of_a_tpu_slice(mesh, token_shards):
    E, V = 256, 20480
    shape = 4, 4096, E, V  # two chunks: a loop that runs once would be dissolved
    collectives, _ = compiled(topology="v5e:2x2", mesh=mesh, shape=shape, token_shards=token_shards)
    chunk_tokens, head_shard = 4096, V * E // mesh[1]
    for kind, elements, in_loop in collectives:
        if elements == head_shard:
            assert (kind, in_loop, mesh[0]) == ("all-reduce", False, 2)
        elif kind == "all-gather":  # of log Z's and the target's parts, one per device
            assert elements <= chunk_tokens * mesh[1]
        else:  # of the hidden states' gradient
            assert (kind, elements) == ("all-reduce", chunk_tokens * E)
