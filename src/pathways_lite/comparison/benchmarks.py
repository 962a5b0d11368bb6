"""Published benchmark protocols: AlgoPerf's time to target and the compute classes of the Languini Kitchen.

AlgoPerf (Dahl et al. 2023, arXiv 2306.07179, sections 2 and 4.3): a submission's time on a workload is the median over
studies of the best of a study's trials. Its score is the area under its performance profile: the share of workloads on
which it is within a factor τ of the fastest submission, for τ from 1 to `R_MAX`. Both are relative to the submissions
that they are computed with.

Languini Kitchen (Stanić et al. 2023, arXiv 2309.11197, section 3): a compute class is a number of accelerator hours. A
model trains on as many tokens as the reference accelerator would process in that time at the model's own best
throughput, however fast the machine is that trains it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

# ---- AlgoPerf ----

Times = Mapping[str, Mapping[str, float]]
"""Seconds by submission and workload; inf if the target was missed."""

R_MAX = 4.0


def workload_time(studies: Sequence[Sequence[float]]) -> float:
    """Return a submission's seconds on a workload, given the times to target of every study's trials (inf: missed).

    External tuning: 3 studies of 5 trials. Self-tuning: each run is a study of one trial.
    """
    return statistics.median_high(min(trials) for trials in studies)


def performance_profile(times: Times, submission: str, tau: float) -> float:
    """Return the share of workloads on which the submission takes at most `tau` times the fastest one's time."""
    ratios = _ratios(times)[submission]
    return sum(ratio <= tau for ratio in ratios) / len(ratios)


def scores(times: Times, r_max: float = R_MAX) -> dict[str, float]:
    """Return the area under each profile from 1 to `r_max`, divided by `r_max` - 1.

    Scores are between 0 and 1; a submission that is the fastest on every workload has 1. Computed in closed form, as
    the mean over workloads of (r_max - r) / (r_max - 1) clipped to [0, 1], because the trapezoidal rule is biased for a
    step function.
    """
    return {
        submission: sum(min(1.0, max(0.0, (r_max - ratio) / (r_max - 1))) for ratio in ratios) / len(ratios)
        for submission, ratios in _ratios(times).items()
    }


def _ratios(times: Times) -> dict[str, list[float]]:
    """Return each submission's time over the fastest one's, by workload; inf if it missed the target."""
    workloads = list(dict.fromkeys(workload for seconds in times.values() for workload in seconds))
    best = {workload: min(seconds.get(workload, math.inf) for seconds in times.values()) for workload in workloads}
    return {
        submission: [
            seconds[workload] / best[workload] if math.isfinite(seconds.get(workload, math.inf)) else math.inf
            for workload in workloads
        ]
        for submission, seconds in times.items()
    }


# ---- Languini ----

COMPUTE_CLASSES = (3, 6, 12, 24, 48, 96, 192, 384)  # hours


def class_tokens(hours: float, tokens_per_second: float) -> float:
    """Return the training tokens of a class, given the reference accelerator's throughput at its best micro-batch."""
    return tokens_per_second * 3600 * hours


def class_steps(hours: float, tokens_per_second: float, tokens_per_step: int) -> int:
    """Return the whole steps of a class: a recipe's budget."""
    return int(class_tokens(hours, tokens_per_second) // tokens_per_step)


def normalized_perplexity(nll: float, size: int) -> float:
    """Return the perplexity per byte of text, exp(nats / bytes), which does not depend on the tokenizer.

    `size` counts bytes of UTF-8, not characters.
    """
    return math.exp(nll / size)
