"""How a stage weighs samples: what its recipe says of it, put together for the train step, and what that costs."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pathways_lite import models
from pathways_lite.batch import Batch
from pathways_lite.data.mixture import loss_weights, weights_of
from pathways_lite.data.pipeline import windows_per_domain
from pathways_lite.errors import UserError
from pathways_lite.methods import domain_weights, reweighting
from pathways_lite.methods.domain_weights import means_of_domains, share_of_domains, token_weights
from pathways_lite.models.accounting import flops_per_token
from pathways_lite.parallel.sharding import Layout
from pathways_lite.recipe import DoGE, DoReMi, Model, Reference, Reweighting, Stage, Uniform
from pathways_lite.training import optimizers
from pathways_lite.training.grad_accum import LossMeans, Microbatch, TokenLosses, accumulate_gradients, per_token_losses
from pathways_lite.training.sample_weights import SampleWeights, needs_full_batch_losses, stateless

if TYPE_CHECKING:
    from pathways_lite.training.setup import Setup


# How far each domain's gradient points where another one does, by two forward passes.


DISTANCE = 0.01
"""Norm of the displacement of all parameters, as in DARTS (Liu et al. 2019, arXiv 1806.09055, equation 8)."""


def domain_alignments(
    token_losses: TokenLosses,
    params: Any,
    batch: Batch,
    key: jax.Array,
    microbatch: int | None,
    *,
    aim: np.ndarray,
) -> tuple[jax.Array, jax.Array]:
    """<grad L_j, h> / |h| of each of D domains, float32 [D], and of which it is known, bool [D].

    h is the gradient of sum_j aim_j L_j. L_j is the mean loss of domain j, for h in one half of the batch, and else in
    the other: with the same rows on both sides the noise of a domain's gradient would count as aligned with itself.

    It is a central difference, (L_j(params + v) - L_j(params - v)) / 2 |v|, with v a short way along h; its error is
    of the order of |v|^2. Forward-mode differentiation would need as many FLOPs, and kernels with a backward pass of
    their own have none. One gradient per domain would be exact, but takes D backward passes and D times the memory, or
    slices that hold one domain each, which no mixture promises. Two forward passes do for any batch, slices and mesh.
    """
    first, second = split_halves(batch, key, len(aim))
    share = share_of_domains(first, len(aim))
    total = jnp.sum(first.loss_weights)
    total = jnp.where(total > 0.0, total, 1.0)

    def mean_loss(params: Any, part: Microbatch, key: jax.Array) -> tuple[jax.Array, LossMeans]:
        loss, _ = token_losses(params, part.batch, key)
        found = jnp.sum(part.batch.loss_weights * part.weights * loss) / total
        return found, LossMeans(found, jnp.zeros(()))

    examples = Microbatch(first, token_weights(jnp.asarray(aim), share, first))
    towards, _ = accumulate_gradients(jax.grad(mean_loss, has_aux=True), params, examples, key, microbatch)
    norm = optax.tree.norm(towards)
    length = DISTANCE / jnp.where(norm > 0.0, norm, 1.0)

    def losses_at(sign: jax.Array) -> tuple[jax.Array, jax.Array]:
        moved = jax.tree.map(lambda p, h: p + sign * length * h, params, towards)
        return means_of_domains(per_token_losses(token_losses, moved, batch, key, microbatch), second, len(aim))

    (ahead, behind), (there, _) = jax.lax.map(losses_at, jnp.asarray([1.0, -1.0]))  # compiled once
    return (ahead - behind) / (2.0 * DISTANCE), (there > 0.0) & (jnp.sum(aim * share) > 0.0)


def split_halves(batch: Batch, key: jax.Array, domains: int) -> tuple[Batch, Batch]:
    """The batch with the loss of half of its rows, and of the others: each domain's in turns, the first at random."""
    earlier = jnp.sum(jnp.tril(batch.domain[:, None] == batch.domain[None, :], -1), axis=1)
    begin = jax.random.randint(key, (domains,), 0, 2)
    of_first = ((earlier + begin[batch.domain]) % 2 == 0)[:, None]
    only = lambda rows: batch._replace(loss_weights=jnp.where(rows, batch.loss_weights, 0.0))  # noqa: E731
    return only(of_first), only(~of_first)


def build_sample_weights(setup: Setup) -> SampleWeights | None:
    """How the stage's samples are weighed: by their losses, by the mixture, by what is learned of domains; or not."""
    if (rule := setup.stage.domain_weights) is not None:
        return _learned(setup, rule)
    how = _reweighting(setup.stage)
    if how is None:
        return None
    of_domains = _weights_of_mixture(setup) if _scalarized(setup.stage) else None
    return SampleWeights(
        weigh=stateless(reweighting.weights_by_clock(how, setup.timeline, of_domains)),
        statistics=lambda weights, batch, memory: reweighting.statistics(weights, batch),
        rows=how.rows,
        reference=_reference_losses(setup.stage, setup.layout),
        place=setup.layout.constrain_batch,
    )


