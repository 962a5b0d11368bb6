"""`pathways-lite inspect`: show the contents of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pathways_lite.cli.common import print_json
from pathways_lite.errors import UserError
from pathways_lite.paths import local_path

if TYPE_CHECKING:
    import numpy as np
    from rich.tree import Tree

    from pathways_lite.checkpoints import ArrayInfo, Manifest
    from pathways_lite.console import Table
    from pathways_lite.training.load import TrainedModel


def inspect(
    path: Annotated[Path, typer.Argument(parser=local_path, help="a run, stage or checkpoint directory")],
    as_json: Annotated[
        bool, typer.Option("--json", help="print the manifest: arrays with digests, and all metadata")
    ] = False,
    picture: Annotated[
        Path | None,
        typer.Option(
            parser=local_path, help="for a pruned model: draw the density of each layer's arrays (.png, .svg, .pdf)"
        ),
    ] = None,
) -> None:
    """Show arrays, the ledger, the data position, the origin of the parameters, code and machine, and sparsity.

    Reads the newest valid checkpoint at or below PATH without loading its arrays into a model.

    Examples:

    - `pathways-lite inspect runs/demo`

    - `pathways-lite inspect runs/sparse --picture sparsity.png`

    - `pathways-lite inspect runs/demo --json | python3 -m json.tool | less`
    """
    from dataclasses import asdict

    from pathways_lite.checkpoints import companion_sizes
    from pathways_lite.console import Console, bold
    from pathways_lite.provenance import describe_provenance
    from pathways_lite.tracking.formatting import si
    from pathways_lite.training.load import load_model

    model = load_model(path)
    if as_json:
        print_json(asdict(model.manifest))
        return
    console, meta = Console(), model.manifest.meta
    lineage, cursor = meta["lineage"], meta["cursor"]
    console.print(bold(str(model.path)))
    made = model.spec.timeline.total_steps
    trained = f", step {model.manifest.step:,} of {made:,}" if model.stage.data.corpus else ", nothing trained here"
    console.print(f"stage {lineage['stage']}{trained}")
    console.print(f"identity {lineage['identity']}, parameters {describe_origin(model)}")
    console.print(f"content  {model.manifest.digest[:16]}; parameters alone {model.manifest.params_digest[:16]}")
    if carried := companion_sizes(model.manifest):
        console.print(f"carries  {', '.join(carried)} ({si(sum(carried.values()), 'B')})")
    skips = ", ".join(f"{n} sequences at step {step}" for step, n in cursor["skips"]) or "none"
    console.print(f"data     from sequence {cursor['first_sequence']:,}; skipped: {skips}")
    for name, text in describe_provenance(meta.get("provenance", {})):
        console.print(f"{name:<13} {text}", soft_wrap=True)
    console.print(_ledger_table(meta["ledger"]))
    console.print(_array_tree(model.manifest.arrays))
    densities = mask_densities(model.path, model.manifest)
    if densities:
        console.print(sparsity_table(densities))
    if picture is not None:
        save_sparsity_picture(densities, picture)


def describe_origin(model: TrainedModel) -> str:
    """Say where the parameters that a checkpoint's stage started from come from, e.g. `from base, step 40`."""
    from pathways_lite.recipe import Continue, Grow, Merge, Restore

    parent = str(model.manifest.meta["lineage"]["parent"] or "")
    start, index = model.stage.start, model.spec.index
    if isinstance(start, Restore):
        return f"from {start.path} (content {parent[:16]})"
    if isinstance(start, Merge):
        return f"averaged from {', '.join(one.path for one in start.checkpoints)}"
    if not isinstance(start, Continue | Grow):
        return f"from {parent[:16]}" if parent else "from scratch"
    how = f"grown by {type(start.operator).__name__} from" if isinstance(start, Grow) else "from"
    if not index:  # grown between files: the recipe has the stage alone
        return f"{how} the checkpoint with content {parent[:16]}"
    before = model.spec.recipe.stages[index - 1].name
    step = _step_with_content(model.path.parent.parent.parent / before / "checkpoints", parent)
    return f"{how} {before}, " + (f"step {step:,}" if step is not None else f"content {parent[:16]}")


def _step_with_content(checkpoints: Path, digest: str) -> int | None:
    """Return the step of a stage's newest checkpoint with a digest; None where it is not there any more."""
    from pathways_lite.checkpoint_names import checkpoint_name, checkpoint_steps
    from pathways_lite.checkpoints import read_manifest

    for step in reversed(checkpoint_steps(checkpoints)):
        try:
            if read_manifest(checkpoints / checkpoint_name(step)).digest == digest:
                return step
        except (UserError, OSError, ValueError):
            continue
    return None


