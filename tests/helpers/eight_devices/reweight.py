"""Take reweighted train steps of the bigram model on one CPU device and on eight, and print how they differ.

    python -m helpers.eight_devices.reweight

The steps run in microbatches, once with document weights and once with learned domain weights. The output is the
largest difference of any metric or parameter.
"""

import os

os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from helpers.bigram import TIMELINE, initial_state, jitted_step, make_batch
from helpers.domain_weight_steps import SAMPLE_WEIGHTS, D, state_of_method
from pathways_lite.methods.reweighting import statistics, weights_by_clock
from pathways_lite.recipe import LinUpper, Reweighting, Steps
from pathways_lite.training.sample_weights import SampleWeights, stateless

REWEIGHTING = Reweighting(rule=LinUpper(), sample="document", burn_in=Steps(n=0))
DOCUMENT_WEIGHTS = SampleWeights(
    stateless(weights_by_clock(REWEIGHTING, TIMELINE)), lambda weights, batch, _: statistics(weights, batch)
)
ROWS, MICROBATCH = 16, 8


def compared_leaves(state, metrics):
    """Return the leaves that both runs must agree on."""
    return jax.tree.leaves((state.params, state.method_state, metrics))


def main() -> None:
    mesh = Mesh(np.asarray(jax.devices()), ("batch",))
    sharded, replicated = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("batch",), ()))
    batch, clock = make_batch(0, ROWS), TIMELINE.clock(0)
    batch = batch._replace(domain=np.arange(ROWS, dtype=np.int32) % D)
    differences = []
    for weights, state in (
        (DOCUMENT_WEIGHTS, initial_state),
        (SAMPLE_WEIGHTS["doge"], lambda: state_of_method("doge")),
    ):
        step = jitted_step(microbatch=MICROBATCH, weights=weights)
        single = step(state(), batch, clock)
        spread = step(jax.device_put(state(), replicated), jax.device_put(batch, sharded), clock)
        assert spread[0].params["head"].sharding.device_set == set(jax.devices())
        pairs = zip(compared_leaves(*spread), compared_leaves(*single), strict=True)
        differences += [np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max() for a, b in pairs]
    print(max(differences))


if __name__ == "__main__":
    main()
