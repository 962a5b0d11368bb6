"""Contracts of plugins that recipes name: optimizers, schedules, rules of sample weights, growth operators."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite import models
from pathways_lite.batch import Batch
from pathways_lite.evaluation.texts import document_logits
from pathways_lite.ledger import Timeline
from pathways_lite.methods.growth import grow_params, is_function_preserving, plan_operator
from pathways_lite.methods.reweighting import weigh
from pathways_lite.recipe import (
    AdamW,
    Amount,
    Constant,
    Data,
    Fraction,
    Grow,
    Linear,
    Model,
    OperatorPlugin,
    OptimizerPlugin,
    Ramp,
    Recipe,
    Reweighting,
    RulePlugin,
    SchedulePlugin,
    Stage,
    Steps,
    with_plugins_recorded,
)
from pathways_lite.training.optimizers import build_optimizer, learning_rate_fn
from pathways_lite.training.schedules import schedule

_MODEL = Model(d_model=8, n_layers=2, n_heads=2, head_dim=4, d_ff=12, vocab_size=11, dtype="float32")
_TIMELINE = Timeline(Ramp(steps=((0, 2),)), seq_len=4, flops_per_token=1, active_parameters=1, budget=Steps(n=20))


class _RecipeContract:
    """What holds for every class that a recipe names."""

    plugin: ClassVar[Any]

    def _recipe(self) -> Recipe:
        raise NotImplementedError

    def _part(self, stage: Stage) -> Any:
        """Return the plugin in the last stage of the recipe."""
        raise NotImplementedError

    def test_a_recipe_with_it_is_read_back_from_json(self) -> None:
        again = Recipe.model_validate_json(self._recipe().model_dump_json())
        assert again == self._recipe()
        assert type(self._part(again.stages[-1])) is type(self.plugin)

    def test_the_source_of_its_package_is_recorded(self) -> None:
        assert self._part(with_plugins_recorded(self._recipe()).stages[-1]).plugin is not None


def _stage(**fields: Any) -> Stage:
    common = {"model": _MODEL, "data": Data(corpus="none", seq_len=4), "optimizer": AdamW(), "batch_size": 2}
    return Stage(**{**common, "budget": Steps(n=20), **fields})


def _recipe(*stages: Stage) -> Recipe:
    return Recipe(name="contract", stages=stages)


# ---- optimizers ----


class OptimizerContract(_RecipeContract):
    """An optimizer is a pure function of gradients and its state, which are like the parameters, and of the clock."""

    plugin: ClassVar[OptimizerPlugin]

    def _recipe(self) -> Recipe:
        return _recipe(_stage(optimizer=self.plugin))

    def _part(self, stage: Stage) -> Any:
        return stage.optimizer

    def _config(self, **fields: Any) -> OptimizerPlugin:
        return self.plugin.model_copy(update={"clip_norm": None, "weight_decay": 0.0, "schedule": Constant(), **fields})

    def _build(self, config: OptimizerPlugin) -> tuple[Any, Any, Any]:
        """Return the optimizer, parameters, and gradients of them."""
        params = models.init(_MODEL, jax.random.key(0))
        keys = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(params))))
        grads = jax.tree.map(lambda leaf: jax.random.normal(next(keys), leaf.shape), params)
        return build_optimizer(config, _TIMELINE, models.logical_axes(_MODEL)), params, grads

    def _steps(self, optimizer: Any, params: Any, grads: Any, state: Any, first: int, last: int) -> tuple[Any, Any]:
        for step in range(first, last):
            updates, state = jax.jit(optimizer.update)(grads, state, params, clock=_TIMELINE.clock(step))
            params = jax.tree.map(jnp.add, params, updates)
        return params, state

    def test_the_state_is_like_the_parameters(self) -> None:
        """Arrays of the parameters' shapes are sharded as these are; anything else would be on every device."""
        optimizer, params, _ = self._build(self._config())
        shapes = {leaf.shape for leaf in jax.tree.leaves(params)} | {()}
        assert {leaf.shape for leaf in jax.tree.leaves(optimizer.init(params))} <= shapes

    def test_an_update_is_finite_like_the_parameters_and_the_same_again(self) -> None:
        optimizer, params, grads = self._build(self._config())
        state = optimizer.init(params)
        once, after = optimizer.update(grads, state, params, clock=_TIMELINE.clock(0))
        again, _ = optimizer.update(grads, state, params, clock=_TIMELINE.clock(0))
        assert str(jax.tree.structure(after)) == str(jax.tree.structure(state))
        for update, other, leaf in zip(*map(jax.tree.leaves, (once, again, params)), strict=True):
            assert update.shape == leaf.shape
            assert np.isfinite(update).all()
            np.testing.assert_array_equal(update, other)

    def test_gradients_of_zero_and_huge_ones_give_finite_updates(self) -> None:
        optimizer, params, grads = self._build(self._config())
        for factor in (0.0, 1e15):
            scaled = jax.tree.map(lambda leaf, by=factor: by * leaf, grads)
            updates, _ = optimizer.update(scaled, optimizer.init(params), params, clock=_TIMELINE.clock(0))
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(updates))

    def test_the_update_follows_the_clocks_learning_rate(self) -> None:
        config = self._config(schedule=Linear())
        optimizer, params, grads = self._build(config)
        state, rate = optimizer.init(params), learning_rate_fn(config, _TIMELINE)
        early, late = (optimizer.update(grads, state, params, clock=_TIMELINE.clock(k))[0] for k in (0, 10))
        ratio = float(rate(_TIMELINE.clock(10)) / rate(_TIMELINE.clock(0)))
        for one, other in zip(*map(jax.tree.leaves, (early, late)), strict=True):
            np.testing.assert_allclose(other, ratio * one, rtol=1e-5, atol=1e-9)

    def test_resumed_is_uninterrupted_bit_for_bit(self) -> None:
        optimizer, params, grads = self._build(self._config())
        whole, _ = self._steps(optimizer, params, grads, optimizer.init(params), 0, 6)
        half, state = self._steps(optimizer, params, grads, optimizer.init(params), 0, 3)
        stored = jax.tree.map(np.asarray, (half, state))
        fresh, *_ = self._build(self._config())
        resumed, _ = self._steps(fresh, stored[0], grads, stored[1], 3, 6)
        for one, other in zip(*map(jax.tree.leaves, (whole, resumed)), strict=True):
            np.testing.assert_array_equal(one, other)

    def test_it_goes_downhill(self) -> None:
        config = self._config(learning_rate=1e-3)
        optimizer, params, _ = self._build(config)
        loss = lambda tree: sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree))  # noqa: E731
        state, before = optimizer.init(params), loss(params)
        for step in range(5):
            updates, state = optimizer.update(jax.grad(loss)(params), state, params, clock=_TIMELINE.clock(step))
            params = jax.tree.map(jnp.add, params, updates)
        assert loss(params) < before


