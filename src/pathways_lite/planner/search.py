"""`pathways-lite plan --search`: meshes, remat policies and micro-batches, and which of them to choose from."""

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

from rich.console import Console, Group, RenderableType

from pathways_lite.errors import UserError
from pathways_lite.parallel.sharding import BatchShard, Layout
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
from pathways_lite.planner.report import GIB, mesh_text, table
from pathways_lite.recipe import Recipe, Stage, apply_overrides
from pathways_lite.recipe.model import Remat
from pathways_lite.tracking.formatting import si

# `pathways-lite plan --topology gpu:..`: an estimate by arithmetic, said to be one.


def model_shape(stage: Stage) -> ModelShape:
    """What of the stage's model the arithmetic needs."""
    model = stage.model
    branches = 1 if model.block == "parallel" else 2
    return ModelShape(model.d_model, model.n_layers, branches, model.remat, stage.microbatch)


def analytic_estimate(recipe: Recipe, index: int, machine: TpuSlices | GpuCluster) -> tuple[AnalyticEstimate, Layout]:
    """Raises UserError where the stage's mesh does not fit the machine, the model or the batch."""
    stage = recipe.stages[index]
    layout = abstract_layout(stage.mesh, machine)
    work = stage_work(recipe, stage)
    BatchShard(total=layout.size("batch")).rows(stage.microbatch or work.sequences)
    state = abstract_state(recipe, index, layout)
    return estimate_step(work, model_shape(stage), layout.sizes, machine, bytes_per_chip(state)), layout


def analytic_plan(recipe: Recipe, index: int, machine: GpuCluster) -> tuple[dict[str, Any], RenderableType]:
    """Memory, time and MFU of a stage on GPUs: as values for JSON, and as tables."""
    found, layout = analytic_estimate(recipe, index, machine)
    work, gpu = stage_work(recipe, recipe.stages[index]), machine.gpu
    bounds_of = {"fast": found.fast, "slow": found.slow}
    steps = {
        name: compute_rates(work, step, machine.chips, gpu.bf16_flops)._asdict() for name, step in bounds_of.items()
    }
    what = {"name": work.name, "machine": machine.text, "chips": machine.chips, "mesh": dict(layout.sizes)}
    values = {**what, "method": "analytic", **asdict(found), "steps": steps}
    memory = table("Memory of a GPU: an analytic estimate", "", "GiB", "where from")
    memory.add_row("parameters and optimizer", f"{found.state_bytes / GIB:.2f}", "[dim]exact: the layout[/]")
    memory.add_row("activations, gradients", f"{found.activation_bytes / GIB:.2f}", "[dim]model[/]")
    verdict = "fits" if found.bytes <= gpu.hbm_bytes else "DOES NOT FIT"
    limit = f"[dim]the data sheet's limit is {gpu.hbm_bytes / GIB:.2f}[/]"
    memory.add_row(f"[bold]together: {verdict}[/]", f"[bold]{found.bytes / GIB:.2f}[/]", limit)
    time = table("\nTime of a step: an analytic estimate, nothing is compiled", "", "s", "where from")
    peak = f"at most {MATMUL_SHARE:.0%}: assumed share of peak of products, {gpu.bf16_flops / 1e12:g} TFLOP/s"
    time.add_row("computation", f"{found.compute:.4f}", f"[dim]{peak}[/]")
    network = f"assumes {gpu.nvlink_bytes / 1e9:g} GB/s by NVLink, {gpu.network_bytes / 1e9:g} between servers, per GPU"
    for name, seconds in (
        ("weights and their gradients, over fsdp and context", found.gathers),
        ("hidden states, over tensor", found.tensor),
        ("gradients, over data and pod", found.sums),
    ):
        time.add_row(name, f"{seconds:.4f}", f"[dim]model, {network}[/]")
    if found.offload:
        link = f"assumes {gpu.host_link_bytes / 1e9:g} GB/s to the host"
        time.add_row("what is kept, to the host's memory and back", f"{found.offload:.4f}", f"[dim]model, {link}[/]")
    bounds = table("\nEstimate", "", "only tensor's waits", "nothing overlaps", "where from")
    for key, name, shown in (
        ("seconds", "step, s", ".3f"), ("mfu", "MFU, PaLM's", ".1%"), ("mfu_6n", "MFU, 6 N D", ".1%"),
        ("tokens_per_second", "tokens/s", ",.0f"), ("days", f"days for {si(work.tokens, 'tokens')}", ".2f"),
        ("chip_hours", "GPU-hours", ",.0f"),
    ):  # fmt: skip
        bounds.add_row(name, *(f"{steps[which][key]:{shown}}" for which in ("fast", "slow")), "[dim]model[/]")
    head = (
        f"[bold]{work.name}[/]: {si(work.parameters, 'parameters')}, {work.sequences:,} sequences of {work.seq_len:,} "
        f"tokens per step\non [bold]{machine.text}[/] ({machine.chips:,} GPUs), mesh {mesh_text(layout.sizes)}\n"
    )
    return values, Group(head, memory, time, bounds)


LONG_SEQUENCE = 8192  # tokens, from where sequences may be spread too


@dataclass(frozen=True)
class Candidate:
    """A layout to try, what it changes in the recipe, and the rough estimate that orders the tries."""

    name: str
    remat: str
    overrides: tuple[str, ...]
    estimate: AnalyticEstimate
    seems_to_fit: bool


