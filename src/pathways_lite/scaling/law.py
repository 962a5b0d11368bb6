"""What a scaling law is: a named prediction with parameters that have units, ranges and a place to start from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite.scaling.losses import Huber, Link, Loss

# Arrays by column name; the values of parameters by name.
Columns = Mapping[str, Any]
Values = Mapping[str, Any]


def power(x: Any, exponent: Any) -> Any:
    """x^exponent for positive x; several times as fast as `**`, as the logarithm of a column is taken once for all."""
    return jnp.exp(exponent * jnp.log(x))


@dataclass(frozen=True)
class Parameter:
    """A number that a fit finds.

    `start` is the range that starts are drawn from: log-uniformly for a positive parameter, uniformly for a real one
    and for a share (between 0 and 1). With `of_target` it is in units of the typical measurement. `centre` names the
    power-law factors that the parameter multiplies, as (exponent, column) pairs: A in A/N^alpha has
    (("-alpha", "N"),), and is fitted, and started, as A/N̄^alpha at the geometric mean N̄ of the data, where it is
    nearly independent of alpha. An exponent may be a number, a column may be scaled ("D/1e9").
    """

    name: str
    start: tuple[float, float]
    unit: str = ""
    kind: Literal["positive", "real", "share"] = "positive"
    of_target: bool = False
    centre: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Law:
    """A law: `predict(values, columns)` gives the target of every row, in JAX, in natural units.

    `inputs` and `target` name columns (`table.COLUMNS` says what they mean). `link` and `loss` are the paper's way to
    fit, a default. `optimal(values, C)` is the closed-form compute-optimal allocation where there is one, elementwise.
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
    # Columns of which a single value cannot carry the fit; by default every input.
    varied: tuple[str, ...] | None = None
    # Columns that may be zero or negative: no logarithm is taken of them.
    any_sign: tuple[str, ...] = ()
    # Which values the paper published, by what they were fitted on.
    published: tuple[tuple[str, tuple[float, ...]], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def exponents(self) -> tuple[str, ...]:
        """Parameters that others are centred with: the powers that inputs are raised to."""
        named = (e.removeprefix("-") for p in self.parameters for e, _ in p.centre)
        return tuple(dict.fromkeys(name for name in named if name in self.names))

    @property
    def falling(self) -> tuple[str, ...]:
        """Those of them that inputs are raised to the negative of: positive where the target falls with the input."""
        return tuple(
            name for name in self.exponents if any(e == f"-{name}" for p in self.parameters for e, _ in p.centre)
        )

    @property
    def min_distinct(self) -> int:
        """The fewest different rows that determine the parameters."""
        return len(self.parameters)

    def values(self, vector: Sequence[float] | np.ndarray) -> dict[str, Any]:
        """Parameter values by name, from the law's order (last axis)."""
        return {name: np.asarray(vector)[..., i] for i, name in enumerate(self.names)}

    def vector(self, values: Values) -> np.ndarray:
        """Parameter values in the law's order, [..., parameters]."""
        return np.stack([np.asarray(values[name], np.float64) for name in self.names], axis=-1)

    # ---- the coordinates that fits are made in ----

    def centres(self, columns: Columns) -> dict[str, Any]:
        """Mean logarithms of the columns that parameters are centred on."""
        means = {}
        for scaled in sorted({column for parameter in self.parameters for _, column in parameter.centre}):
            column, _, unit = scaled.partition("/")
            means[scaled] = jnp.mean(jnp.log(jnp.asarray(columns[column]))) - np.log(float(unit or 1))
        return means

    def from_working(
        self, working: Any, centres: Mapping[str, Any], fixed: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Natural values from the working vector [..., parameters]: logarithms, log-odds, centred.

        Values in `fixed` are taken as they are, whatever the working vector says.
        """
        values: dict[str, Any] = dict(fixed or {})
        for i in sorted(range(len(self.parameters)), key=lambda i: bool(self.parameters[i].centre)):
            parameter, w = self.parameters[i], working[..., i]
            if fixed and parameter.name in fixed:
                continue
            for exponent, column in parameter.centre:
                w = w - _exponent(values, exponent) * centres[column]
            values[parameter.name] = _natural(parameter, w)
        return values

    def to_working(self, values: Values, centres: Mapping[str, Any]) -> Any:
        """The inverse of `from_working`."""
        columns = []
        for parameter in self.parameters:
            w = _working(parameter, jnp.asarray(values[parameter.name]))
            for exponent, column in parameter.centre:
                w = w + _exponent(values, exponent) * centres[column]
            columns.append(w)
        return jnp.stack(columns, axis=-1)

    def draw_starts(self, count: int, target: np.ndarray, seed: int) -> np.ndarray:
        """Working vectors [count, parameters] to start from, the same for the same seed."""
        rng = np.random.default_rng(seed)
        typical = float(np.median(np.abs(target))) or 1.0
        columns = []
        for parameter in self.parameters:
            low, high = parameter.start
            factor = typical if parameter.of_target else 1.0
            if parameter.kind == "positive":
                columns.append(rng.uniform(np.log(low * factor), np.log(high * factor), count))
            elif parameter.kind == "share":
                share = rng.uniform(low, high, count)
                columns.append(np.log(share / (1 - share)))
            else:
                columns.append(rng.uniform(low * factor, high * factor, count))
        return np.stack(columns, axis=-1)


def _exponent(values: Values, name: str) -> Any:
    """The exponent's value; "-alpha" is minus alpha, "-1" a number."""
    if name.removeprefix("-").isdigit():
        return float(name)
    return -values[name[1:]] if name.startswith("-") else values[name]


def _natural(parameter: Parameter, w: Any) -> Any:
    match parameter.kind:
        case "positive":
            return jnp.exp(w)
        case "share":
            return 1 / (1 + jnp.exp(-w))
        case "real":
            return w


def _working(parameter: Parameter, value: Any) -> Any:
    match parameter.kind:
        case "positive":
            return jnp.log(value)
        case "share":
            return jnp.log(value) - jnp.log1p(-value)
        case "real":
            return value


# Double precision for fits, and for nothing else in the process.


@contextmanager
def double_precision() -> Iterator[None]:
    """JAX computes in float64 inside, and as before outside.

    A sum-Huber objective is about 1e-3 and its gradient at the optimum 1e-6 of that: float32 cannot see either. The
    switch is a property of the thread's context, so that training code never meets it. Accelerators without native
    float64 (TPUs) leave the work to the CPU.
    """
    device = None if jax.default_backend() in ("cpu", "gpu") else jax.local_devices(backend="cpu")[0]
    with jax.enable_x64(True), jax.default_device(device):
        yield
