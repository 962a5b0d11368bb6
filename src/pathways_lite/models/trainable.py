"""Which parameters a stage trains: patterns of their names, and the trees without what is frozen.

A parameter has the name that checkpoints and `inspect` show, with or without `params.` before it. Blocks are stored
together, in arrays with a leading axis of layers; a name may contain the number of a block, from 0, or a range of them:

    embedding                 one array
    layers.attention.q        that array of all blocks
    layers.0-3                everything in the blocks 0 to 3
    layers.*.mlp, *.scale     `*` matches anything
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp

from pathways_lite.errors import UserError
from pathways_lite.models.accounting import parameter_count
from pathways_lite.models.params import EMBEDDING, ParamSpec, param_specs
from pathways_lite.recipe import Model

Rows = Mapping[str, tuple[int, ...]]
"""Rows of arrays by the arrays' names: numbers of layers of a stacked array, (0,) of any other."""


# ---- patterns ----


def match_rows(model: Model, pattern: str, where: str) -> dict[str, tuple[int, ...]]:
    """Return the rows of the model's arrays that a pattern names.

    Raises UserError, which begins with `where`, for a pattern that names none; it lists the names that there are.
    """
    specs = _specs(model)
    expressions = _expand(pattern, model.n_layers)
    matched = {}
    for spec in specs:
        rows = tuple(row for row in range(_n_rows(spec, model)) if _matches(expressions, _names(spec, row)))
        if rows:
            matched[spec.name] = rows
    if not matched:
        names = ", ".join(spec.name for spec in specs)
        raise UserError(
            f"{where}: {pattern!r} is the name of no parameter; the names are {names}, where layers.0-"
            f"{model.n_layers - 1} are single blocks (layers.0.mlp) and * matches anything (*.scale)"
        )
    return matched


def _expand(pattern: str, n_layers: int) -> list[str]:
    """Return the patterns that one with a range of blocks stands for."""
    pattern = pattern.removeprefix("params.")
    span = re.fullmatch(r"layers\.(\d+)-(\d+)((?:\..*)?)", pattern)
    if span is None:
        return [pattern]
    first, last = int(span[1]), min(int(span[2]), n_layers)
    return [f"layers.{number}{span[3]}" for number in range(first, last + 1)] if int(span[2]) < n_layers else []


def _matches(patterns: Sequence[str], names: Sequence[str]) -> bool:
    """Return whether a pattern matches a name, or a branch that the name is in."""
    return any(fnmatchcase(name, p) or fnmatchcase(name, f"{p}.*") for p in patterns for name in names)


def _names(spec: ParamSpec, row: int) -> list[str]:
    """Return the names of a row: that of the whole array and, of a stacked one, that of the block's."""
    if not spec.stacked:
        return [spec.name]
    return [spec.name, spec.name.replace("layers.", f"layers.{row}.", 1)]


def _n_rows(spec: ParamSpec, model: Model) -> int:
    return model.n_layers if spec.stacked else 1


@functools.lru_cache(maxsize=16)
def _specs(model: Model) -> tuple[ParamSpec, ...]:
    return tuple(jax.tree.leaves(param_specs(model)))


# ---- what is trained ----


