"""Scaling laws as data: a prediction in JAX, with parameters that have units and ranges to start a fit from.

A new law is a `Law` in a file of `scaling/laws/`; `laws/registry.py` lists these files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite.scaling.losses import Huber, Link, Loss

Columns = Mapping[str, Any]
"""Arrays by column name."""

Values = Mapping[str, Any]
"""The values of parameters by name."""


def power(x: Any, exponent: Any) -> Any:
    """Return x^exponent for positive x; much faster than `**`, as the logarithm of a column is computed only once."""
    return jnp.exp(exponent * jnp.log(x))


@dataclass(frozen=True)
class Parameter:
    """A number to fit.

    `start_range`: starts are drawn from it, log-uniformly for a positive parameter, uniformly for a real one and for a
    share (between 0 and 1). With `in_target_units` it is in units of the typical measurement.

    `center`: the power-law factors that the parameter multiplies, as (exponent, column) pairs. A in A/N^alpha has
    (("-alpha", "N"),) and is fitted, and started, as A/N̄^alpha at the geometric mean N̄ of the data, where it is nearly
    independent of alpha. An exponent may be a number, a column may be scaled ("D/1e9").
    """

    name: str
    start_range: tuple[float, float]
    unit: str = ""
    kind: Literal["positive", "real", "share"] = "positive"
    in_target_units: bool = False
    center: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Law:
    """A scaling law.

    `predict(values, columns)` returns the target of every row, in JAX, in natural units. `inputs` and `target` are
    column names (`table.COLUMNS` defines them). `link` and `loss` are the paper's, and the default of a fit.
    `optimal(values, C)` is the closed-form compute-optimal allocation, elementwise, if there is one.
    """

    name: str
    title: str
    source: str
    formula: str
    inputs: tuple[str, ...]
    target: str
    parameters: tuple[Parameter, ...]
    predict: Callable[[Values, Columns], Any]
    link: Link = "log"
    loss: Loss = field(default_factory=Huber)
    optimal: Callable[[Values, Any], dict[str, Any]] | None = None
    # Columns that need more than one value for a fit; None: every input.
    must_vary: tuple[str, ...] | None = None
    # Columns that may be zero or negative, because no logarithm is taken of them.
    any_sign: tuple[str, ...] = ()
    # Columns that may be zero in a prediction, where the formula is defined.
    zero_inputs: tuple[str, ...] = ()
    # Columns that are shares of a mixture: not negative, with sum 1.
    shares: tuple[str, ...] = ()
    # What fitted values mean for a reader, as sentences, where that is not a matter of course.
    remarks: Callable[[Values], list[str]] | None = None
    # Whether a row is an average over problems that other rows average too: only the problems are independent.
    averaged: bool = False
    # The values that papers published, with a name of the data that they were fitted to.
    published: tuple[tuple[str, tuple[float, ...]], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def exponents(self) -> tuple[str, ...]:
        """Parameters that are powers of inputs: those that other parameters are centered with."""
        named = (e.removeprefix("-") for p in self.parameters for e, _ in p.center)
        return tuple(dict.fromkeys(name for name in named if name in self.names))

    @property
    def decay_exponents(self) -> tuple[str, ...]:
        """The exponents with a minus sign: positive if the target falls as the input grows."""
        return tuple(
            name for name in self.exponents if any(e == f"-{name}" for p in self.parameters for e, _ in p.center)
        )

    @property
    def min_distinct(self) -> int:
        """The smallest number of different rows that determines the parameters."""
        return len(self.parameters)

    def values(self, vector: Sequence[float] | np.ndarray) -> dict[str, Any]:
        """Return parameter values by name from a vector in the law's order (last axis)."""
        return {name: np.asarray(vector)[..., i] for i, name in enumerate(self.names)}

    def vector(self, values: Values) -> np.ndarray:
        """Return parameter values in the law's order, [..., parameters]."""
        return np.stack([np.asarray(values[name], np.float64) for name in self.names], axis=-1)

    # ---- working coordinates: what a fit varies ----

    def centers(self, columns: Columns) -> dict[str, Any]:
        """Return the mean logarithms of the columns that parameters are centered on."""
        means = {}
        for scaled in sorted({column for parameter in self.parameters for _, column in parameter.center}):
            column, _, unit = scaled.partition("/")
            means[scaled] = jnp.mean(jnp.log(jnp.asarray(columns[column]))) - np.log(float(unit or 1))
        return means

    def from_working(
        self, working: Any, centers: Mapping[str, Any], fixed: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return natural values from a working vector [..., parameters] of centered logarithms and log-odds.

        Values in `fixed` override the working vector.
        """
        values: dict[str, Any] = dict(fixed or {})
        for i in sorted(range(len(self.parameters)), key=lambda i: bool(self.parameters[i].center)):
            parameter, w = self.parameters[i], working[..., i]
            if fixed and parameter.name in fixed:
                continue
            for exponent, column in parameter.center:
                w = w - _exponent(values, exponent) * centers[column]
            values[parameter.name] = to_natural(parameter, w)
        return values

    def to_working(self, values: Values, centers: Mapping[str, Any]) -> Any:
        """Return the working vector of natural values: the inverse of `from_working`."""
        columns = []
        for parameter in self.parameters:
            w = to_working(parameter, jnp.asarray(values[parameter.name]))
            for exponent, column in parameter.center:
                w = w + _exponent(values, exponent) * centers[column]
            columns.append(w)
        return jnp.stack(columns, axis=-1)

    def draw_starts(self, count: int, target: np.ndarray, seed: int) -> np.ndarray:
        """Draw working vectors [count, parameters] to start from, the same for the same seed."""
        rng = np.random.default_rng(seed)
        typical = float(np.median(np.abs(target))) or 1.0
        columns = []
        for parameter in self.parameters:
            low, high = parameter.start_range
            factor = typical if parameter.in_target_units else 1.0
            if parameter.kind == "positive":
                columns.append(rng.uniform(np.log(low * factor), np.log(high * factor), count))
            elif parameter.kind == "share":
                share = rng.uniform(low, high, count)
                columns.append(np.log(share / (1 - share)))
            else:
                columns.append(rng.uniform(low * factor, high * factor, count))
        return np.stack(columns, axis=-1)


def _exponent(values: Values, name: str) -> Any:
    """Return the value of an exponent: "-alpha" is minus alpha, "-1" a number."""
    if name.removeprefix("-").isdigit():
        return float(name)
    return -values[name[1:]] if name.startswith("-") else values[name]


def to_natural(parameter: Parameter, w: Any) -> Any:
    """Return the natural value of a parameter from its logarithm, log-odds or value `w`."""
    match parameter.kind:
        case "positive":
            return jnp.exp(w)
        case "share":
            return 1 / (1 + jnp.exp(-w))
        case "real":
            return w


def to_working(parameter: Parameter, value: Any) -> Any:
    """Return the logarithm, log-odds or value of a parameter: the inverse of `to_natural`, without centering."""
    match parameter.kind:
        case "positive":
            return jnp.log(value)
        case "share":
            return jnp.log(value) - jnp.log1p(-value)
        case "real":
            return value


# ---- double precision for fits, and for nothing else in the process ----


@contextmanager
def double_precision() -> Iterator[None]:
    """Let JAX compute in float64 inside the context only.

    A summed Huber objective is about 1e-3 and its gradient at the optimum 1e-6 of that, which float32 cannot resolve.
    The switch is local to the thread's context, so training code is not affected. On accelerators without native
    float64 (TPUs) the work runs on the CPU.
    """
    device = None if jax.default_backend() in ("cpu", "gpu") else jax.local_devices(backend="cpu")[0]
    with jax.enable_x64(True), jax.default_device(device):
        yield
