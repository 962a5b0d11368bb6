"""Tasks evaluated by several processes together: every one of them has the results of one device."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from helpers.task_evaluation import evaluate_tasks
from pathways_lite.parallel.sharding import Layout


def test_every_process_has_the_results_of_one_device(start_group: Callable[..., Any]) -> None:
    script = """
    import json
    from helpers.task_evaluation import evaluate_tasks
    from pathways_lite.parallel.mesh import device_mesh
    from pathways_lite.parallel.sharding import Layout
    from pathways_lite.recipe import Mesh
    layout = Layout(device_mesh(Mesh(tensor=2)))  # rows and weights over processes, heads over each one's devices
    assert layout.batch_shard.shards == (coordination.process_index(),)
    print("RESULT", json.dumps(evaluate_tasks(layout)), flush=True)
    coordination.shutdown()
    """
    outputs = start_group(script, 2, 2).wait()
    found = [json.loads(line[7:]) for output in outputs for line in output.splitlines() if line.startswith("RESULT ")]
    assert len(found) == 2, outputs
    assert str(found[0]) == str(found[1])  # as text, because NaN is not equal to itself
    for task, result in evaluate_tasks(Layout()).items():
        assert found[0][task] == pytest.approx(result, abs=1e-4, nan_ok=True)
