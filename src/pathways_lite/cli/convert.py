"""`pathways-lite convert`: a checkpoint in another form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathways_lite.errors import UserError


def convert(
    run: Annotated[str, typer.Argument(metavar="RUN", help="a run, stage or checkpoint directory")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="directory of the new checkpoint")],
    sparse: Annotated[bool, typer.Option("--sparse", help="what is left of a pruned model")] = False,
) -> None:
    """Write the newest checkpoint at or below RUN in another form.

    `--sparse`: of a model whose heads, MLP channels or blocks were pruned a smaller dense one, to evaluate, to generate
    with, or for a stage that starts by `Restore(path=OUT)`; of 2:4 patterns values and places, in 9/16 of the bytes of
    bfloat16; of single weights the parameters with their masks in bits. docs/sparse.md has the layouts.

    Examples:

    - `pathways-lite convert runs/sparse --sparse runs/smaller`

    - `pathways-lite evaluate runs/smaller`
    """
    if not sparse:
        raise UserError("to which form? pathways-lite convert RUN --sparse OUT")
    from pathways_lite.training.load import load_model
    from pathways_lite.training.sparse_export import convert_sparse

    found = load_model(run, examined=False)
    path = convert_sparse(found, out, report=lambda line: typer.echo(line, err=True))
    typer.echo(path)