# ---- schedules ----


class ScheduleContract(_RecipeContract):
    """A schedule is a curve between 0 and 1, a pure function of the clock that JAX can trace."""

    plugin: ClassVar[SchedulePlugin]

    def _recipe(self) -> Recipe:
        return _recipe(_stage(optimizer=AdamW(schedule=self.plugin)))

    def _part(self, stage: Stage) -> Any:
        return stage.optimizer.schedule

    def test_it_is_between_0_and_1_traced_or_not(self) -> None:
        heights = [float(self.plugin.shape(jnp.float32(fraction))) for fraction in np.linspace(0, 1, 21)]
        assert 0 <= min(heights) <= max(heights) <= 1
        warmups: tuple[Amount, ...] = (Fraction(n=0.0), Steps(n=5))
        for warmup in warmups:
            curve = schedule(self.plugin.model_copy(update={"warmup": warmup}), _TIMELINE)
            values = [curve(_TIMELINE.clock(step)) for step in range(_TIMELINE.total_steps)]
            traced = [jax.jit(curve)(_TIMELINE.clock(step)) for step in range(_TIMELINE.total_steps)]
            assert all(value.dtype == jnp.float32 and value.shape == () for value in values)
            assert 0 <= min(values) <= max(values) <= 1
            np.testing.assert_allclose(values, traced, atol=1e-6)


