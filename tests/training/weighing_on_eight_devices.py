"""Takes a train step of the bigram model, in slices, under weights of documents: on one device, and spread over eight.

Prints the largest difference of any metric or parameter.
"""

import os

os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np
from bigram import COURSE, jitted, make_batch, start
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pathways_lite.methods.reweighting import statistics, weights_by_clock
from pathways_lite.recipe import LinUpper, Reweighting, Steps
from pathways_lite.training.weighting import SampleWeights

HOW = Reweighting(rule=LinUpper(), sample="document", burn_in=Steps(n=0))
ROWS, SLICE = 16, 8


def main() -> None:
    mesh = Mesh(np.asarray(jax.devices()), ("batch",))
    spread, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("batch",), ()))
    step = jitted(microbatch=SLICE, weights=SampleWeights(weights_by_clock(HOW, COURSE), statistics))
    batch, clock = make_batch(0, ROWS), COURSE.clock(0)
    one = step(start(), batch, clock)
    eight = step(jax.device_put(start(), whole), jax.device_put(batch, spread), clock)
    assert eight[0].params["head"].sharding.device_set == set(jax.devices())
    off = [
        np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max()
        for a, b in zip(*(jax.tree.leaves((state.params, metrics)) for state, metrics in (one, eight)), strict=True)
    ]
    print(max(off))


if __name__ == "__main__":
    main()
