"""Plan a recipe's stage: its work, its step on described devices, its shardings. No corpus is read."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
from jax.sharding import AbstractMesh
from rich.console import Group, RenderableType
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from pathways_kernels.attention.spans import causal
from pathways_lite import models
from pathways_lite.console import Console, bold
from pathways_lite.errors import UserError, did_you_mean
from pathways_lite.models.accounting import attended_pairs, flops_with_spans, parameter_count
from pathways_lite.parallel.compiler_options import step_options
from pathways_lite.parallel.mesh import AXES
from pathways_lite.parallel.sharding import Layout
from pathways_lite.planner.chips import GpuCluster, TpuSlices
from pathways_lite.planner.plan import DoesNotFit, StageWork, StepPlan, attention_times, compiled_program
from pathways_lite.planner.program import bytes_per_chip, shard_bytes
from pathways_lite.planner.report import does_not_fit_message, mesh_text, table
from pathways_lite.recipe import Mesh, Recipe, Stage
from pathways_lite.recipe.identity import identity_fields
from pathways_lite.tracking.formatting import byte_size
from pathways_lite.training.components import Components
from pathways_lite.training.data_position import describe_data_position
from pathways_lite.training.resolve_amounts import resolve_budgets as resolve_budgets
from pathways_lite.training.stage import StageSpec, describe_lengths, stage_timeline
from pathways_lite.training.stage_mesh import require_mesh


def find_stage(recipe: Recipe, name: str | None) -> int:
    """Return the index of the stage `name`, 0 without a name. Raises UserError if there is no such stage."""
    names = [stage.name for stage in recipe.stages]
    if name is None:
        return 0
    if name not in names:
        raise UserError(f"there is no stage {name!r}.{did_you_mean(name, names)}")
    return names.index(name)


def describe_data(recipe: Recipe, index: int) -> str:
    """Say in one line where the stage's data begins."""
    return f"{recipe.stages[index].name}: {describe_data_position(StageSpec(recipe, index))}"


def stage_work(recipe: Recipe, stage: Stage) -> StageWork:
    """Return the work of a stage, with the batch size that the ramp ends with."""
    timeline = stage_timeline(stage)
    model, seq_len = stage.model, stage.data.seq_len
    sequences = stage.ramp.steps[-1][1]
    pairs = attended_pairs(model, causal(1, seq_len)) * sequences
    return StageWork(
        name=f"{recipe.name}, stage {stage.name}" if len(recipe.stages) > 1 else recipe.name,
        stage=stage.name,
        parameters=parameter_count(model),
        sequences=sequences,
        seq_len=seq_len,
        flops_per_token=timeline.flops_per_token,
        exact_flops=flops_with_spans(model, sequences * seq_len, pairs),
        tokens=timeline.tokens_before(timeline.total_steps),
        seq_len_warmup=describe_lengths(timeline) if timeline.lengths else "",
    )


def described_components(recipe: Recipe, index: int, machine: TpuSlices) -> Components:
    """Return the stage's components on described devices. Raises UserError if it cannot be trained on its mesh."""
    require_mesh(recipe.stages[index], machine.chips, machine.slices)
    return Components(StageSpec(recipe, index), machine.devices())


def make_plan(recipe: Recipe, index: int, machine: TpuSlices, *, estimate_kernels: bool = True) -> StepPlan:
    """Compile the stage's step for a machine and estimate its time; progress goes to standard error.

    Raises UserError if its mesh does not fit, or if the step needs more memory than a chip has.
    """
    components = described_components(recipe, index, machine)
    work = stage_work(recipe, components.stage)
    mesh = components.layout.mesh
    assert mesh is not None
    try:
        with _show_progress(f"{work.name}: compiling the train step for {machine.text}"):
            program = compiled_program(
                lambda: components.lower_step(work.sequences),
                components.abstract_state,
                mesh,
                machine,
                step_options(mesh),
                {"stage": step_identity(recipe, index), "sequences": work.sequences},
            )
    except DoesNotFit as error:
        raise UserError(does_not_fit_message(error, work, mesh.shape, machine)) from error
    with _show_progress(f"{work.name}: estimating the attention kernels for {machine.text}"):
        attention = attention_times(program, machine, estimate=estimate_kernels)
    return StepPlan(work, machine, dict(mesh.shape), program, attention)


