"""A plan as tables, where every line gives the source of its number, and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.text import Text

from pathways_lite.console import Table, bold, dim
from pathways_lite.planner.chips import TpuSlices
from pathways_lite.planner.plan import DoesNotFit, StageWork, StepPlan
from pathways_lite.tracking.formatting import memory_unit, si, time_unit
from pathways_lite.tracking.plot_style import save_figure

GIB = 2**30


def report(plan: StepPlan) -> RenderableType:
    """Return all tables of a plan."""
    return Group(
        _header(plan),
        _memory_table(plan),
        _time_table(plan),
        _collective_table(plan),
        _estimate_table(plan),
        _footnotes(plan),
    )


def does_not_fit_message(error: DoesNotFit, work: StageWork, mesh: Mapping[str, int], machine: TpuSlices) -> str:
    """Return an error message: the memory that the compiler needs, and what to change."""
    needed = "more" if error.needed is None else f"{error.needed / GIB:.1f} GiB"
    return (
        f"{work.name} does not fit on {_machine_text(machine)}, mesh {mesh_text(mesh)}: a chip has "
        f"{machine.chip.hbm_bytes / GIB:.2f} GiB, the step needs {needed} (compiler's allocation).\n"
        f"{_advice(work, mesh)}"
    )


def _advice(work: StageWork, mesh: Mapping[str, int]) -> str:
    rows = mesh["pod"] * mesh["data"] * mesh["fsdp"]
    options = [f"stages.{work.stage}.model.remat=full"]
    if work.sequences > rows:
        options.append(f"stages.{work.stage}.microbatch={max(rows, work.sequences // 2)}")
    options += [f"a larger mesh.tensor than {mesh['tensor']}", f"a larger mesh.fsdp than {mesh['fsdp']}", "more chips"]
    return "To use less memory: " + ", ".join(options) + "; `plan --search` tries them."


def _header(plan: StepPlan) -> Text:
    work = plan.work
    return header_text(work, _machine_text(plan.machine), f", mesh {mesh_text(plan.mesh)}\n")


def header_text(work: StageWork, machine: str, more: str) -> Text:
    """Return what is planned and on which machine."""
    sizes = f"{si(work.parameters, 'parameters')}, {work.sequences:,} sequences of {work.seq_len:,} tokens per step"
    warmup = f"\n{work.seq_len_warmup}; planned is the step with all {work.seq_len:,}" if work.seq_len_warmup else ""
    return Text.assemble((work.name, "bold"), f": {sizes}{warmup}\non ", (machine, "bold"), more)


def _machine_text(machine: TpuSlices) -> str:
    slices = f"{machine.slices} slices of " if machine.slices > 1 else ""
    return f"{slices}{machine.text} ({machine.chips:,} chips)"


def mesh_text(mesh: Mapping[str, int]) -> str:
    """Return the sizes of the mesh axes with more than one device."""
    return " ".join(f"{axis}={size}" for axis, size in mesh.items() if size > 1) or "of one device"


def table(title: str, *columns: str, left: tuple[int, ...] = (0, -1)) -> Table:
    """Return a plain table; columns are right-aligned except those in `left`."""
    plain = Table(title=title, title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        plain.add_column(column, justify="right")
    for index in left:
        plain.columns[index].justify = "left"
    return plain


def _memory_table(plan: StepPlan) -> Table:
    memory, hbm = plan.program.memory, plan.machine.chip.hbm_bytes
    unit = memory_unit(memory.total)
    rows = table("Memory of a chip", "", unit.name, "source")
    for name, size, source in (
        ("parameters, float32", memory.parameters, "exact: the shardings"),
        ("optimizer", memory.optimizer, "exact: the shardings"),
        ("padding of both", memory.padding, "compiler's allocation"),
        ("batch", memory.batch, "compiler's allocation"),
        ("activations, gradients, temporaries", memory.temporaries, "compiler's allocation"),
        ("code", memory.code, "compiler's allocation"),
    ):
        rows.add_row(name, unit.format(size), dim(source))
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    rows.add_row(
        bold(f"total: {verdict}"),
        bold(unit.format(memory.total)),
        dim(f"of {hbm / GIB:.2f} GiB by the compiler"),
    )
    if not plan.fits:
        rows.add_row("", "", _advice(plan.work, dict(plan.mesh)))
    return rows


def _time_table(plan: StepPlan) -> Table:
    unit = time_unit(plan.compute_seconds)
    rows = table("\nTime of a step: computation", "", unit.name, "source")
    clock = plan.machine.chip.clock_hz / 1e9
    for part, seconds in plan.operation_seconds.items():
        rows.add_row(part, unit.format(seconds), dim(f"compiler's estimate: cycles at {clock:g} GHz, loops rolled up"))
    if plan.program.lookups:
        source = f"model: padded rows at {plan.machine.chip.hbm_bytes_per_second / 1e9:g} GB/s of memory, a lower bound"
        rows.add_row("gathers and scatters", unit.format(plan.lookup_seconds), dim(source))
    for kernel in plan.attention:
        rows.add_row(f"attention kernel; {kernel.where}", unit.format(kernel.seconds), dim(kernel.source))
    rows.add_row(bold("total"), bold(unit.format(plan.compute_seconds)), dim("assumed: one after another"))
    return rows


def _collective_table(plan: StepPlan) -> Table:
    unit = time_unit(plan.collective_seconds())
    columns = ("", "over", "of", "MiB", "times", unit.name, f"waited, {unit.name}", "in", "runs", "source")
    rows = table("\nTime of a step: collectives", *columns, left=(0, 1, 7, 8, 9))
    large = [cost for cost in plan.program.exchanges if cost.seconds >= 0.001 * plan.slow]
    for cost in large:
        rows.add_row(
            cost.kind, " ".join(cost.axes), f"{cost.members:,}", f"{cost.bytes / 2**20:.1f}", f"{cost.count:,}",
            unit.format(cost.seconds), unit.format(cost.waited_seconds), cost.where,
            "async" if cost.asynchronous else "blocks", dim("model"),
        )  # fmt: skip
    small = [cost for cost in plan.program.exchanges if cost not in large]
    if small:
        count = sum(cost.count for cost in small)
        seconds, waited_seconds = sum(cost.seconds for cost in small), sum(cost.waited_seconds for cost in small)
        rows.add_row(
            "smaller ones",
            "",
            "",
            "",
            f"{count:,}",
            unit.format(seconds),
            unit.format(waited_seconds),
            "",
            "",
            dim("model"),
        )
    total, waited = (
        bold(unit.format(value)) for value in (plan.collective_seconds(), plan.fast - plan.compute_seconds)
    )
    source = dim("count, bytes: the compiler's program")
    rows.add_row(bold("total"), "", "", "", "", total, waited, "", "", source)
    return rows


def _estimate_table(plan: StepPlan) -> Table:
    rows = table("\nEstimate", "", "as scheduled", "nothing overlaps", "only tensor's waits", "source")
    steps = (plan.fast, plan.slow, plan.ideal)
    unit = time_unit(plan.fast)
    work, peak, rates = plan.work, plan.machine.chip.bf16_flops / 1e12, [plan.rates(step) for step in steps]
    for name, values, source in (
        (
            f"step, {unit.name}",
            [unit.format(step) for step in steps],
            "computation and the collectives that it waits for",
        ),
        ("MFU, PaLM's", [f"{rate.mfu:.1%}" for rate in rates], f"(6 N + 12 L H Q T) per token, {peak:g} TFLOP/s"),
        ("MFU, 6 N D", [f"{rate.mfu_6n:.1%}" for rate in rates], "without attention"),
        ("tokens/s", [f"{rate.tokens_per_second:,.0f}" for rate in rates], ""),
        (f"days for {si(work.tokens, 'tokens')}", [f"{rate.days:.2f}" for rate in rates], "without pauses"),
        ("chip-hours", [f"{rate.chip_hours:,.0f}" for rate in rates], ""),
    ):
        rows.add_row(name, *values, dim(source))
    return rows


def _footnotes(plan: StepPlan) -> Text:
    work = plan.work
    chip = plan.machine.chip
    lines = [
        "",
        "model: bytes over links (docs/plan.md); assumes links of "
        f"{chip.link_bytes / 1e9:g} GB/s and {chip.host_dcn_bytes / 1e9:g} GB/s from a host to other slices",
        "as scheduled: computation waits for the part of a collective that outlasts the operations which the compiler "
        "put between its start and its end (compiler's schedule and estimate, model)",
        "only tensor's waits: all other collectives overlap with computation (assumption)",
        f"model FLOPs of a step: {si(work.flops_per_token * work.tokens_per_step)} by 6 N + 12 L H Q T; "
        f"{si(work.exact_flops)} in matrix products with causal attention (both exact)",
    ]
    if plan.program.unknown_loops:
        lines.append(f"loops with an unknown trip count, counted once: {', '.join(plan.program.unknown_loops)}")
    uncounted = plan.program.uncounted
    if uncounted.operations:
        lines.append(
            f"operations without an estimate, counted as taking no time: {uncounted.operations:,} per step, with "
            f"results of {uncounted.bytes / 2**20:,.1f} MiB"
        )
    return dim("\n".join(lines))


# ---- picture: the time of a step and the memory of a chip, readable without color ----

_INK, _FAINT = "#1d2433", "#6b7280"
# Colors after Okabe and Ito 2008; neighbors differ in lightness and hatch too.
_STYLES = (
    ("#0060a8", ""), ("#9cc9ee", "//"), ("#00405f", ""), ("#e8b04a", "\\\\"), ("#7a6a00", ""),
    ("#c9cdd3", ".."), ("#c04a00", ""), ("#f3c6a5", "xx"), ("#6f2c63", "--"),
)  # fmt: skip


class _Segment(NamedTuple):
    """A segment of a bar."""

    label: str
    size: float


def save_picture(plan: StepPlan, path: Path) -> None:
    """Draw the time of a step and the memory of a chip as bars, into a PNG or SVG file by the suffix of `path`."""
    with mpl.rc_context({"font.size": 9.5, "hatch.linewidth": 0.7, "svg.hashsalt": "pathways-lite"}):
        figure = Figure(figsize=(9.2, 5.4), layout="constrained")
        upper, lower = figure.subplots(2, 1)
        _draw_bar(upper, _time_segments(plan), "seconds per step")
        _draw_mark(upper, plan.fast, "as scheduled")
        _draw_mark(upper, plan.slow, "nothing overlaps", above=False)
        unit = memory_unit(plan.program.memory.total)
        _draw_bar(lower, _memory_segments(plan, unit.size), f"{unit.name} of a chip")
        if unit.name == "GiB":  # far outside the picture of a small program
            _draw_mark(lower, plan.machine.chip.hbm_bytes / unit.size, "limit")
        mesh = " ".join(f"{axis}={size}" for axis, size in plan.mesh.items() if size > 1)
        upper.set_title(
            f"{plan.work.name} on {plan.machine.text}"
            + (f" x {plan.machine.slices}" if plan.machine.slices > 1 else "")
            + f", {plan.machine.chips:,} chips, {mesh}\nMFU (6 N D) {plan.rates(plan.slow).mfu_6n:.1%} to "
            f"{plan.rates(plan.fast).mfu_6n:.1%} by estimates and models, not measured",
            loc="left", color=_INK, fontsize=10.5,
        )  # fmt: skip
        save_figure(figure, path, dpi=150)


def _time_segments(plan: StepPlan) -> list[_Segment]:
    waited = plan.fast - plan.compute_seconds
    return [
        *(_Segment(part, seconds) for part, seconds in plan.operation_seconds.items() if part != "other"),
        _Segment("other, gathers, scatters", plan.operation_seconds["other"] + plan.lookup_seconds),
        _Segment("attention kernels", sum(kernel.seconds for kernel in plan.attention)),
        _Segment("collectives, waited for", waited),
        _Segment("collectives, overlapped", plan.collective_seconds() - waited),
    ]


def _memory_segments(plan: StepPlan, unit: float) -> list[_Segment]:
    memory = plan.program.memory
    return [
        _Segment(label, size / unit)
        for label, size in (
            ("parameters", memory.parameters),
            ("optimizer", memory.optimizer),
            ("activations, gradients, temporaries", memory.temporaries),
            ("batch, code, padding", memory.batch + memory.code + memory.padding),
        )
    ]


def _draw_bar(ax: Axes, segments: Sequence[_Segment], unit: str) -> None:
    """Draw a bar of segments, with their labels and sizes in the legend."""
    left, total = 0.0, sum(segment.size for segment in segments)
    for segment, (color, hatch) in zip(segments, _STYLES, strict=False):
        share = segment.size / total
        ax.barh(
            0, segment.size, left=left, height=0.6, color=color, hatch=hatch, edgecolor="white", linewidth=0.8,
            label=f"{segment.label}: {segment.size:.3g} ({share:.0%})",
        )  # fmt: skip
        left += segment.size
    ax.set_ylim(-0.75, 0.75)
    ax.set_yticks([])
    ax.set_xlabel(unit, color=_INK)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(colors=_FAINT)
    ax.set_xlim(0, 1.02 * total)
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.32), ncols=3, frameon=False, fontsize=8.5, handlelength=2.2)


def _draw_mark(ax: Axes, x: float, label: str, *, above: bool = True) -> None:
    """Draw a line across the bar at `x`, with its label above or below."""
    ax.set_xlim(0, max(ax.get_xlim()[1], 1.02 * x))
    ax.plot([x, x], [-0.42, 0.42], color=_INK, linewidth=1.4, linestyle=(0, (4, 2)))
    ax.annotate(
        f"{label}: {x:.3g}", (x, 0.44 if above else -0.44), ha="right", va="bottom" if above else "top",
        color=_INK, fontsize=8.5,
    )  # fmt: skip
