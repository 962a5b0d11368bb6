"""Train steps of the bigram model that learn domain weights by DoReMi and by DoGE."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from helpers.bigram import bigram_losses, initial_state
from pathways_lite.methods import domain_weights
from pathways_lite.recipe import DoGE, DoReMi, Reference
from pathways_lite.training.sample_weights import MethodState, SampleWeights, domain_alignments

D = 3
DOREMI, DOGE = DoReMi(reference=Reference(stage="reference")), DoGE(mu=0.01)
TARGET = np.ones(D, np.float32)


def statistics(weights, batch, memory):
    return domain_weights.statistics(memory)


def doremi_weights(excess, batch, clock, memory):
    return domain_weights.doremi(DOREMI, excess, batch, memory)


def doge_weights(scores, batch, clock, memory):
    return domain_weights.doge(DOGE, 0.02, *scores, batch, memory)


SAMPLE_WEIGHTS = {
    "doremi": SampleWeights(doremi_weights, statistics, reference_fn=bigram_losses),
    "doge": SampleWeights(doge_weights, statistics, signal_fn=functools.partial(domain_alignments, target=TARGET)),
}


def state_of_method(method):
    """Return the bigram model's state with uniform weights; DoReMi's reference is unsure of every token."""
    state = initial_state()
    reference = jax.tree.map(jnp.zeros_like, state.params) if method == "doremi" else ()
    memory = jax.tree.map(jnp.asarray, domain_weights.init(np.ones(D, bool)))
    return state._replace(method_state=MethodState(memory, reference))