def search_plans(
    arguments: list[str], recipe: Recipe, index: int, machine: TpuSlices, *, tries: int, jobs: int, as_json: bool
) -> None:
    """Compile the likeliest layouts, each in a process of its own, and print the front of time and memory.

    Args: arguments: of `pathways-lite plan`, that make a plan of the recipe as it is.
    """
    console = Console(stderr=as_json, soft_wrap=True)
    candidates, impossible = _candidates(recipe, index, machine)
    by_policy = [[one for one in candidates if one.remat == policy] for policy in get_args(Remat)]
    chosen = interleave(by_policy)[:tries]
    console.print(
        f"{len(candidates) + impossible} layouts: {impossible} do not divide the model or the batch, or hold too much; "
        f"{len(chosen)} are compiled, minutes each the first time (--tries)"
    )
    found: list[tuple[Candidate, dict[str, Any]]] = []

    def run(one: Candidate) -> None:
        result = _plan_candidate(arguments, one)
        found.append((one, result))
        console.print(f"  {len(found)}/{len(chosen)}  {one.name}: {_summarize(result)}")

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run, chosen))
    fitting = [(one, result) for one, result in found if result.get("fits")]
    front = pareto_front([(result["steps"]["fast"]["seconds"], _memory_bytes(result)) for _, result in fitting])
    if as_json:
        ranks = {i: rank for rank, i in enumerate(front)}
        results = [
            {"overrides": one.overrides, "front": ranks.get(i), "plan": plan} for i, (one, plan) in enumerate(fitting)
        ]
        sys.stdout.write(json.dumps(results) + "\n")
        return
    if not front:
        raise UserError("no layout that was tried fits; try more (--tries), a larger machine or a smaller batch")
    rows = table(
        "\nNone of these is slower and larger than another", "layout", "step, s", "MFU 6ND", "GiB", "overrides"
    )
    for i in front:
        one, result = fitting[i]
        fast = result["steps"]["fast"]
        rows.add_row(
            one.name, f"{fast['seconds']:.3f}", f"{fast['mfu_6n']:.1%}", f"{_memory_bytes(result) / GIB:.1f}",
            shlex.join(one.overrides),
        )  # fmt: skip
    console.print(rows)


def search_analytically(recipe: Recipe, index: int, machine: GpuCluster) -> RenderableType:
    """The front by arithmetic alone."""
    candidates, _ = _candidates(recipe, index, machine)
    fitting = [one for one in candidates if one.seems_to_fit]
    if not fitting:
        raise UserError("no layout fits by rough arithmetic; take a larger machine or a smaller batch")
    rows = table("An analytic estimate, nothing is compiled", "layout", "step, s", "GiB", "overrides")
    for i in pareto_front([(one.estimate.fast, one.estimate.bytes) for one in fitting]):
        one = fitting[i]
        rows.add_row(one.name, f"{one.estimate.fast:.3f}", f"{one.estimate.bytes / GIB:.1f}", shlex.join(one.overrides))
    return rows


def _candidates(recipe: Recipe, index: int, machine: TpuSlices | GpuCluster) -> tuple[list[Candidate], int]:
    """Those that may work, fastest first by rough arithmetic, and how many cannot."""
    stage = recipe.stages[index]
    contexts = (1, 2, 4, 8) if stage.data.seq_len >= LONG_SEQUENCE else (1,)
    possible, impossible = [], 0
    slices = machine.slices if isinstance(machine, TpuSlices) else 1
    for sizes in enumerate_meshes(machine.chips, slices, contexts=contexts):
        for remat, microbatch in _variants(stage.ramp.steps[-1][1], sizes.pod * sizes.data * sizes.fsdp):
            values: dict[str, Any] = {f"mesh.{axis}": size for axis, size in sizes._asdict().items()}
            # As JSON: a bare none would be None.
            values |= {"model.remat": json.dumps(remat), "microbatch": json.dumps(microbatch)}
            overrides = tuple(f"stages.{stage.name}.{path}={value}" for path, value in values.items())
            try:
                rough, _ = analytic_estimate(apply_overrides(recipe, overrides), index, machine)
            except UserError:
                impossible += 1
                continue
            if rough.state_bytes > hbm_bytes(machine):
                impossible += 1
                continue
            axes = " ".join(f"{axis}={size}" for axis, size in sizes._asdict().items() if size > 1)
            name = f"{axes}, remat {remat}" + (f", micro-batch {microbatch}" if microbatch else "")
            possible.append(Candidate(name, remat, overrides, rough, rough.bytes <= hbm_bytes(machine)))
    # Those that seem too large come last: the compiler may know better.
    return sorted(possible, key=lambda one: (not one.seems_to_fit, one.estimate.fast)), impossible


def _variants(sequences: int, rows: int) -> Iterator[tuple[str, int | None]]:
    for remat in get_args(Remat):
        for parts in (1, 2, 4, 8):
            if sequences % (parts * rows) == 0:
                yield remat, sequences // parts if parts > 1 else None


def _plan_candidate(arguments: list[str], one: Candidate) -> dict[str, Any]:
    """What `plan --json` says of a candidate; of a failure its message."""
    start = "from pathways_lite.cli.main import main; main()"
    command = [sys.executable, "-c", start, "plan", *arguments, *one.overrides, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        plan: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return plan
    message = re.search(r"^error: (.+)$", done.stderr, re.MULTILINE)  # hints may stand before it
    return {"failed": message[1] if done.returncode == 2 and message else f"the compiler ended ({done.returncode})"}


def _memory_bytes(result: dict[str, Any]) -> float:
    return float(sum(result["program"]["memory"].values()))


def _summarize(result: dict[str, Any]) -> str:
    if "failed" in result:
        return str(result["failed"])
    fast = result["steps"]["fast"]
    fits = "" if result["fits"] else ", DOES NOT FIT"
    return f"{fast['seconds']:.3f} s, MFU (6ND) {fast['mfu_6n']:.1%}, {_memory_bytes(result) / GIB:.1f} GiB{fits}"
