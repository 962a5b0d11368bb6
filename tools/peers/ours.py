"""The train step of pathways_lite: that of tools/bench_train.py."""

import argparse
import sys
from pathlib import Path

from timed_steps import report, settings

sys.path.insert(0, str(Path(__file__).parent.parent))
import bench_train
from pathways_lite.host_memory import keep_freed_memory

sizes = settings()
keep_freed_memory()
chosen = argparse.Namespace(
    shape=sizes["shape"], dtype="float32", unroll=sizes["way"] == "unrolled", remat="none", attention=None
)
model = bench_train.model_of(chosen)
run, _ = bench_train.compile_step(model, sizes["sequence"], sizes["batch"])
report(run, sizes["steps"])
