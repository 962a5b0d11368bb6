"""Takes train steps of the bigram model under sample weights, on one of eight devices and spread over all of them.

Prints, as JSON by case, the largest difference of metrics and parameters.
"""

import json
import os

os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np
from bigram import COURSE, jitted, make_batch, start
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pathways_lite.methods.reweighting import statistics, weights_by_clock
from pathways_lite.recipe import LinUpper, Reweighting, Steps, Top
from pathways_lite.training.weighting import SampleWeights

ROWS = 16
CASES = {
    "documents in slices": (Reweighting(rule=LinUpper(), sample="document", burn_in=Steps(n=0)), 8),
    "a selection": (Reweighting(rule=Top(share=0.5), burn_in=Steps(n=0)), None),
}


def main() -> None:
    mesh = Mesh(np.asarray(jax.devices()), ("batch",))
    spread, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("batch",), ()))
    found = {}
    for name, (how, microbatch) in CASES.items():
        weights = SampleWeights(weights_by_clock(how, COURSE), statistics, how.rows)
        step, batch = jitted(microbatch=microbatch, weights=weights), make_batch(0, ROWS)
        one = step(start(), batch, COURSE.clock(0))
        all_of_them = step(jax.device_put(start(), whole), jax.device_put(batch, spread), COURSE.clock(0))
        assert all_of_them[0].params["head"].sharding.device_set == set(jax.devices())
        state_and_metrics = ((state.params, metrics) for state, metrics in (one, all_of_them))
        off = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()), *state_and_metrics)
        found[name] = max(jax.tree.leaves(off))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
