"""Takes train steps of the bigram model, in slices, under weights of documents and under weights of domains that are
learned: on one device, and spread over eight.

Prints the largest difference of any metric or parameter.
"""

import os

os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np
from bigram import COURSE, jitted, make_batch, start
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from test_learning_domain_weights import LEARN, D, first

from pathways_lite.methods.reweighting import statistics, weights_by_clock
from pathways_lite.recipe import LinUpper, Reweighting, Steps
from pathways_lite.training.sample_weights import SampleWeights, stateless

HOW = Reweighting(rule=LinUpper(), sample="document", burn_in=Steps(n=0))
DOCUMENTS = SampleWeights(
    stateless(weights_by_clock(HOW, COURSE)), lambda weights, batch, _: statistics(weights, batch)
)
ROWS, SLICE = 16, 8


def main() -> None:
    mesh = Mesh(np.asarray(jax.devices()), ("batch",))
    spread, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("batch",), ()))
    batch, clock = make_batch(0, ROWS), COURSE.clock(0)
    batch = batch._replace(domain=np.arange(ROWS, dtype=np.int32) % D)
    off = []
    for weights, state in ((DOCUMENTS, start), (LEARN["doge"], lambda: first("doge"))):
        step = jitted(microbatch=SLICE, weights=weights)
        one = step(state(), batch, clock)
        eight = step(jax.device_put(state(), whole), jax.device_put(batch, spread), clock)
        assert eight[0].params["head"].sharding.device_set == set(jax.devices())
        kept = lambda found: jax.tree.leaves((found[0].params, found[0].method_state, found[1]))  # noqa: E731
        pairs = zip(kept(one), kept(eight), strict=True)
        off += [np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max() for a, b in pairs]
    print(max(off))


if __name__ == "__main__":
    main()
