"""The real train step compiles for TPUs on a machine that has none (needs the extra `tpu`)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys
from pathways_lite.planner.chips import abstract_on_device, described_device, quiet_libtpu, tracing_for
quiet_libtpu()
import jax
from pathways_lite.recipe import load_recipe
from pathways_lite.training.components import Components, abstract_batch
from pathways_lite.training.stage import StageSpec

recipe = load_recipe(sys.argv[1], ["stages.base.model.dtype=bfloat16", "stages.base.data.seq_len=128"])
components = Components(StageSpec(recipe, 0))
arguments = (components.abstract_state, abstract_batch(8, 128), components.timeline.clock(0))
with tracing_for("v5e"):
    step = jax.jit(components.step_function, donate_argnums=0)
    lowered = step.lower(*abstract_on_device(arguments, described_device("v5e")))
compiled = lowered.compile()
memory = compiled.memory_analysis()
kernels = [name for name in ("forward", "backward") if f"interval_attention_{name}" in compiled.as_text()]
print(json.dumps([memory.argument_size_in_bytes, memory.temp_size_in_bytes, kernels]))
"""


@pytest.mark.libtpu
def test_the_train_step_compiles_for_a_tpu(recipe_file: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(recipe_file)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    arguments, temporaries, kernels = json.loads(done.stdout.splitlines()[-1])
    assert 0 < temporaries < 64e6
    assert arguments > 26_752 * 4 * 3  # parameters and two moments
    assert kernels == ["forward", "backward"]
