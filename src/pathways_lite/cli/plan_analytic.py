"""`pathways-lite plan --topology gpu:..`: an estimate by arithmetic, said to be one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType

from pathways_lite.cli.plan_report import GIB, mesh_text, table
from pathways_lite.cli.plan_rules import abstract_layout, abstract_state
from pathways_lite.cli.planning import work_of
from pathways_lite.parallel.layout import Layout, Share
from pathways_lite.parallel.plan import rates
from pathways_lite.parallel.plan_analytic import MATMUL_SHARE, Rough, Shape, rough
from pathways_lite.parallel.plan_program import bytes_per_chip
from pathways_lite.parallel.topologies import GpuCluster, TpuSlices
from pathways_lite.recipe import Recipe, Stage
from pathways_lite.tracking.numbers import si


def shape_of(stage: Stage) -> Shape:
    """What of the stage's model the arithmetic needs."""
    model = stage.model
    branches = 1 if model.block == "parallel" else 2
    return Shape(model.d_model, model.n_layers, branches, model.remat, stage.microbatch)


def rough_plan(recipe: Recipe, index: int, machine: TpuSlices | GpuCluster) -> tuple[Rough, Layout]:
    """Raises UserError where the stage's mesh does not fit the machine, the model or the batch."""
    stage = recipe.stages[index]
    layout = abstract_layout(stage.mesh, machine)
    work = work_of(recipe, stage)
    Share(of=layout.size("batch")).rows(stage.microbatch or work.sequences)
    state = abstract_state(recipe, index, layout)
    return rough(work, shape_of(stage), layout.sizes, machine, bytes_per_chip(state)), layout


def analytic_plan(recipe: Recipe, index: int, machine: GpuCluster) -> tuple[dict[str, Any], RenderableType]:
    """Memory, time and MFU of a stage on GPUs: as values for JSON, and as tables."""
    found, layout = rough_plan(recipe, index, machine)
    work, gpu = work_of(recipe, recipe.stages[index]), machine.gpu
    bounds_of = {"fast": found.fast, "slow": found.slow}
    steps = {name: rates(work, step, machine.chips, gpu.bf16_flops)._asdict() for name, step in bounds_of.items()}
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
