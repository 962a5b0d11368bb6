"""Early stopping: a stage ends once its held-out loss does not improve anymore.

A state machine on the host, like the spike guard. It sees every evaluation once and in order, and its state is part of
the checkpoint, so a resumed run ends where an uninterrupted one does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from pathways_lite.recipe import EarlyStopping


class StoppingState(NamedTuple):
    """What early stopping remembers of the evaluations so far."""

    step: int = 0  # of the newest evaluation that it has seen
    best: float | None = None  # nats per token
    best_step: int = 0
    in_vain: int = 0  # evaluations in a row without improvement
    stopped_at: int | None = None  # the step at which the stage ends

    def to_json(self) -> dict[str, Any]:
        return self._asdict()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(**data)


def held_out_loss(config: EarlyStopping, domains: Mapping[str, Mapping[str, Any]]) -> float:
    """Return the loss that decides, nats per token, of results per domain (`HeldOutLoss.to_json`)."""
    if config.domain is not None:
        return float(domains[config.domain]["loss"])
    return math.fsum(result["nll"] for result in domains.values()) / sum(
        result["tokens"] for result in domains.values()
    )


def observe_evaluation(
    config: EarlyStopping, state: StoppingState, step: int, domains: Mapping[str, Mapping[str, Any]]
) -> StoppingState:
    """Return the state after the evaluation at `step`."""
    if step <= state.step:
        raise ValueError(f"evaluations are observed once and in order; step {step} comes after {state.step}")
    loss = held_out_loss(config, domains)
    if state.best is None or loss < state.best - config.min_delta:
        return StoppingState(step, loss, step, 0)
    in_vain = state.in_vain + 1
    return state._replace(step=step, in_vain=in_vain, stopped_at=step if in_vain >= config.patience else None)


def describe_stop(config: EarlyStopping, state: StoppingState) -> str:
    """Say why the stage ended."""
    what = "held-out loss" if config.domain is None else f"held-out loss of {config.domain}"
    by = f" by more than {config.min_delta:g}" if config.min_delta else ""
    return (
        f"stopped early at step {state.stopped_at:,}: in {state.in_vain} evaluations the {what} did not fall{by} below "
        f"{state.best:.4f}, that of step {state.best_step:,}"
    )
