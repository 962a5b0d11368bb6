"""Analytic plans for GPUs, and the search over meshes, remat policies and micro-batches (`plan --search`)."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, get_args

from rich.console import Group, RenderableType

from pathways_lite.console import Console, bold, dim
from pathways_lite.errors import UserError
from pathways_lite.parallel.sharding import Layout
from pathways_lite.planner.analytic import (
    MATMUL_SHARE,
    AnalyticEstimate,
    ModelShape,
    enumerate_meshes,
    estimate_step,
    hbm_bytes,
    interleave,
    pareto_front,
)
from pathways_lite.planner.chips import GpuCluster, TpuSlices
from pathways_lite.planner.plan import compute_rates
from pathways_lite.planner.plan_stage import abstract_layout, abstract_state, stage_work
from pathways_lite.planner.program import bytes_per_chip
from pathways_lite.planner.report import GIB, header_text, mesh_text, table
from pathways_lite.recipe import Recipe, Stage, apply_overrides
from pathways_lite.recipe.model import Remat
from pathways_lite.tracking.formatting import memory_unit, si, time_unit
from pathways_lite.training.stage_mesh import uneven_extents

# ---- analytic plans: `plan --topology gpu:...` ----


def model_shape(stage: Stage) -> ModelShape:
    """Return the settings of a stage that the analytic estimate needs."""
    model = stage.model
    branches = 1.0 if model.block == "parallel" else 2.0
    if model.parallel_norms is not None:
        branches = 1.5  # two inputs are gathered, and one sum is scattered
    return ModelShape(model.d_model, model.n_layers, branches, model.remat, stage.microbatch)


def analytic_estimate(recipe: Recipe, index: int, machine: TpuSlices | GpuCluster) -> tuple[AnalyticEstimate, Layout]:
    """Estimate a stage and return its layout. Raises UserError if its mesh does not fit machine, model or batch."""
    stage = recipe.stages[index]
    layout, work = abstract_layout(stage, machine), stage_work(recipe, stage)
    state = abstract_state(recipe, index, layout)
    return estimate_step(work, model_shape(stage), layout.sizes, machine, bytes_per_chip(state)), layout


def analytic_plan(recipe: Recipe, index: int, machine: GpuCluster) -> tuple[dict[str, Any], RenderableType]:
    """Return memory, time and MFU of a stage on GPUs: as values for JSON, and as tables."""
    estimate, layout = analytic_estimate(recipe, index, machine)
    work, gpu = stage_work(recipe, recipe.stages[index]), machine.gpu
    bounds_seconds = {"fast": estimate.fast, "slow": estimate.slow}
    steps = {
        name: compute_rates(work, step, machine.chips, gpu.bf16_flops)._asdict()
        for name, step in bounds_seconds.items()
    }
    target = {"name": work.name, "machine": machine.text, "chips": machine.chips, "mesh": dict(layout.sizes)}
    values = {**target, "method": "analytic", **asdict(estimate), "steps": steps}
    unit = memory_unit(estimate.bytes)
    memory = table("Memory of a GPU: an analytic estimate", "", unit.name, "source")
    memory.add_row("parameters and optimizer", unit.format(estimate.state_bytes), dim("exact: the shardings"))
    memory.add_row("activations, gradients", unit.format(estimate.activation_bytes), dim("model"))
    verdict = "fits" if estimate.bytes <= gpu.hbm_bytes else "DOES NOT FIT"
    limit = dim(f"data sheet's limit: {gpu.hbm_bytes / GIB:.2f} GiB")
    memory.add_row(bold(f"total: {verdict}"), bold(unit.format(estimate.bytes)), limit)
    seconds_unit = time_unit(estimate.slow)
    time = table("\nTime of a step: an analytic estimate, nothing is compiled", "", seconds_unit.name, "source")
    peak = f"at most {MATMUL_SHARE:.0%}: assumed share of the peak in products, {gpu.bf16_flops / 1e12:g} TFLOP/s"
    time.add_row("computation", seconds_unit.format(estimate.compute), dim(peak))
    network = (
        f"assumes {gpu.nvlink_bytes / 1e9:g} GB/s over NVLink, {gpu.network_bytes / 1e9:g} between servers, per GPU"
    )
    for name, seconds in (
        ("weights and their gradients, over fsdp and context", estimate.gathers),
        ("hidden states, over tensor", estimate.tensor),
        ("gradients, over data and pod", estimate.sums),
    ):
        time.add_row(name, seconds_unit.format(seconds), dim(f"model, {network}"))
    if estimate.offload:
        link = f"assumes {gpu.host_link_bytes / 1e9:g} GB/s to the host"
        time.add_row(
            "offloaded activations, to the host's memory and back",
            seconds_unit.format(estimate.offload),
            dim(f"model, {link}"),
        )
    bounds = table("\nEstimate", "", "only tensor's waits", "nothing overlaps", "source")
    shown_steps = [seconds_unit.format(steps[which]["seconds"]) for which in ("fast", "slow")]
    bounds.add_row(f"step, {seconds_unit.name}", *shown_steps, dim("model"))
    for key, name, format_ in (
        ("mfu", "MFU, PaLM's", ".1%"), ("mfu_6n", "MFU, 6 N D", ".1%"),
        ("tokens_per_second", "tokens/s", ",.0f"), ("days", f"days for {si(work.tokens, 'tokens')}", ".2f"),
        ("chip_hours", "GPU-hours", ",.0f"),
    ):  # fmt: skip
        bounds.add_row(name, *(f"{steps[which][key]:{format_}}" for which in ("fast", "slow")), dim("model"))
    head = header_text(work, machine.text, f" ({machine.chips:,} GPUs), mesh {mesh_text(layout.sizes)}\n")
    return values, Group(head, memory, time, bounds)


# ---- search ----

LONG_SEQUENCE = 8192  # tokens; from this length on, meshes with a context axis are tried


@dataclass(frozen=True)
class Candidate:
    """A layout to try: its overrides of the recipe, and the analytic estimate that ranks it."""

    name: str
    remat: str
    overrides: tuple[str, ...]
    estimate: AnalyticEstimate
    seems_to_fit: bool


def search_plans(
    arguments: list[str], recipe: Recipe, index: int, machine: TpuSlices, *, tries: int, jobs: int, as_json: bool
) -> None:
    """Compile the most promising layouts, each in a process of its own, and print the Pareto front of time and memory.

    Args:
        arguments: of `pathways-lite plan`, for a plan of the recipe without overrides of the search.
    """
    console = Console(stderr=as_json, soft_wrap=True)
    candidates, impossible = _candidates(recipe, index, machine)
    by_policy = [[candidate for candidate in candidates if candidate.remat == policy] for policy in get_args(Remat)]
    chosen = interleave(by_policy)[:tries]
    console.print(
        f"{len(candidates) + impossible} layouts: {impossible} do not divide model or batch, or need too much memory; "
        f"compiling {len(chosen)} (--tries), minutes each the first time"
    )
    plans: list[tuple[Candidate, dict[str, Any]]] = []

    def compile_candidate(candidate: Candidate) -> None:
        plan = _plan_candidate(arguments, candidate)
        plans.append((candidate, plan))
        console.print(f"  {len(plans)}/{len(chosen)}  {candidate.name}: {_summarize(plan)}")

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(compile_candidate, chosen))
    fitting = [(candidate, plan) for candidate, plan in plans if plan.get("fits")]
    front = pareto_front([(plan["steps"]["fast"]["seconds"], _memory_bytes(plan)) for _, plan in fitting])
    if as_json:
        ranks = {i: rank for rank, i in enumerate(front)}
        results = [
            {"overrides": candidate.overrides, "front": ranks.get(i), "plan": plan}
            for i, (candidate, plan) in enumerate(fitting)
        ]
        sys.stdout.write(json.dumps(results) + "\n")
        return
    if not front:
        raise UserError("none of the layouts tried fits; try more (--tries), a larger machine or a smaller batch")
    rows = table(
        "\nPareto front: nothing else is faster and smaller", "layout", "step, s", "MFU 6ND", "GiB", "overrides"
    )
    for i in front:
        candidate, plan = fitting[i]
        fast = plan["steps"]["fast"]
        rows.add_row(
            candidate.name, f"{fast['seconds']:.3f}", f"{fast['mfu_6n']:.1%}", f"{_memory_bytes(plan) / GIB:.1f}",
            shlex.join(candidate.overrides),
        )  # fmt: skip
    console.print(rows)


def search_analytically(recipe: Recipe, index: int, machine: GpuCluster) -> RenderableType:
    """Return the Pareto front of time and memory by analytic estimates alone."""
    candidates, _ = _candidates(recipe, index, machine)
    fitting = [candidate for candidate in candidates if candidate.seems_to_fit]
    if not fitting:
        raise UserError("no layout fits by the analytic estimate; use a larger machine or a smaller batch")
    rows = table("An analytic estimate, nothing is compiled", "layout", "step, s", "GiB", "overrides")
    for i in pareto_front([(candidate.estimate.fast, candidate.estimate.bytes) for candidate in fitting]):
        name, estimate, overrides = fitting[i].name, fitting[i].estimate, fitting[i].overrides
        rows.add_row(name, f"{estimate.fast:.3f}", f"{estimate.bytes / GIB:.1f}", shlex.join(overrides))
    return rows


def _candidates(recipe: Recipe, index: int, machine: TpuSlices | GpuCluster) -> tuple[list[Candidate], int]:
    """Return the candidates that may work, fastest first by the estimate, and the number of impossible layouts."""
    stage = recipe.stages[index]
    contexts = (1, 2, 4, 8) if stage.data.seq_len >= LONG_SEQUENCE else (1,)
    possible, impossible = [], 0
    slices = machine.slices if isinstance(machine, TpuSlices) else 1
    for sizes in enumerate_meshes(machine.chips, slices, contexts=contexts):
        for remat, microbatch in _variants(stage.ramp.steps[-1][1], sizes.pod * sizes.data * sizes.fsdp):
            values: dict[str, Any] = {f"mesh.{axis}": size for axis, size in sizes._asdict().items()}
            # As JSON: an unquoted none would be None.
            values |= {"model.remat": json.dumps(remat), "microbatch": json.dumps(microbatch)}
            overrides = tuple(f"stages.{stage.name}.{path}={value}" for path, value in values.items())
            changed = apply_overrides(recipe, overrides)
            if uneven_extents(changed.stages[index], sizes._asdict()):
                impossible += 1
                continue
            try:
                estimate, _ = analytic_estimate(changed, index, machine)
            except UserError:
                impossible += 1
                continue
            if estimate.state_bytes > hbm_bytes(machine):
                impossible += 1
                continue
            axes = " ".join(f"{axis}={size}" for axis, size in sizes._asdict().items() if size > 1)
            name = f"{axes}, remat {remat}" + (f", micro-batch {microbatch}" if microbatch else "")
            possible.append(Candidate(name, remat, overrides, estimate, estimate.bytes <= hbm_bytes(machine)))
    # Those that seem too large come last: the compiler may still fit them.
    return sorted(possible, key=lambda c: (not c.seems_to_fit, c.estimate.fast)), impossible


def _variants(sequences: int, rows: int) -> Iterator[tuple[str, int | None]]:
    """Yield pairs of a remat policy and a micro-batch size that is a multiple of `rows`; None: no micro-batches."""
    for remat in get_args(Remat):
        for n_microbatches in (1, 2, 4, 8):
            if sequences % (n_microbatches * rows) == 0:
                yield remat, sequences // n_microbatches if n_microbatches > 1 else None


def _plan_candidate(arguments: list[str], candidate: Candidate) -> dict[str, Any]:
    """Return the output of `plan --json` for a candidate, or {"failed": message}."""
    start = "from pathways_lite.cli.main import main; main()"
    command = [sys.executable, "-c", start, "plan", *arguments, *candidate.overrides, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        plan: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return plan
    message = re.search(r"^error: (.+)$", done.stderr, re.MULTILINE)  # progress lines may precede it
    return {
        "failed": message[1]
        if done.returncode == 2 and message
        else f"the compiler exited with status {done.returncode}"
    }


def _memory_bytes(plan: dict[str, Any]) -> float:
    return float(sum(plan["program"]["memory"].values()))


def _summarize(plan: dict[str, Any]) -> str:
    if "failed" in plan:
        return str(plan["failed"])
    fast = plan["steps"]["fast"]
    fits = "" if plan["fits"] else ", DOES NOT FIT"
    return f"{fast['seconds']:.3f} s, MFU (6ND) {fast['mfu_6n']:.1%}, {_memory_bytes(plan) / GIB:.1f} GiB{fits}"
