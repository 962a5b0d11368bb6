"""Build a stage's sample weights from its recipe; `sample_weights.py` computes them in the train step."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pathways_lite import models
from pathways_lite.batch import Batch
from pathways_lite.data.mixture import loss_weights, phase_shares
from pathways_lite.data.pipeline import windows_per_domain
from pathways_lite.errors import UserError
from pathways_lite.methods import domain_weights, reweighting
from pathways_lite.methods.domain_weights import means_of_domains, share_of_domains, token_weights
from pathways_lite.parallel.sharding import Layout
from pathways_lite.recipe import DoGE, DoReMi, Stage
from pathways_lite.training import optimizers
from pathways_lite.training.grad_accum import LossFn, Microbatch, accumulate_gradients, per_token_nll
from pathways_lite.training.sample_weights import SampleWeights, stateless
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
        look_ahead=functools.partial(domain_alignments, target=target),
    )


def _active_domains(spec: StageSpec) -> np.ndarray:
    """The domains whose weights are learned, bool [D]: those that are read, except the target."""
    data, names = spec.stage.data, spec.store.domains
    windows = windows_per_domain(spec.store, data.seq_len)
    read = np.asarray(windows) > 0
    if data.mixture is not None:
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


# ---- DoGE: how far each domain's gradient points along the target's, by two forward passes ----

DISTANCE = 0.01
"""Norm of the displacement of all parameters, as in DARTS (Liu et al. 2019, arXiv 1806.09055, equation 8)."""


def domain_alignments(
    loss_fn: LossFn,
    params: Any,
    batch: Batch,
    key: jax.Array,
    microbatch: int | None,
    *,
    target: np.ndarray,
) -> tuple[jax.Array, jax.Array]:
    """Compute <grad L_j, h> / |h| of each of D domains, float32 [D], and whether it is defined, bool [D].

    h is the gradient of sum_j target_j L_j. L_j is the mean loss of domain j: for h on one half of the batch, otherwise
    on the other half. With the same rows on both sides the noise of a domain's gradient would count as aligned with
    itself.

    It is a central difference, (L_j(params + v) - L_j(params - v)) / 2 |v|, with v a short step along h; its error is
    of the order of |v|^2. Forward-mode differentiation would need as many FLOPs, and kernels with their own backward
    pass have none. One gradient per domain would be exact, but takes D backward passes and D times the memory, or
    slices that hold one domain each, which no mixture guarantees. Two forward passes suffice for any batch, slices and
    mesh.
    """
    first, second = split_halves(batch, key, len(target))
    share = share_of_domains(first, len(target))
    total = jnp.sum(first.loss_weights)
    total = jnp.where(total > 0.0, total, 1.0)

    def target_loss(params: Any, part: Microbatch, key: jax.Array) -> jax.Array:
        nll = loss_fn(params, part.batch, key).nll
        return jnp.sum(part.batch.loss_weights * part.weights * nll) / total

    def gradient_fn(params: Any, part: Microbatch, key: jax.Array) -> tuple[Any, tuple[()]]:
        return jax.grad(target_loss)(params, part, key), ()

    weighted = Microbatch(first, token_weights(jnp.asarray(target), share, first))
    direction, _ = accumulate_gradients(gradient_fn, params, weighted, key, microbatch)
    norm = optax.tree.norm(direction)
    length = DISTANCE / jnp.where(norm > 0.0, norm, 1.0)

    def losses_at(sign: jax.Array) -> tuple[jax.Array, jax.Array]:
        moved = jax.tree.map(lambda p, h: p + sign * length * h, params, direction)
        return means_of_domains(per_token_nll(loss_fn, moved, batch, key, microbatch), second, len(target))

    (ahead, behind), (tokens, _) = jax.lax.map(losses_at, jnp.asarray([1.0, -1.0]))  # compiled once
    return (ahead - behind) / (2.0 * DISTANCE), (tokens > 0.0) & (jnp.sum(target * share) > 0.0)


def split_halves(batch: Batch, key: jax.Array, domains: int) -> tuple[Batch, Batch]:
    """Split the loss of a batch by rows into two batches: each domain's rows alternate, the first at random."""
    earlier = jnp.sum(jnp.tril(batch.domain[:, None] == batch.domain[None, :], -1), axis=1)
    offset = jax.random.randint(key, (domains,), 0, 2)
    in_first = ((earlier + offset[batch.domain]) % 2 == 0)[:, None]
    only = lambda rows: batch._replace(loss_weights=jnp.where(rows, batch.loss_weights, 0.0))  # noqa: E731
    return only(in_first), only(~in_first)