@dataclass(frozen=True)
class Trainable:
    """The parameters that are trained; the others are frozen.

    Trees of parameters are nested dictionaries. Two smaller ones are made of them: `arrays` leaves out arrays of which
    nothing is trained, and `rows` also the frozen layers of the others.

    Attributes:
      trained: rows by array, of all arrays of which some but not all are trained.
      frozen: names of arrays of which nothing is trained.
    """

    trained: Rows = field(default_factory=dict)
    frozen: frozenset[str] = frozenset()

    @property
    def is_all(self) -> bool:
        """Whether nothing is frozen."""
        return not self.trained and not self.frozen

    def rows_of(self, name: str, n_rows: int) -> tuple[int, ...]:
        """Return the trained rows of an array that has `n_rows`."""
        return () if name in self.frozen else self.trained.get(name, tuple(range(n_rows)))

    # ---- trees ----

    def arrays(self, tree: Any) -> Any:
        """Return a tree without the arrays of which nothing is trained."""
        return tree if self.is_all else self._pick(tree, lambda leaf, _: leaf)

    def rows(self, tree: Any) -> Any:
        """Return a tree without anything frozen: what the optimizer sees."""
        take = lambda leaf, rows: leaf if rows is None else take_rows(leaf, rows)  # noqa: E731
        return tree if self.is_all else self._pick(tree, take)

    def abstract_rows(self, tree: Any) -> Any:
        """Return `rows` of a tree of `jax.ShapeDtypeStruct`s, sharded as they are."""

        def take(leaf: Any, rows: tuple[int, ...] | None) -> Any:
            shape = leaf.shape if rows is None else (len(rows), *leaf.shape[1:])
            return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=leaf.sharding)

        return self._pick(tree, take)

    def map_rows(self, tree: Any, function: Callable[[Any, tuple[int, ...] | None], Any]) -> Any:
        """Call `function(leaf, rows)` for the leaves of `arrays(tree)`; rows is None where all are trained."""
        return self._pick(tree, function)

    def with_arrays(self, tree: Any, arrays: Any) -> Any:
        """Return `tree` with the leaves of `arrays`."""
        return arrays if self.is_all else _merge(tree, arrays, lambda _name, _old, new: new)

    def with_rows(self, tree: Any, rows: Any) -> Any:
        """Return `tree` with its trained rows replaced; everything else keeps its bits."""

        def put(name: str, old: Any, new: Any) -> Any:
            return new if name not in self.trained else put_rows(old, self.trained[name], new)

        return rows if self.is_all else _merge(tree, rows, put)

    def with_zeros(self, arrays: Any, tree: Any) -> Any:
        """Return a tree like `tree` with the leaves of `arrays`, and zeros in place of frozen arrays."""
        return arrays if self.is_all else self.with_arrays(jax.tree.map(jnp.zeros_like, tree), arrays)

    def stop_gradients(self, params: Any) -> Any:
        """Return the parameters, without gradients of the arrays of which nothing is trained."""
        if not self.frozen:
            return params
        stop = lambda name, leaf: jax.lax.stop_gradient(leaf) if name in self.frozen else leaf  # noqa: E731
        return jax.tree.map_with_path(lambda path, leaf: stop(_name(path), leaf), params)

    def segments(self, n_layers: int) -> list[tuple[int, int, frozenset[str]]]:
        """Return the blocks as runs (first, end, names of arrays that are frozen there and trained elsewhere).

        The backward pass of a run computes no gradient of these, and below the lowest trained array nothing at all.
        """
        runs: list[tuple[int, int, frozenset[str]]] = []
        for layer in range(n_layers):
            names = frozenset(name for name, rows in self.trained.items() if layer not in rows)
            if runs and runs[-1][2] == names:
                runs[-1] = (runs[-1][0], layer + 1, names)
            else:
                runs.append((layer, layer + 1, names))
        return runs

    def _pick(self, tree: Any, function: Callable[[Any, tuple[int, ...] | None], Any], prefix: str = "") -> Any:
        picked = {}
        for key, node in tree.items():
            name = f"{prefix}{key}"
            if isinstance(node, dict):
                if branch := self._pick(node, function, f"{name}."):
                    picked[key] = branch
            elif name not in self.frozen:
                picked[key] = function(node, self.trained.get(name))
        return picked


EVERYTHING = Trainable()


def make_trainable(model: Model, freeze: Sequence[str] | None, where: str = "freeze") -> Trainable:
    """Return what is trained of a model where what the patterns `freeze` name is not.

    Raises UserError, which begins with `where`, for a pattern that names nothing, and where nothing would be trained.
    """
    return _make_trainable(model, tuple(freeze), where) if freeze else EVERYTHING


