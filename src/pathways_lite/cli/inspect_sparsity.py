"""What `inspect` says of a pruned model: the active share of every array, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pathways_lite.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table

    from pathways_lite.checkpoints import Manifest

BARS = " ▁▂▃▄▅▆▇█"


def densities(path: Path, manifest: Manifest) -> dict[str, np.ndarray]:
    """Shares of active weights by array, [layers] or [1]; none of a dense model's checkpoint."""
    from pathways_lite.checkpoints import open_checkpoint
    from pathways_lite.training.sparse_files import read_masks

    masks = read_masks(manifest, open_checkpoint(path)[1])
    stacked = {name: mask if name.startswith("layers.") else mask[None] for name, mask in masks.items()}
    return {name: mask.reshape(len(mask), -1).mean(axis=1) for name, mask in stacked.items()}


def table(found: dict[str, np.ndarray]) -> Table:
    """A row per array that is pruned, with a bar for each of its layers."""
    from rich.table import Table

    shown = Table("pruned array", "active", "least", "most", "layers, from the bottom")
    for name, shares in found.items():
        bars = "".join(BARS[round(share * (len(BARS) - 1))] for share in shares)
        shown.add_row(name, f"{shares.mean():.1%}", f"{shares.min():.1%}", f"{shares.max():.1%}", bars)
    return shown


def picture(found: dict[str, np.ndarray], path: Path) -> None:
    """The same as a picture. Raises UserError where nothing is pruned, or the file's ending is unknown."""
    from pathways_lite.tracking.sparsity import draw_densities

    if not found:
        raise UserError("nothing of this model is pruned, so there is no picture of its sparsity")
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"{path} should end in .png, .svg or .pdf")
    draw_densities(found, path)
