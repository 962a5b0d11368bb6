"""GPTQ: round a kernel row by row and let the rows that follow make up for each one's error.

Frantar et al. 2022, arXiv 2210.17323. The error of what a kernel W computes, the sum over texts of |(W - Q)ᵀ x|², is
quadratic with the Hessian H = 2 Σ x xᵀ / tokens, which all of its columns share. Row j is rounded, and its error
divided by U_jj is taken from the later rows in proportion to U_j, where Uᵀ U = H⁻¹ and U is upper triangular.

Shapes: a kernel is a matrix [n, m], n summed over, as in `nearest`; the paper's is its transpose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy.linalg import cholesky, lapack

from pathways_lite.errors import UserError
from pathways_lite.methods.quantization.nearest import Grid, Quantized, fit_grid, group_rows

DAMPING = 0.01
"""Of the mean of the Hessian's diagonal, added to it (section 3.3)."""
BLOCK = 128
"""Rows whose errors are taken from the rows after them at once (section 3.3)."""


def quantize_gptq(
    weights: np.ndarray,
    hessian: np.ndarray,
    bits: int,
    group: int | None,
    *,
    damping: float = DAMPING,
    act_order: bool = False,
    kept: np.ndarray | None = None,
) -> Quantized:
    """Round weights [n, m] to `bits` bits, in groups of `group` rows; None: one group.

    Args:
      hessian: [n, n], of what the kernel is multiplied with.
      act_order: round the rows with the largest diagonal of the Hessian first; levels are then those of the original
        weights. Otherwise a group's levels are of its weights as they are when its first row's turn comes.
      kept: bool [n, m], the weights that are not pruned; the others stay 0.

    Rows that no text has used become 0. Raises UserError where the Hessian is not finite or cannot be inverted.
    """
    weights, hessian, order = _prepared(weights, hessian, act_order=act_order)
    groups = group_rows(len(weights), group)
    size = group or len(weights)
    codes = np.zeros(weights.shape, np.uint8)
    grids: dict[int, Grid] = {}
    if act_order:
        unsorted = weights[np.argsort(order)]
        grids = {number: fit_grid(unsorted[rows], bits) for number, rows in enumerate(groups)}

    def round_row(position: int) -> np.ndarray:
        row = int(order[position])
        number = row // size
        if number not in grids:
            grids[number] = fit_grid(weights[groups[number]], bits)
        grid = grids[number]
        code = grid.encode(weights[position], bits)
        codes[row] = code if kept is None else np.where(kept[row], code, grid.zero)
        return grid.decode(codes[row])

    round_in_order(weights, inverse_factor(hessian, damping), round_row, _blocks(len(weights), group))
    scales, zeros = (np.stack(values) for values in zip(*(grids[i] for i in range(len(groups))), strict=True))
    return Quantized(codes, scales, zeros)


def _prepared(weights: np.ndarray, hessian: np.ndarray, *, act_order: bool) -> tuple[np.ndarray, ...]:
    """Return weights and Hessian in float64 and in the order of rounding, and that order; unused rows are 0."""
    if not np.isfinite(hessian).all():
        raise UserError("the inputs of a kernel are not finite on the calibration text; is the model?")
    diagonal = np.diagonal(hessian)
    order = np.argsort(-diagonal, kind="stable") if act_order else np.arange(len(weights))
    weights, hessian = weights[order].astype(np.float64), hessian[np.ix_(order, order)].astype(np.float64)
    unused = np.flatnonzero(np.diagonal(hessian) == 0)
    weights[unused] = 0
    hessian[unused, unused] = 1
    return weights, hessian, order


def round_in_order(
    weights: np.ndarray,
    upper: np.ndarray,
    round_row: Callable[[int], np.ndarray],
    blocks: Iterator[slice],
) -> None:
    """Round rows one after another, and change `weights` [n, m] as their errors demand.

    Args:
      upper: U [n, n], Uᵀ U = H⁻¹.
      round_row: returns the rounded row at a position; it reads `weights` as they are at its turn.
      blocks: consecutive rows; the rows after a block change once it is rounded.
    """
    for block in blocks:
        errors = np.empty((block.stop - block.start, weights.shape[1]))
        for j in range(block.start, block.stop):
            error = errors[j - block.start] = (weights[j] - round_row(j)) / upper[j, j]
            weights[j + 1 : block.stop] -= upper[j, j + 1 : block.stop, None] * error
        weights[block.stop :] -= upper[block, block.stop :].T @ errors


def inverse_factor(hessian: np.ndarray, damping: float) -> np.ndarray:
    """Return the upper triangular U [n, n] with Uᵀ U = (H + damping mean(diag H) I)⁻¹.

    Raises UserError where it has none.
    """
    damped = hessian + damping * np.mean(np.diagonal(hessian)) * np.eye(len(hessian))
    try:  # H = A Aᵀ with A upper triangular, from the usual factor of H turned around; U = A⁻¹
        upper = cholesky(damped[::-1, ::-1], lower=True)[::-1, ::-1]
    except np.linalg.LinAlgError as error:
        raise UserError("the Hessian of a kernel cannot be inverted; use more --calibration-tokens") from error
    inverse, info = lapack.dtrtri(upper)
    if info:
        raise UserError("the Hessian of a kernel is singular; use more --calibration-tokens")
    return inverse


def output_error(weights: np.ndarray, rounded: np.ndarray, hessian: np.ndarray) -> float:
    """Return the squared error of what a kernel computes, over the square of that: tr(Eᵀ H E) / tr(Wᵀ H W)."""
    energies = [float(np.vdot(x, hessian @ x)) for x in (np.float64(weights - rounded), np.float64(weights))]
    return energies[0] / energies[1] if energies[1] else 0.0


def _blocks(n: int, group: int | None) -> Iterator[slice]:
    """Yield the blocks of n rows, of which none holds a part of a group beside another group."""
    size = group or n
    if size <= BLOCK:
        whole = BLOCK // size * size
        yield from group_rows(n, whole)
        return
    for rows in group_rows(n, size):
        yield from (slice(rows.start + part.start, rows.start + part.stop) for part in group_rows(_length(rows), BLOCK))


def _length(rows: slice) -> int:
    return int(rows.stop - rows.start)