@functools.lru_cache(maxsize=16)
def _make_trainable(model: Model, freeze: tuple[str, ...], where: str) -> Trainable:
    matched = [match_rows(model, pattern, where) for pattern in freeze]
    trained, frozen = {}, set()
    for spec in _specs(model):
        off = {row for rows in matched for row in rows.get(spec.name, ())}
        left = tuple(row for row in range(_n_rows(spec, model)) if row not in off)
        if not left:
            frozen.add(spec.name)
        elif off:
            trained[spec.name] = left
    if len(frozen) == len(_specs(model)):
        raise UserError(f"{where}={list(freeze)} freezes every parameter; leave some to train")
    return Trainable(trained, frozenset(frozen))


def _merge(tree: Any, part: Any, put: Callable[[str, Any, Any], Any], prefix: str = "") -> Any:
    """Return `tree` with `put(name, old, new)` where the smaller tree `part` has a leaf."""
    merged = {}
    for key, old in tree.items():
        name = f"{prefix}{key}"
        if key not in part:
            merged[key] = old
        else:
            merged[key] = (
                _merge(old, part[key], put, f"{name}.") if isinstance(old, dict) else put(name, old, part[key])
            )
    return merged


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


# ---- rows of stacked arrays: slices, as XLA copies whole stretches, but gathers row by row ----


def take_rows(array: Any, rows: tuple[int, ...]) -> Any:
    """Return the given rows of a JAX or NumPy array, ascending."""
    parts = [array[first:end] for first, end in _stretches(rows)]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def put_rows(array: Any, rows: tuple[int, ...], values: Any) -> Any:
    """Return an array with the given rows replaced by `values`."""
    begin = 0
    for first, end in _stretches(rows):
        array = jax.lax.dynamic_update_slice_in_dim(array, values[begin : begin + end - first], first, axis=0)
        begin += end - first
    return array


def _stretches(rows: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return (first, end) of each stretch of consecutive numbers."""
    groups = itertools.groupby(enumerate(rows), key=lambda pair: pair[1] - pair[0])
    stretches = [[row for _, row in group] for _, group in groups]
    return [(stretch[0], stretch[-1] + 1) for stretch in stretches]


# ---- costs ----


def trained_parameters(model: Model, trainable: Trainable) -> int:
    """Count the parameters that are trained."""
    return sum(
        len(trainable.rows_of(spec.name, _n_rows(spec, model))) * math.prod(spec.shape) for spec in _specs(model)
    )


def training_flops_per_token(model: Model, seq_len: int, trainable: Trainable) -> int:
    """Return the model FLOPs of training on one token where some parameters are frozen.

    PaLM's 6 N + 12 L H Q T (`accounting.palm_flops_per_token`) consists of the forward pass, 2 N + 4 L H Q T; the
    gradient of each parameter, 2 N; and the gradients of activations, 2 N + 8 L H Q T. Frozen parameters have no
    gradient of their own. Activations have gradients from the output down to the lowest block of which something is
    trained, that block whole; down to the first where the embedding is trained.
    """
    attention = model.n_heads * model.head_dim * seq_len
    forward = 2 * parameter_count(model) + 4 * model.n_layers * attention
    blocks = [row for spec in _specs(model) if spec.stacked for row in trainable.rows_of(spec.name, model.n_layers)]
    lowest = 0 if trainable.rows_of(EMBEDDING, 1) else min(blocks, default=model.n_layers)
    trains_final_norm = any(spec.is_final_norm and spec.name not in trainable.frozen for spec in _specs(model))
    reaches_output = lowest < model.n_layers or trains_final_norm
    activations = 8 * (model.n_layers - lowest) * attention
    for spec in _specs(model):
        is_lookup = spec.name == EMBEDDING and not model.tie_embeddings
        is_passed = EMBEDDING not in trainable.frozen if is_lookup else reaches_output
        times = model.n_layers - lowest if spec.stacked else int(is_passed)
        activations += 2 * times * math.prod(spec.shape)
    return forward + 2 * trained_parameters(model, trainable) + activations
