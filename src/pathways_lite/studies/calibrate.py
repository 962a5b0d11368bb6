"""Calibrate the shapes of a study's nodes in a process of its own, which starts and ends as a node's process does.

    python -m pathways_lite.studies.calibrate SECONDS RECIPE.json ...

Each recipe ends with the stage whose shape is measured. Prints a JSON object for each: its `shape`, `speed` and
`source`, and the `seconds` that this took. What is left of the process's time is what a node's process takes for its
start and end. After SECONDS no shape is begun; nor is one where little of the time depends on its sizes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pathways_lite.accelerators import leave_out_missing_tpu
from pathways_lite.compilation_cache import enable_compilation_cache
from pathways_lite.host_memory import keep_freed_memory, runs_on_cpu_only

_SMALL = 0.25  # share of a node's time up to which its training and evaluating may be an estimate


def main(seconds: float, paths: Sequence[Path]) -> None:
    """Calibrate the last stages of the recipes in files, the largest first."""
    leave_out_missing_tpu()
    if runs_on_cpu_only():
        keep_freed_memory()
    enable_compilation_cache()
    from pathways_lite.errors import UserError
    from pathways_lite.recipe import load_recipe
    from pathways_lite.training.ending import estimate_ending
    from pathways_lite.training.estimate import estimate_from, stage_speed
    from pathways_lite.training.resolve import resolve_recipe
    from pathways_lite.training.run import current_provenance
    from pathways_lite.training.speed import Speed, stage_family, stage_shape, startup_seconds
    from pathways_lite.training.stage import StageSpec

    def is_small(spec: StageSpec, speed: Speed) -> bool:
        """Return whether little of the node's time depends on its sizes, going by those of a larger one."""
        seconds = estimate_from(spec, speed, "").seconds
        return seconds.train + seconds.evaluate <= _SMALL * seconds.total

    print(json.dumps({"seconds": startup_seconds()}), flush=True)  # a node's speed has them, too
    specs = []
    for path in paths:
        try:
            recipe = resolve_recipe(load_recipe(path))
        except UserError:  # training will say so
            continue
        specs.append(StageSpec(recipe, len(recipe.stages) - 1))
    current_provenance()
    deadline, measured = time.monotonic() + seconds, dict[str, Speed]()
    for spec in sorted(specs, key=lambda spec: -spec.timeline.flops_per_token):
        family = stage_family(spec.stage)
        if time.monotonic() > deadline or (family in measured and is_small(spec, measured[family])):
            continue
        begin = time.perf_counter()
        speed, source, is_assumed = stage_speed(spec, calibrate=True, like=measured.get(family))
        if speed.calibrated and not is_assumed:
            measured[family] = speed
        estimate_ending(spec, probe=True, samples=False, pages=False)  # keeps how fast compressors are
        row = {"shape": stage_shape(spec.stage), "speed": asdict(speed), "source": source}
        print(json.dumps({**row, "seconds": time.perf_counter() - begin}), flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]), [Path(path) for path in sys.argv[2:]])
