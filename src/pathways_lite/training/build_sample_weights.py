"""Build a stage's sample weights from its recipe; `sample_weights.py` computes them in the train step."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from pathways_lite import models
from pathways_lite.batch import Batch
from pathways_lite.data.mixture import loss_weights, phase_shares
from pathways_lite.data.pipeline import windows_per_domain
from pathways_lite.errors import UserError
from pathways_lite.methods import domain_weights, reweighting
from pathways_lite.models import LossFn
from pathways_lite.parallel.sharding import Layout
from pathways_lite.recipe import DoGE, DoReMi, Stage
from pathways_lite.training import optimizers
from pathways_lite.training.sample_weights import SampleWeights, domain_alignments, stateless
from pathways_lite.training.stage import StageSpec, effective_reweighting, is_scalarized, reference_model


def build_sample_weights(spec: StageSpec, layout: Layout) -> SampleWeights | None:
    """Build the weighting of the stage's samples; None where all weigh the same.

    Samples are weighted by their losses, by a mixture that scales losses, or by learned domain weights.
    """
    if (learned := spec.stage.domain_weights) is not None:
        return _learned_weights(spec, layout, learned)
    rule = effective_reweighting(spec.stage)
    if rule is None:
        return None
    factors = _mixture_factors(spec) if is_scalarized(spec.stage) else None
    return SampleWeights(
        weigh=stateless(reweighting.weights_by_clock(rule, spec.timeline, factors)),
        statistics=lambda weights, batch, memory: reweighting.statistics(weights, batch),
        rows=rule.num_kept_rows,
        reference_fn=_reference_fn(spec.stage, layout),
        place=layout.constrain_batch,
    )


def initial_memory(spec: StageSpec) -> Any:
    """Make what the weighting remembers before the first step; () where it remembers nothing."""
    return () if spec.stage.domain_weights is None else domain_weights.init(_active_domains(spec))


def _learned_weights(spec: StageSpec, layout: Layout, rule: DoReMi | DoGE) -> SampleWeights:
    def statistics(weights: jax.Array, batch: Batch, memory: Any) -> dict[str, jax.Array]:
        return reweighting.statistics(weights, batch) | domain_weights.statistics(memory)

    if isinstance(rule, DoReMi):
        return SampleWeights(
            weigh=lambda excess, batch, clock, memory: domain_weights.doremi(rule, excess, batch, memory),
            statistics=statistics,
            reference_fn=_reference_fn(spec.stage, layout),
        )
    rate = optimizers.learning_rate_fn(spec.stage.optimizer, spec.timeline)
    active, names = _active_domains(spec), spec.store.domains
    target = np.asarray(active if rule.target is None else [name == rule.target for name in names], np.float32)
    return SampleWeights(
        weigh=lambda alignment, batch, clock, memory: domain_weights.doge(
            rule, rate(clock), alignment[0], alignment[1], batch, memory
        ),
        statistics=statistics,
        signal_fn=functools.partial(domain_alignments, target=target),
    )


def require_domains_to_weight(spec: StageSpec) -> None:
    """Raise UserError where a stage learns weights of fewer than two domains, or for a target that it does not read.

    Where an earlier stage has yet to learn what this one reads, all domains with a sequence count as read.
    """
    if spec.stage.domain_weights is not None:
        _active_domains(spec)


def _active_domains(spec: StageSpec) -> np.ndarray:
    """The domains whose weights are learned, bool [D]: those that are read, except the target."""
    data, names = spec.stage.data, spec.store.domains
    windows = windows_per_domain(spec.store, data.seq_len)
    read = np.asarray(windows) > 0
    if data.mixture is not None and not data.mixture.untrained_stages:
        read = np.any(np.asarray(phase_shares(data.mixture, windows, names, spec.timeline)) > 0, axis=0)
    if (target := getattr(spec.stage.domain_weights, "target", None)) is not None:
        if target not in [name for name, is_read in zip(names, read, strict=True) if is_read]:
            raise UserError(
                f"stages.{spec.stage.name}.domain_weights.target={target!r} is not a domain that the stage reads; "
                f"the corpus has: {', '.join(names)}"
            )
        read &= np.asarray(names) != target
    if read.sum() < 2:
        raise UserError(f"stages.{spec.stage.name}.domain_weights needs two or more domains to weight")
    return read


def _mixture_factors(spec: StageSpec) -> reweighting.DomainFactors:
    """The factors of domains' losses, for a mixture that scales losses instead of reading domains more often."""
    data = spec.stage.data
    assert data.mixture is not None
    windows = windows_per_domain(spec.store, data.seq_len)
    return reweighting.domain_factors(*loss_weights(data.mixture, windows, spec.store.domains, spec.timeline))


def _reference_fn(stage: Stage, layout: Layout) -> LossFn | None:
    if (reference := reference_model(stage)) is None:
        return None

    def losses(params: Any, batch: Batch, key: jax.Array) -> models.TokenLosses:
        del key  # a trained model, without dropout
        return models.token_losses(reference, params, batch, layout=layout)

    return losses