# ---- sample weights ----


class RuleContract(_RecipeContract):
    """A rule weighs samples by their losses alone: in any order, of any number, and none below 0."""

    plugin: ClassVar[RulePlugin]

    def _recipe(self) -> Recipe:
        return _recipe(_stage(reweighting=Reweighting(rule=self.plugin)))

    def _part(self, stage: Stage) -> Any:
        return getattr(stage.reweighting, "rule", None)

    def _weights(self, losses: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        unused: Any = [None] * len(Batch._fields)
        batch = Batch(*unused)._replace(loss_weights=jnp.asarray(sizes))
        config = Reweighting(rule=self.plugin, sample="token")
        return np.asarray(jax.jit(lambda losses: weigh(config, losses, batch))(jnp.asarray(losses)))

    def test_weights_have_a_mean_of_1_and_are_not_negative(self) -> None:
        losses = np.random.default_rng(0).gamma(2, size=(4, 6)).astype(np.float32)
        sizes = np.ones_like(losses)
        sizes[:, 4:] = 0
        for sample in (losses, np.full_like(losses, 2.0), np.zeros_like(losses)):
            weights = self._weights(sample, sizes)
            assert weights.shape == losses.shape
            assert (weights >= 0).all()
            np.testing.assert_allclose((weights * sizes).sum(), sizes.sum(), rtol=1e-5)

    def test_samples_that_do_not_exist_do_not_count(self) -> None:
        losses = np.random.default_rng(1).gamma(2, size=(3, 5)).astype(np.float32)
        sizes = np.ones_like(losses)
        sizes[:, 3:] = 0
        other = losses.copy()
        other[:, 3:] = 100
        np.testing.assert_allclose(self._weights(losses, sizes)[:, :3], self._weights(other, sizes)[:, :3], rtol=1e-5)

    def test_the_order_of_samples_does_not_count(self) -> None:
        rng = np.random.default_rng(2)
        losses = rng.gamma(2, size=(6, 2)).astype(np.float32)
        sizes, order = np.ones_like(losses), rng.permutation(6)
        np.testing.assert_allclose(self._weights(losses[order], sizes), self._weights(losses, sizes)[order], rtol=1e-5)


# ---- growth ----


class OperatorContract(_RecipeContract):
    """An operator plans every array of the larger model; where its plan preserves the function, so do parameters.

    Attributes:
      source, target: models between which it grows.
    """

    plugin: ClassVar[OperatorPlugin]
    source: ClassVar[Model] = _MODEL
    target: ClassVar[Model] = _MODEL.model_copy(update={"n_layers": 4})

    def _recipe(self) -> Recipe:
        grown = _stage(name="grown", model=self.target, start=Grow(operator=self.plugin))
        return _recipe(_stage(model=self.source), grown)

    def _part(self, stage: Stage) -> Any:
        return getattr(stage.start, "operator", None)

    def test_the_grown_model_has_the_targets_arrays(self) -> None:
        plan = plan_operator(self.plugin, self.source, self.target)
        params = models.init(self.source, jax.random.key(0))
        grown, again = (grow_params(plan, params, jax.random.key(1)) for _ in range(2))
        expected = models.abstract_params(self.target)
        for leaf, other, wanted in zip(*map(jax.tree.leaves, (grown, again, expected)), strict=True):
            assert leaf.shape == wanted.shape
            assert np.isfinite(leaf).all()
            np.testing.assert_array_equal(leaf, other)
        if is_function_preserving(plan):
            tokens = [np.arange(6, dtype=np.int32)]
            (before,), (after,) = (
                document_logits(model, values, tokens)
                for model, values in ((self.source, params), (self.target, grown))
            )
            np.testing.assert_allclose(after, before, atol=1e-4)
