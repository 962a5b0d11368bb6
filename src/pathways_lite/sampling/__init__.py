"""Sampling: rules per row, automata, and a queue of requests. Below text: tokens in, tokens out."""

from pathways_lite.sampling.automaton import FREE, Automaton, first_stop, grammar, stop_strings, trie
from pathways_lite.sampling.requests import Finish, Request, Sample
from pathways_lite.sampling.rules import GREEDY, Sampling
from pathways_lite.sampling.sampler import Sampler

__all__ = [
    "FREE", "GREEDY", "Automaton", "Finish", "Request", "Sample", "Sampler", "Sampling", "first_stop", "grammar",
    "stop_strings", "trie",
]  # fmt: skip