def _scalarized(stage: Stage) -> bool:
    """Whether domains count in the loss what the mixture says, instead of being read so often."""
    return stage.data.mixture is not None and stage.data.mixture.by == "loss"


def _reweighting(stage: Stage) -> Reweighting | None:
    """How samples are weighed, uniformly where only domains are; None where all count the same."""
    domains = _scalarized(stage) or stage.domain_weights is not None
    return stage.reweighting or (Reweighting(rule=Uniform()) if domains else None)


def _learned(setup: Setup, rule: DoReMi | DoGE) -> SampleWeights:
    def statistics(weights: jax.Array, batch: Batch, memory: Any) -> dict[str, jax.Array]:
        return reweighting.statistics(weights, batch) | domain_weights.statistics(memory)

    if isinstance(rule, DoReMi):
        return SampleWeights(
            weigh=lambda excess, batch, clock, memory: domain_weights.doremi(rule, excess, batch, memory),
            statistics=statistics,
            reference=_reference_losses(setup.stage, setup.layout),
        )
    rate = optimizers.learning_rate_fn(setup.stage.optimizer, setup.timeline)
    takes_part, names = _takes_part(setup), setup.store.domains
    aim = np.asarray(takes_part if rule.target is None else [name == rule.target for name in names], np.float32)
    return SampleWeights(
        weigh=lambda seen, batch, clock, memory: domain_weights.doge(
            rule, rate(clock), seen[0], seen[1], batch, memory
        ),
        statistics=statistics,
        look_ahead=functools.partial(domain_alignments, aim=aim),
    )


def initial_memory(setup: Setup) -> Any:
    """What weighing remembers before the first step; () where it remembers nothing."""
    return () if setup.stage.domain_weights is None else domain_weights.init(_takes_part(setup))


def _takes_part(setup: Setup) -> np.ndarray:
    """Which domains' weights are learned, bool [D]: those that are read, but for the target."""
    data, names = setup.stage.data, setup.store.domains
    windows = windows_per_domain(setup.store, data.seq_len)
    read = np.asarray(windows) > 0
    if data.mixture is not None:
        read = np.any(np.asarray(weights_of(data.mixture, windows, names, setup.timeline)) > 0, axis=0)
    if (target := getattr(setup.stage.domain_weights, "target", None)) is not None:
        if target not in [name for name, of in zip(names, read, strict=True) if of]:
            raise UserError(
                f"stages.{setup.stage.name}.domain_weights.target={target!r} is no domain that the stage reads; "
                f"the corpus has: {', '.join(names)}"
            )
        read &= np.asarray(names) != target
    if read.sum() < 2:
        raise UserError(f"stages.{setup.stage.name}.domain_weights: there have to be two domains or more to weigh")
    return read


def _weights_of_mixture(setup: Setup) -> reweighting.DomainFactors:
    """Those of a mixture that counts domains in the loss instead of reading them more often."""
    data = setup.stage.data
    assert data.mixture is not None
    windows = windows_per_domain(setup.store, data.seq_len)
    return reweighting.domain_factors(*loss_weights(data.mixture, windows, setup.store.domains, setup.timeline))


# ---- a reference ----


def stage_reference(stage: Stage) -> Reference | None:
    """What is named as the model whose losses are taken off before samples are weighed."""
    how = stage.domain_weights or stage.reweighting
    return getattr(how, "reference", None)


def reference_model(stage: Stage) -> Model | None:
    """That model; None where there is none."""
    reference = stage_reference(stage)
    return None if reference is None else reference.model


def _reference_losses(stage: Stage, layout: Layout) -> TokenLosses | None:
    if (reference := reference_model(stage)) is None:
        return None

    def losses(params: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        del key  # a trained model, without dropout
        return models.token_losses(reference, params, batch, layout=layout)

    return losses


# ---- what it costs ----


def flops_per_token_with_weights(stage: Stage) -> int:
    """FLOPs of training on a token, with what finding weights takes and what leaving rows out saves."""
    training = flops_per_token(stage.model, stage.data.seq_len)
    if isinstance(stage.domain_weights, DoGE):  # the gradient that is aimed at, and two forward passes
        return training + training + 2 * (training // 3)
    if (how := _reweighting(stage)) is None:
        return training
    reference = reference_model(stage)
    return training + reweighting.extra_flops(
        how,
        training=training,
        reference=flops_per_token(reference, stage.data.seq_len) if reference is not None else 0,
        ahead=any(needs_full_batch_losses(how.rows(n), n, stage.microbatch) for _, n in stage.ramp.steps),
    )
