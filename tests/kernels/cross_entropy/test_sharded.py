"""Cross-entropy under `shard_map`: tokens on one axis of the mesh, the vocabulary on another."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec as P
from pathways_kernels.cross_entropy import chunked, cross_entropy

chunked.CHUNK_TOKENS = 32
B, T, E, V = 8, 24, 16, 64
random = np.random.default_rng(0)
hidden, head = (jnp.asarray(random.normal(size=shape), jnp.float32) for shape in ((B, T, E), (V, E)))
targets = jnp.asarray(random.integers(0, V, (B, T)))
weights = [jnp.asarray(random.normal(size=(B, T)), jnp.float32) for _ in range(3)]

def run(function):
    @jax.jit
    def both(hidden, head, targets, weights):
        values, pull_back = jax.vjp(lambda h, w: function(h, w, targets), hidden, head)
        return *values, *pull_back(weights)

    return both(hidden, head, targets, tuple(weights))

exact = run(lambda h, w, t: cross_entropy(h, w, t, soft_cap=5.0, mean_logit=True, implementation="reference"))
errors = {}
for name in ("chunked", "reference"):
    for data, tensor in ((4, 2), (1, 8), (8, 1)):
        mesh = Mesh(np.array(jax.devices()).reshape(data, tensor), ("data", "tensor"))

        def local(hidden, head, targets):
            hidden, targets = jax.lax.pcast((hidden, targets), "tensor", to="varying")
            head = jax.lax.pcast(head, "data", to="varying")
            options = {"soft_cap": 5.0, "mean_logit": True, "vocab_axis": "tensor", "implementation": name}
            return cross_entropy(hidden, head, targets, **options)

        tokens, vocabulary = P("data"), P("tensor")
        mapped = jax.shard_map(local, mesh=mesh, in_specs=(tokens, vocabulary, tokens), out_specs=(tokens,) * 3)
        ours = run(mapped)
        off = lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max())
        errors[f"{name} {data} {tensor}"] = list(map(off, ours, exact))
print(json.dumps(errors))
"""


@pytest.fixture(scope="module")
def errors():
    """Return by case the largest relative errors of values and gradients against one device's reference."""
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "8"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("mesh", ["4 2", "1 8", "8 1"])
@pytest.mark.parametrize("implementation", ["chunked", "reference"])
def test_shards_of_tokens_and_vocabulary_give_the_whole(errors, implementation, mesh):
    case_errors = errors[f"{implementation} {mesh}"]
    assert len(case_errors) == 5
    assert max(case_errors) < 1e-5
