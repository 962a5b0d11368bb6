"""What `plan` asks of a recipe's stage: its work, and its step on described devices. No corpus is read."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
from jax.sharding import AbstractMesh
from rich.console import Console, Group, RenderableType
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pathways_kernels.attention.spans import causal
from pathways_lite import models
from pathways_lite.errors import UserError
from pathways_lite.models.accounting import attended_pairs, flops_with_spans, parameter_count
from pathways_lite.parallel.compiler_options import step_options
from pathways_lite.parallel.mesh import AXES, resolve
from pathways_lite.parallel.sharding import Layout
from pathways_lite.planner.chips import GpuCluster, TpuSlices
from pathways_lite.planner.plan import DoesNotFit, StepPlan, Work, attention_times, compiled_program
from pathways_lite.planner.program import bytes_per_chip, shard_bytes
from pathways_lite.planner.report import GIB, mesh_text, misfit, table
from pathways_lite.recipe import Mesh, Recipe, Stage
from pathways_lite.recipe.identity import identity_fields
from pathways_lite.training.components import Components
from pathways_lite.training.stage import StageSpec, stage_timeline


def find_stage(recipe: Recipe, name: str | None) -> int:
    """The index of a stage by name; without one the first. Raises UserError where there is none of that name."""
    names = [stage.name for stage in recipe.stages]
    if name is None:
        return 0
    if name not in names:
        raise UserError(f"no stage is called {name!r}; the recipe has {', '.join(names)}")
    return names.index(name)


def stage_work(recipe: Recipe, stage: Stage) -> Work:
    """With the batch that the ramp ends with."""
    timeline = stage_timeline(stage)
    model, seq_len = stage.model, stage.data.seq_len
    sequences = stage.ramp.steps[-1][1]
    pairs = attended_pairs(model, causal(1, seq_len)) * sequences
    return Work(
        name=f"{recipe.name}, stage {stage.name}" if len(recipe.stages) > 1 else recipe.name,
        stage=stage.name,
        parameters=parameter_count(model),
        sequences=sequences,
        seq_len=seq_len,
        flops_per_token=timeline.flops_per_token,
        exact_flops=flops_with_spans(model, sequences * seq_len, pairs),
        tokens=timeline.tokens_before(timeline.total_steps),
    )


def described_setup(recipe: Recipe, index: int, machine: TpuSlices) -> Components:
    """The stage on a machine that is elsewhere. Raises UserError where its mesh does not fit."""
    components = Components(StageSpec(recipe, index), machine.devices())
    _ = components.abstract_state  # names what does not divide
    return components


def make_plan(recipe: Recipe, index: int, machine: TpuSlices, *, estimate_kernels: bool = True) -> StepPlan:
    """Compile the stage's step for a machine and price it; on the standard error it says what takes the time.

    Raises UserError where its mesh does not fit, and where the step needs more memory than a chip has.
    """
    components = described_setup(recipe, index, machine)
    work = stage_work(recipe, components.stage)
    mesh = components.layout.mesh
    assert mesh is not None
    try:
        with _shown(f"{work.name}: compiling the train step for {machine.text}"):
            program = compiled_program(
                lambda: components.lower_step(work.sequences),
                components.abstract_state,
                mesh,
                machine,
                step_options(mesh),
                {"stage": step_identity(recipe, index), "sequences": work.sequences},
            )
    except DoesNotFit as error:
        raise UserError(misfit(error, work, mesh.shape, machine)) from error
    with _shown(f"{work.name}: estimating the attention kernels for {machine.text}"):
        attention = attention_times(program, machine, estimate=estimate_kernels)
    return StepPlan(work, machine, dict(mesh.shape), program, attention)


@contextmanager
def _shown(what: str) -> Iterator[None]:
    """A line with the time that it takes; nothing where it is a matter of seconds, as what is kept is."""
    console = Console(stderr=True, soft_wrap=True)
    if not console.is_terminal:
        hint = threading.Timer(5, console.print, [f"{what} ... minutes the first time, then it is kept"])
        hint.start()
        try:
            yield
        finally:
            hint.cancel()
        return
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(f"{what}: minutes the first time, then it is kept")
        yield


def step_identity(recipe: Recipe, index: int) -> Mapping[str, Any]:
    """What the compiled step depends on: the stage without its name, budget, data's place and the like."""
    stage = recipe.stages[index]
    parts = {name: identity_fields(getattr(stage, name)) for name in ("model", "objective", "optimizer")}
    steps = stage_timeline(stage).total_steps  # in the schedules
    extra = {"seq_len": stage.data.seq_len, "microbatch": stage.microbatch, "attention": stage.model.attention}
    return {**parts, **extra, "total_steps": steps}


