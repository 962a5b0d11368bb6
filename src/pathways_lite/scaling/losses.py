"""Losses that a fit sums over rows, and links: the scales on which residuals are taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp

from pathways_lite.errors import UserError, did_you_mean


def retrieval_sigmoid(x: Any) -> Any:
    """Return the performance of a score of the retrieval law: 3.30/(1 + exp(-1.81 (x + 0.46))) - 2.18.

    Yue et al. 2024, arXiv 2410.04343; between -2.18 and 1.12.
    """
    return 3.30 / (1 + jnp.exp(-1.81 * (x + 0.46))) - 2.18


def retrieval_score(P: Any) -> Any:
    """Return the inverse of `retrieval_sigmoid`; NaN outside its range."""
    fraction = (P + 2.18) / 3.30
    return jnp.log(fraction / (1 - fraction)) / 1.81 - 0.46


Link = Literal["raw", "log", "log1p", "retrieval"]
"""The scale on which prediction and measurement are compared."""

LINKS: dict[Link, Callable[[Any], Any]] = {
    "raw": lambda y: y,
    "log": jnp.log,
    "log1p": jnp.log1p,
    "retrieval": retrieval_score,
}

INVERSE_LINKS: dict[Link, Callable[[Any], Any]] = {
    "raw": lambda y: y,
    "log": jnp.exp,
    "log1p": jnp.expm1,
    "retrieval": retrieval_sigmoid,
}


@dataclass(frozen=True)
class Huber:
    """r²/2 where |r| <= delta, delta (|r| - delta/2) beyond (Huber 1964; delta = 1e-3 in Hoffmann et al. 2022, D.2)."""

    delta: float = 1e-3

    def __call__(self, r: Any) -> Any:
        # Written with the clipped residual, so that the second derivative has no jump to differentiate through.
        inner = jnp.clip(r, -self.delta, self.delta)
        return inner * (r - 0.5 * inner)

    def __str__(self) -> str:
        return f"huber:{self.delta:g}"


@dataclass(frozen=True)
class LeastAbsolute:
    """|r|."""

    def __call__(self, r: Any) -> Any:
        return jnp.abs(r)

    def __str__(self) -> str:
        return "lad"


@dataclass(frozen=True)
class LeastSquares:
    """r²/2."""

    def __call__(self, r: Any) -> Any:
        return 0.5 * r * r

    def __str__(self) -> str:
        return "squares"


Loss = Huber | LeastAbsolute | LeastSquares


def parse_link(text: str) -> Link:
    """Return the link of that name. Raises UserError for an unknown one."""
    for link in LINKS:
        if text == link:
            return link
    raise UserError(f"there is no link {text!r}.{did_you_mean(text, LINKS)}")


def parse_loss(text: str) -> Loss:
    """Parse the `str` of a loss: "huber:0.001", "lad" or "squares". Raises UserError for anything else."""
    kind, _, delta = text.partition(":")
    match kind:
        case "lad" if not delta:
            return LeastAbsolute()
        case "squares" if not delta:
            return LeastSquares()
        case "huber":
            try:
                value = float(delta or "1e-3")
            except ValueError:
                value = -1.0
            if value > 0:
                return Huber(value)
    raise UserError(f"there is no loss {text!r}.{did_you_mean(text, ('huber:0.001', 'lad', 'squares'))}")
