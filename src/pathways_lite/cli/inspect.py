"""`pathways-lite inspect`: what is in a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pathways_lite.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table
    from rich.tree import Tree

    from pathways_lite.checkpoints import ArrayInfo, Manifest


def inspect(
    path: Annotated[Path, typer.Argument(help="a run, stage or checkpoint directory")],
    as_json: Annotated[
        bool, typer.Option("--json", help="the manifest: arrays with digests, and all metadata")
    ] = False,
    picture: Annotated[
        Path | None, typer.Option(help="of a pruned model: draw how dense each layer's arrays are (.png, .svg, .pdf)")
    ] = None,
) -> None:
    """Arrays with shapes and sizes, the ledger, the data position, where the parameters came from, what is pruned.

    Shows the newest valid checkpoint at or below PATH without loading its arrays into a model.

    Examples:

    - `pathways-lite inspect runs/demo`

    - `pathways-lite inspect runs/sparse --picture sparsity.png`

    - `pathways-lite inspect runs/demo --json | python3 -m json.tool | less`
    """
    from dataclasses import asdict

    from rich.console import Console

    pass
    from pathways_lite.training.load import load_model

    found = load_model(path)
    if as_json:
        typer.echo(json.dumps(asdict(found.manifest)))
        return
    console, meta = Console(), found.manifest.meta
    lineage, cursor = meta["lineage"], meta["cursor"]
    console.print(f"[bold]{found.path}[/]", highlight=False)
    console.print(f"stage {lineage['stage']}, step {found.manifest.step:,} of {found.spec.timeline.total_steps:,}")
    console.print(f"identity {lineage['identity']}, parameters from {lineage['parent'] or 'scratch'}")
    console.print(f"content  {found.manifest.digest[:16]}", highlight=False)
    skips = ", ".join(f"{n} sequences at step {step}" for step, n in cursor["skips"]) or "none"
    console.print(f"data     from sequence {cursor['first_sequence']:,}; skipped: {skips}")
    console.print(_ledger(meta["ledger"]))
    console.print(_tree(found.manifest.arrays))
    pruned = densities(found.path, found.manifest)
    if pruned:
        console.print(sparsity_table(pruned))
    if picture is not None:
        save_sparsity_picture(pruned, picture)


def _ledger(accounts: dict[str, dict]) -> Table:
    """The accounts of the stage and of the whole chain, side by side."""
    from rich.table import Table

    from pathways_lite.ledger import Ledger
    from pathways_lite.tracking.formatting import duration, si

    stage, total = Ledger.from_json(accounts["stage"]), Ledger.from_json(accounts["total"])
    table = Table("ledger", "stage", "chain", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("steps", f"{stage.steps:,}", f"{total.steps:,}")
    table.add_row("tokens", f"{stage.tokens:,}", f"{total.tokens:,}")
    table.add_row("model FLOPs", si(stage.flops), si(total.flops))
    if total.sparse_flops != total.flops:
        table.add_row("FLOPs without zeros", si(stage.sparse_flops), si(total.sparse_flops))
    table.add_row("average active parameters", *(f"{x.average_active_parameters:,.0f}" for x in (stage, total)))
    for name in ("train", "compile", "save", "evaluate", "other"):
        table.add_row(f"time: {name}", *(duration(getattr(x.seconds, name)) for x in (stage, total)))
    table.add_row("goodput", f"{stage.seconds.goodput:.1%}", f"{total.seconds.goodput:.1%}")
    return table


def _tree(arrays: dict[str, ArrayInfo]) -> Tree:
    """Arrays by name, with the size of every branch."""
    from rich.tree import Tree

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
                branches[branch] = parent.add(f"{parts[depth - 1]}  [dim]{si(sizes[branch], 'B')}[/]")
        branches[".".join(parts[:-1])].add(f"{parts[-1]}  {info}".replace("[", r"\["))
    return branches[""]


# What `inspect` says of a pruned model: the active share of every array, layer by layer.


BARS = " ▁▂▃▄▅▆▇█"


def densities(path: Path, manifest: Manifest) -> dict[str, np.ndarray]:
    """Shares of active weights by array, [layers] or [1]; none of a dense model's checkpoint."""
    from pathways_lite.checkpoints import open_checkpoint
    from pathways_lite.training.sparse_export import read_masks

    masks = read_masks(manifest, open_checkpoint(path)[1])
    stacked = {name: mask if name.startswith("layers.") else mask[None] for name, mask in masks.items()}
    return {name: mask.reshape(len(mask), -1).mean(axis=1) for name, mask in stacked.items()}


def sparsity_table(found: dict[str, np.ndarray]) -> Table:
    """A row per array that is pruned, with a bar for each of its layers."""
    from rich.table import Table

    shown = Table("pruned array", "active", "least", "most", "layers, from the bottom")
    for name, shares in found.items():
        bars = "".join(BARS[round(share * (len(BARS) - 1))] for share in shares)
        shown.add_row(name, f"{shares.mean():.1%}", f"{shares.min():.1%}", f"{shares.max():.1%}", bars)
    return shown


def save_sparsity_picture(found: dict[str, np.ndarray], path: Path) -> None:
    """The same as a picture. Raises UserError where nothing is pruned, or the file's ending is unknown."""
    from pathways_lite.tracking.plots import draw_densities

    if not found:
        raise UserError("nothing of this model is pruned, so there is no picture of its sparsity")
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"{path} should end in .png, .svg or .pdf")
    draw_densities(found, path)
