"""The real train step compiles for a TPU on a machine that has none (needs the extra `tpu`)."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys
import jax
from jax.experimental import topologies
from pathways_lite.recipe import load_recipe
from pathways_lite.training.setup import Setup, abstract_batch

recipe = load_recipe(sys.argv[1], ["stages.base.model.dtype=bfloat16", "stages.base.data.seq_len=128"])
setup = Setup(recipe, 0)
device = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[0]
sharding = jax.sharding.SingleDeviceSharding(device)
place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
arguments = (setup.abstract_state, abstract_batch(8, 128), setup.course.clock(0))
compiled = jax.jit(setup.step_function, donate_argnums=0).lower(*jax.tree.map(place, arguments)).compile()
memory = compiled.memory_analysis()
print(json.dumps({"arguments": memory.argument_size_in_bytes, "temporaries": memory.temp_size_in_bytes}))
"""


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra `tpu`)")
def test_the_train_step_compiles_for_a_tpu(recipe_file: Path) -> None:
    # libtpu would look for a TPU's metadata server, and lock itself to one process.
    environment = {
        **os.environ,
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "TPU_STDERR_LOG_LEVEL": "3",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(recipe_file)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    memory = json.loads(done.stdout.splitlines()[-1])
    assert 0 < memory["temporaries"] < 64e6
    assert memory["arguments"] > 26_752 * 4 * 3  # parameters and two moments
