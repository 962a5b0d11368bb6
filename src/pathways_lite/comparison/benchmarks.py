"""Time to target by AlgoPerf's rules (Dahl et al. 2023, arXiv 2306.07179, sections 2 and 4.3).

A submission's time on a workload is the median over studies of the best of a study's trials; its score is the area
under its performance profile: the share of workloads on which it is within a factor τ of the fastest submission, for τ
from 1 to `R_MAX`. Both are relative to the submissions they are computed with.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

Times = Mapping[str, Mapping[str, float]]
"""Seconds by submission and workload; inf where the target was missed."""

R_MAX = 4.0


def workload_time(studies: Sequence[Sequence[float]]) -> float:
    """Seconds of a submission on a workload, of the times to target of every study's trials (inf: missed).

    External tuning: 3 studies of 5 trials. Self-tuning: each run is a study of one trial.
    """
    return statistics.median_high(min(trials) for trials in studies)


def profile(times: Times, submission: str, tau: float) -> float:
    """The share of workloads on which the submission takes at most `tau` times the fastest one's time."""
    ratios = _ratios(times)[submission]
    return sum(ratio <= tau for ratio in ratios) / len(ratios)


def scores(times: Times, r_max: float = R_MAX) -> dict[str, float]:
    """The area under each profile from 1 to `r_max`, over `r_max` - 1: from 0 to 1, the fastest everywhere has 1.

    In closed form, the mean over workloads of (r_max - r) / (r_max - 1) between 0 and 1: a profile is a step function,
    of which the trapezoidal rule gives a biased area.
    """
    return {
        submission: sum(min(1.0, max(0.0, (r_max - ratio) / (r_max - 1))) for ratio in ratios) / len(ratios)
        for submission, ratios in _ratios(times).items()
    }


def _ratios(times: Times) -> dict[str, list[float]]:
    """Per submission, its time over the fastest one's, workload by workload; inf where it missed the target."""
    workloads = list(dict.fromkeys(workload for of in times.values() for workload in of))
    best = {workload: min(of.get(workload, math.inf) for of in times.values()) for workload in workloads}
    return {
        submission: [
            of[workload] / best[workload] if math.isfinite(of.get(workload, math.inf)) else math.inf
            for workload in workloads
        ]
        for submission, of in times.items()
    }


# Compute classes as in the Languini Kitchen (Stanić et al. 2023, arXiv 2309.11197, section 3).
#
# A class is a number of accelerator hours. A model trains on as many tokens as the reference accelerator would
# process in
# that time at the model's own best throughput, however fast the machine is that trains it.


CLASSES = (3, 6, 12, 24, 48, 96, 192, 384)  # hours


def class_tokens(hours: float, tokens_per_second: float) -> float:
    """Training tokens of a class; throughput of the reference accelerator at its best micro-batch."""
    return tokens_per_second * 3600 * hours


def class_steps(hours: float, tokens_per_second: float, tokens_per_step: int) -> int:
    """Whole steps of a class: a recipe's budget."""
    return int(class_tokens(hours, tokens_per_second) // tokens_per_step)


def normalized_perplexity(nll: float, size: int) -> float:
    """Perplexity per byte of text, which does not depend on the tokenizer: exp(nats / bytes).

    Bytes of UTF-8, not characters.
    """
    return math.exp(nll / size)
