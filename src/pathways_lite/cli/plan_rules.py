"""`pathways-lite plan --rules`: what lies where, without compiling anything."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import AbstractMesh
from rich.console import Group, RenderableType

from pathways_lite import models
from pathways_lite.cli.plan_report import GIB, mesh_text, table
from pathways_lite.parallel.layout import Layout
from pathways_lite.parallel.mesh import AXES, resolve
from pathways_lite.parallel.plan_program import bytes_per_chip, shard_bytes
from pathways_lite.parallel.topologies import GpuCluster, TpuSlices
from pathways_lite.recipe import Mesh, Recipe
from pathways_lite.training.setup import Setup


def abstract_layout(mesh: Mesh, machine: TpuSlices | GpuCluster) -> Layout:
    """The stage's layout on so many chips, wherever they are. Raises UserError where the mesh does not fit them."""
    slices = machine.slices if isinstance(machine, TpuSlices) else 1
    abstract: Any = AbstractMesh(resolve(mesh, machine.chips, slices), AXES)  # sizes are all that is asked of it
    return Layout(abstract)


def abstract_state(recipe: Recipe, index: int, layout: Layout) -> Any:
    """The stage's state with its shardings, without devices. Raises UserError where something does not divide."""
    stage = recipe.stages[index]
    params = layout.parameters(models.abstract_params(stage.model), models.logical_axes(stage.model))
    # What does not change the state is left out, so that a search makes it once.
    model = stage.model.model_copy(update={"remat": "none"})
    plain = stage.model_copy(update={"mesh": Mesh(), "microbatch": None, "model": model})
    return layout.like_parameters(_whole_state(recipe.model_copy(update={"stages": (plain,)})), params)


@functools.lru_cache(maxsize=4)
def _whole_state(recipe: Recipe) -> Any:
    return Setup(recipe, 0, jax.devices("cpu")[:1]).abstract_state


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
