"""Resampling until a weak verifier accepts: what it solves, what it lets through, and when another attempt pays.

Stroebl et al. 2024, arXiv 2411.17501. Up to K attempts are made, and the first that the verifier accepts is returned. A
verifier has completeness c (it accepts a right attempt) and soundness s (it rejects a wrong one).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.judging.coverage import coverage_by_problem


@dataclass(frozen=True)
class ProblemTypes:
    """Kinds of problems with their shares `prior` [types] and accuracies of one attempt [types], under one verifier."""

    prior: tuple[float, ...]
    accuracy: tuple[float, ...]
    completeness: float = 1.0
    soundness: float = 1.0

    @property
    def _right(self) -> np.ndarray:
        return self.completeness * np.array(self.accuracy)

    @property
    def _wrong(self) -> np.ndarray:
        return (1 - self.soundness) * (1 - np.array(self.accuracy))

    def solved(self, K: Any) -> np.ndarray:
        """Return the probability [K] that a right attempt is returned."""
        return self._returned(self._right, K)

    def false_positives(self, K: Any) -> np.ndarray:
        """Return the probability [K] that a wrong attempt is returned."""
        return self._returned(self._wrong, K)

    def _returned(self, part: np.ndarray, K: Any) -> np.ndarray:
        accepted = self._right + self._wrong
        K = np.asarray(K, np.float64)[..., None]
        share = np.where(accepted > 0, part / np.where(accepted > 0, accepted, 1), 0.0)
        return (np.array(self.prior) * share * (1 - (1 - accepted) ** K)).sum(axis=-1)

    def conditional_accuracy(self, K: float = math.inf) -> float:
        """Return the probability that what is returned after up to K attempts is right."""
        right, wrong = float(self.solved(K)), float(self.false_positives(K))
        return right / (right + wrong) if right + wrong > 0 else math.nan

    def expected_value(self, K: Any, right: float, wrong: float, attempt_cost: float = 0.0) -> np.ndarray:
        """Return EV [K] of a right result worth `right`, a wrong one worth `wrong`, and a cost per attempt made."""
        accepted = self._right + self._wrong
        gain = right * self._right + wrong * self._wrong - attempt_cost
        K = np.asarray(K, np.float64)[..., None]
        rounds = np.where(accepted > 0, (1 - (1 - accepted) ** K) / np.where(accepted > 0, accepted, 1), K)
        return (np.array(self.prior) * gain * rounds).sum(axis=-1)

    def best_attempts(
        self, right: float, wrong: float, attempt_cost: float = 0.0, *, limit: int = 1000
    ) -> tuple[int, float]:
        """Return the number of attempts up to `limit` with the largest EV, and that EV; (0, 0) if none is positive."""
        values = self.expected_value(np.arange(1, limit + 1), right, wrong, attempt_cost)
        return _best(values)

    def best_attempts_of_two(self, right: float, wrong: float, attempt_cost: float = 0.0) -> int:
        """Return K* of two types in closed form: 1 + floor(ln(p1 g1 / -(p2 g2)) / ln(beta2/beta1)).

        g is what one attempt gains, beta the probability that it is rejected. Raises UserError unless an attempt at one
        type gains, at the other loses, and the one that gains is accepted more often.
        """
        accepted = self._right + self._wrong
        gain = right * self._right + wrong * self._wrong - attempt_cost
        if len(self.prior) != 2 or not (gain > 0).any() or not (gain < 0).any():
            raise UserError("the closed form needs two types of problems, of which one gains and the other loses")
        i, j = (0, 1) if gain[0] > 0 else (1, 0)
        if not accepted[i] > accepted[j]:
            raise UserError("the closed form needs the type that gains to be accepted more often than the other")
        if self.prior[i] * gain[i] + self.prior[j] * gain[j] <= 0:
            # The first attempt loses, and every later one loses more: problems that gain are gone sooner.
            return 0
        ratio = self.prior[i] * gain[i] / (-self.prior[j] * gain[j])
        if accepted[i] >= 1:
            return 1
        return 1 + math.floor(math.log(ratio) / math.log((1 - accepted[j]) / (1 - accepted[i])))


# ---- from samples, exactly ----


@dataclass(frozen=True)
class WeakResults:
    """What resampling with up to K attempts returns, by problem and K [problems, K]."""

    solved: np.ndarray
    false_positives: np.ndarray
    attempts: np.ndarray  # the expected number made

    def reward(self, false_cost: float, attempt_cost: float = 0.0) -> np.ndarray:
        """Return the reward [problems, K]: 1 for a right result, `-false_cost` for a wrong one, less the attempts."""
        return self.solved - false_cost * self.false_positives - attempt_cost * self.attempts


def resample_weakly(samples: Any, accepted: Any, right: Any, K: Any) -> WeakResults:
    """Return what resampling gives on counts [problems]: of samples, of accepted ones, of right ones among these.

    Attempts are drawn from the samples without replacement, so by exchangeability the first accepted one is any of the
    accepted ones with equal probability: solved(K) = (right/accepted) pass@K(samples, accepted). `K` [K] ascends.
    Raises UserError where a K is larger than a problem's number of samples.
    """
    accepted, right = np.asarray(accepted, np.int64), np.asarray(right, np.int64)
    K = np.asarray(K, np.int64)
    some = coverage_by_problem(samples, accepted, K)
    share = (right / np.maximum(accepted, 1))[:, None]
    # An attempt k+1 is made if none of k was accepted.
    none = np.ones((len(accepted), K[-1]))
    if K[-1] > 1:
        none[:, 1:] -= coverage_by_problem(samples, accepted, np.arange(1, K[-1]))
    attempts = np.cumsum(none, axis=1)[:, K - 1]
    return WeakResults(share * some, (accepted > 0)[:, None] * (1 - share) * some, attempts)


@dataclass(frozen=True)
class BestAttempts:
    """The number of attempts that pays best where a wrong result costs `false_cost`; 0: to abstain."""

    false_cost: float
    attempts: int
    reward: float


def best_attempts(results: WeakResults, false_costs: Sequence[float], attempt_cost: float = 0.0) -> list[BestAttempts]:
    """Return for every cost of a wrong result the K with the largest mean reward, of `results` at K = 1, 2, …, n."""
    found = []
    for cost in false_costs:
        K, reward = _best(results.reward(cost, attempt_cost).mean(axis=0))
        found.append(BestAttempts(cost, K, reward))
    return found


def _best(values: np.ndarray) -> tuple[int, float]:
    """Return the place, from 1, of the largest value and that value; (0, 0.0) if none is positive."""
    best = int(np.argmax(values))
    return (best + 1, float(values[best])) if values[best] > 0 else (0, 0.0)