@contextmanager
def _show_progress(activity: str) -> Iterator[None]:
    """Show a spinner with the elapsed time; without a terminal one line, unless it takes seconds (from the cache)."""
    console = Console(stderr=True, soft_wrap=True)
    if not console.is_terminal:
        hint = threading.Timer(5, console.print, [f"{activity} ... takes minutes the first time, then it is cached"])
        hint.start()
        try:
            yield
        finally:
            hint.cancel()
        return
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(f"{activity}: takes minutes the first time, then it is cached")
        yield


def step_identity(recipe: Recipe, index: int) -> Mapping[str, Any]:
    """Return what the compiled step depends on: the stage without its name, budget, corpus address and the like."""
    stage = recipe.stages[index]
    components = {name: identity_fields(getattr(stage, name)) for name in ("model", "objective", "optimizer")}
    for name in ("freeze", "ema"):  # what is None is left out, as in identities
        if (value := getattr(stage, name)) is not None:
            components[name] = identity_fields(value)
    steps = stage_timeline(stage).total_steps  # in the schedules
    if (warmup := stage.data.seq_len_warmup) is not None:  # so are tokens and FLOPs by step
        components["seq_len_warmup"] = identity_fields(warmup)
    extra = {"seq_len": stage.data.seq_len, "microbatch": stage.microbatch, "attention": stage.model.attention}
    return {**components, **extra, "total_steps": steps}


def use_cpu() -> None:
    """Run JAX on the CPU, whatever accelerators this machine has."""
    jax.config.update("jax_platforms", "cpu")


# ---- `plan --rules`: shardings, without compiling ----


def abstract_layout(stage: Stage, machine: TpuSlices | GpuCluster) -> Layout:
    """Return the layout of a stage on a machine, without devices. Raises UserError if it cannot be trained there."""
    sizes = require_mesh(stage, machine.chips, machine.slices if isinstance(machine, TpuSlices) else 1)
    abstract: Any = AbstractMesh(tuple(sizes.values()), AXES)  # only its sizes are used
    return Layout(abstract)


def abstract_state(recipe: Recipe, index: int, layout: Layout) -> Any:
    """Return the stage's state with its shardings, without devices. Raises UserError if an axis does not divide."""
    stage = recipe.stages[index]
    params = layout.abstract_parameters(models.abstract_params(stage.model), models.logical_axes(stage.model))
    # Fields that do not change the state are reset, so that a search builds it once.
    model = stage.model.model_copy(update={"remat": "none"})
    plain = stage.model_copy(update={"mesh": Mesh(), "microbatch": None, "model": model})
    return layout.abstract_like_parameters(_unsharded_state(recipe.copy_unchecked(stages=(plain,))), params)


@functools.lru_cache(maxsize=4)
def _unsharded_state(recipe: Recipe) -> Any:
    return Components(StageSpec(recipe, 0), jax.devices("cpu")[:1]).abstract_state


def show_rules(recipe: Recipe, index: int, machine: TpuSlices | GpuCluster) -> RenderableType:
    """Return tables of the sharding rules, and of every parameter with its mesh axes and its bytes on a chip."""
    layout = abstract_layout(recipe.stages[index], machine)
    state = abstract_state(recipe, index, layout)
    rules = table("Rules: logical axes to mesh axes", "logical axis", "mesh axes", "shards", left=(0, 1))
    for name, axes in layout.rules.items():
        rules.add_row(name, " ".join(axes) or "(replicated)", f"{layout.size(name):,}")
    parameter_rows = table("\nParameters", "", "shape", "sharded over", "MiB per chip", left=(0, 1, 2))
    for name, leaf in _named_leaves(state.params):
        mesh_axes = ", ".join(
            " ".join((entry,) if isinstance(entry, str) else entry or ("-",)) for entry in leaf.sharding.spec
        )
        parameter_rows.add_row(
            name, str(list(leaf.shape)), mesh_axes or "replicated", f"{shard_bytes(leaf) / 2**20:,.2f}"
        )
    parameters, optimizer = bytes_per_chip(state.params), bytes_per_chip(state.opt_state)
    average = bytes_per_chip(state.average)
    held = f"{byte_size(parameters)} of parameters"
    held += f", {byte_size(average)} of their average and " if average else " and "
    total = Text.assemble(
        "\n",
        bold(f"A chip holds {held}{byte_size(optimizer)} of optimizer "),
        f"state (exact, without padding); {machine.chips:,} chips, mesh {mesh_text(dict(layout.sizes))}",
    )
    return Group(rules, parameter_rows, total)


def _named_leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of every leaf."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        yield jax.tree_util.keystr(path, simple=True, separator="."), leaf