def quiet_jax() -> None:
    """Plans run on the CPU, whatever the machine has."""
    jax.config.update("jax_platforms", "cpu")


# `pathways-lite plan --rules`: what lies where, without compiling anything.


def abstract_layout(mesh: Mesh, machine: TpuSlices | GpuCluster) -> Layout:
    """The stage's layout on so many chips, wherever they are. Raises UserError where the mesh does not fit them."""
    slices = machine.slices if isinstance(machine, TpuSlices) else 1
    abstract: Any = AbstractMesh(resolve(mesh, machine.chips, slices), AXES)  # sizes are all that is asked of it
    return Layout(abstract)


def abstract_state(recipe: Recipe, index: int, layout: Layout) -> Any:
    """The stage's state with its shardings, without devices. Raises UserError where something does not divide."""
    stage = recipe.stages[index]
    params = layout.abstract_parameters(models.abstract_params(stage.model), models.logical_axes(stage.model))
    # What does not change the state is left out, so that a search makes it once.
    model = stage.model.model_copy(update={"remat": "none"})
    plain = stage.model_copy(update={"mesh": Mesh(), "microbatch": None, "model": model})
    return layout.abstract_like_parameters(_whole_state(recipe.model_copy(update={"stages": (plain,)})), params)


@functools.lru_cache(maxsize=4)
def _whole_state(recipe: Recipe) -> Any:
    return Components(StageSpec(recipe, 0), jax.devices("cpu")[:1]).abstract_state


def show_rules(recipe: Recipe, index: int, machine: TpuSlices | GpuCluster) -> RenderableType:
    """The rules table, and every parameter with the mesh axes that it lies on and its bytes on a chip."""
    layout = abstract_layout(recipe.stages[index].mesh, machine)
    state = abstract_state(recipe, index, layout)
    rules = table("Rules: logical axes to mesh axes", "logical axis", "mesh axes", "parts", left=(0, 1))
    for name, axes in layout.rules.items():
        rules.add_row(name, " ".join(axes) or "(whole)", f"{layout.size(name):,}")
    shown = table("\nParameters", "", "shape", "lies on", "MiB of a chip", left=(0, 1, 2))
    for name, leaf in _named(state.params):
        lies = ", ".join(
            " ".join((place,) if isinstance(place, str) else place or ("-",)) for place in leaf.sharding.spec
        )
        shown.add_row(name, str(list(leaf.shape)), lies or "every chip, whole", f"{shard_bytes(leaf) / 2**20:,.2f}")
    parameters, optimizer = bytes_per_chip(state.params), bytes_per_chip(state.opt_state)
    total = (
        f"\n[bold]A chip holds {parameters / GIB:.2f} GiB of parameters and {optimizer / GIB:.2f} GiB of optimizer[/] "
        f"(exact, without padding); {machine.chips:,} chips, mesh {mesh_text(dict(layout.sizes))}"
    )
    return Group(rules, shown, total)


def _named(tree: Any) -> Iterator[tuple[str, Any]]:
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        yield jax.tree_util.keystr(path, simple=True, separator="."), leaf
