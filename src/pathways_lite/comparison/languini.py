"""Compute classes as in the Languini Kitchen (Stanić et al. 2023, arXiv 2309.11197, section 3).

A class is a number of accelerator hours. A model trains on as many tokens as the reference accelerator would process in
that time at the model's own best throughput, however fast the machine is that trains it.
"""

from __future__ import annotations

import math

CLASSES = (3, 6, 12, 24, 48, 96, 192, 384)  # hours


def class_tokens(hours: float, tokens_per_second: float) -> float:
    """Training tokens of a class; throughput of the reference accelerator at its best micro-batch."""
    return tokens_per_second * 3600 * hours


def class_steps(hours: float, tokens_per_second: float, tokens_per_step: int) -> int:
    """Whole steps of a class: a recipe's budget."""
    return int(class_tokens(hours, tokens_per_second) // tokens_per_step)


def normalised_perplexity(nll: float, size: int) -> float:
    """Perplexity per byte of text, which does not depend on the tokenizer: exp(nats / bytes).

    Bytes of UTF-8, not characters.
    """
    return math.exp(nll / size)