def _ledger_table(accounts: dict[str, dict]) -> Table:
    """Return a table of the ledgers of the stage and of the whole chain of stages."""
    from pathways_lite.console import Table
    from pathways_lite.ledger import Ledger
    from pathways_lite.tracking.formatting import COST_NOTES, duration, si, total_cost

    stage, total = Ledger.from_json(accounts["stage"]), Ledger.from_json(accounts["total"])
    table = Table("ledger", "stage", "chain")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("steps", f"{stage.steps:,}", f"{total.steps:,}")
    table.add_row("tokens", f"{stage.tokens:,}", f"{total.tokens:,}")
    table.add_row("model FLOPs", si(stage.flops), total_cost(total.flops, total.cost_elsewhere))
    if total.sparse_flops != total.flops:
        table.add_row("FLOPs without zeros", si(stage.sparse_flops), si(total.sparse_flops))
    table.add_row("average active parameters", *(f"{x.average_active_parameters:,.0f}" for x in (stage, total)))
    for name in ("train", "compile", "save", "evaluate", "other"):
        table.add_row(f"time: {name}", *(duration(getattr(x.seconds, name)) for x in (stage, total)))
    if total.seconds.total:  # nothing ran here to make an import
        table.add_row("goodput", f"{stage.seconds.goodput:.1%}", f"{total.seconds.goodput:.1%}")
    if total.cost_elsewhere is not None:
        table.caption = COST_NOTES[total.cost_elsewhere]
    return table


def _array_tree(arrays: dict[str, ArrayInfo]) -> Tree:
    """Return a tree of the arrays by name, with the size of every branch."""
    from rich.text import Text
    from rich.tree import Tree

    from pathways_lite.console import dim
    from pathways_lite.tracking.formatting import si

    sizes: dict[str, int] = {}
    for name, info in arrays.items():
        parts = name.split(".")
        for depth in range(len(parts) + 1):
            branch = ".".join(parts[:depth])
            sizes[branch] = sizes.get(branch, 0) + info.nbytes
    branches = {"": Tree(f"{len(arrays)} arrays, {si(sizes[''], 'B')}")}
    for name, info in arrays.items():
        parts = name.split(".")
        for depth in range(1, len(parts)):
            branch = ".".join(parts[:depth])
            if branch not in branches:
                parent = branches[".".join(parts[: depth - 1])]
                branches[branch] = parent.add(Text.assemble(parts[depth - 1], "  ", dim(si(sizes[branch], "B"))))
        branches[".".join(parts[:-1])].add(f"{parts[-1]}  {info}")
    return branches[""]


# ---- sparsity of a pruned model ----

BARS = " ▁▂▃▄▅▆▇█"


def mask_densities(path: Path, manifest: Manifest) -> dict[str, np.ndarray]:
    """Return the fractions of active weights by array, [layers] or [1]; empty for a dense model."""
    from pathways_lite.checkpoints import open_checkpoint
    from pathways_lite.conversion.stored_masks import read_masks

    masks = read_masks(manifest, open_checkpoint(path)[1])
    stacked = {name: mask if name.startswith("layers.") else mask[None] for name, mask in masks.items()}
    return {name: mask.reshape(len(mask), -1).mean(axis=1) for name, mask in stacked.items()}


def sparsity_table(densities: dict[str, np.ndarray]) -> Table:
    """Return a table with a row per pruned array and a bar for each of its layers."""
    from pathways_lite.console import Table

    table = Table("pruned array", "active", "min", "max", "layers, from the first")
    for name, fractions in densities.items():
        bars = "".join(BARS[round(fraction * (len(BARS) - 1))] for fraction in fractions)
        table.add_row(name, f"{fractions.mean():.1%}", f"{fractions.min():.1%}", f"{fractions.max():.1%}", bars)
    return table


def save_sparsity_picture(densities: dict[str, np.ndarray], path: Path) -> None:
    """Draw the densities. Raises UserError if nothing is pruned, or if the file's suffix is unknown."""
    from pathways_lite.tracking.plots import draw_densities

    if not densities:
        raise UserError("this model is not pruned, so there is no sparsity to draw; leave out --picture")
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"{path} must end in .png, .svg or .pdf")
    draw_densities(densities, path)
