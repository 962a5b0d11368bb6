"""A plan as a picture: where a step's time and a chip's memory go. Readable without colour."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pathways_lite.parallel.plan import Plan

_INK, _FAINT = "#1d2433", "#6b7280"
# After Okabe and Ito 2008; neighbours differ in lightness and hatch too.
_LOOKS = (
    ("#0060a8", ""), ("#9cc9ee", "//"), ("#00405f", ""), ("#e8b04a", "\\\\"), ("#7a6a00", ""),
    ("#c9cdd3", ".."), ("#c04a00", ""), ("#f3c6a5", "xx"), ("#6f2c63", "--"),
)  # fmt: skip


class _Piece(NamedTuple):
    label: str
    size: float


def save_picture(plan: Plan, path: Path) -> None:
    """Write two bars as PNG or SVG, by the ending of the path: time of a step and memory of a chip."""
    with mpl.rc_context({"font.size": 9.5, "hatch.linewidth": 0.7, "svg.hashsalt": "pathways-lite"}):
        figure = Figure(figsize=(9.2, 5.4), layout="constrained")
        upper, lower = figure.subplots(2, 1)
        _bar(upper, _time(plan), "seconds per step")
        _mark(upper, plan.fast, "as scheduled")
        _mark(upper, plan.slow, "nothing overlaps", above=False)
        _bar(lower, _memory(plan), "GiB of a chip")
        _mark(lower, plan.machine.chip.hbm_bytes / 2**30, "limit")
        mesh = " ".join(f"{axis}={size}" for axis, size in plan.mesh.items() if size > 1)
        upper.set_title(
            f"{plan.work.name} on {plan.machine.text}"
            + (f" x {plan.machine.slices}" if plan.machine.slices > 1 else "")
            + f", {plan.machine.chips:,} chips, {mesh}\nMFU (6 N D) {plan.rates(plan.slow).mfu_6n:.1%} to "
            f"{plan.rates(plan.fast).mfu_6n:.1%} by estimates and models, not measured",
            loc="left", color=_INK, fontsize=10.5,
        )  # fmt: skip
        figure.savefig(path, dpi=150, facecolor="white")


def _time(plan: Plan) -> list[_Piece]:
    pieces = [_Piece(part, seconds) for part, seconds in plan.operations.items() if part != "other"]
    pieces.append(_Piece("attention kernels", sum(one.seconds for one in plan.attention)))
    waited = plan.fast - plan.compute
    pieces.append(_Piece("collectives, waited for", waited))
    pieces.append(_Piece("collectives, meanwhile", plan.exchanged() - waited))
    pieces.insert(-3, _Piece("other, gathers, scatters", plan.operations["other"] + plan.lookups))
    return pieces


def _memory(plan: Plan) -> list[_Piece]:
    memory = plan.program.memory
    return [
        _Piece(label, size / 2**30)
        for label, size in (
            ("parameters", memory.parameters),
            ("optimizer", memory.optimizer),
            ("activations, gradients, temporaries", memory.temporaries),
            ("batch, code, padding", memory.batch + memory.code + memory.padding),
        )
    ]


def _bar(ax: Axes, pieces: Sequence[_Piece], unit: str) -> None:
    """One bar, its pieces in turn, named and with their sizes in the legend."""
    left, total = 0.0, sum(piece.size for piece in pieces)
    for piece, (color, hatch) in zip(pieces, _LOOKS, strict=False):
        share = piece.size / total
        ax.barh(
            0, piece.size, left=left, height=0.6, color=color, hatch=hatch, edgecolor="white", linewidth=0.8,
            label=f"{piece.label}: {piece.size:.3g} ({share:.0%})",
        )  # fmt: skip
        left += piece.size
    ax.set_ylim(-0.75, 0.75)
    ax.set_yticks([])
    ax.set_xlabel(unit, color=_INK)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(colors=_FAINT)
    ax.set_xlim(0, 1.02 * total)
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.32), ncols=3, frameon=False, fontsize=8.5, handlelength=2.2)


def _mark(ax: Axes, at: float, label: str, *, above: bool = True) -> None:
    """A line across the bar; its label above or below."""
    ax.set_xlim(0, max(ax.get_xlim()[1], 1.02 * at))
    ax.plot([at, at], [-0.42, 0.42], color=_INK, linewidth=1.4, linestyle=(0, (4, 2)))
    ax.annotate(
        f"{label}: {at:.3g}", (at, 0.44 if above else -0.44), ha="right", va="bottom" if above else "top",
        color=_INK, fontsize=8.5,
    )  # fmt: skip
