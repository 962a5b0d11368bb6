"""`pathways-lite convert`: write a checkpoint in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathways_lite.cli.common import AsJson, OfAverage, print_json
from pathways_lite.console import print_line
from pathways_lite.errors import UserError
from pathways_lite.paths import local_path


def convert(
    run: Annotated[str, typer.Argument(metavar="RUN", help="a run, stage or checkpoint directory")],
    out: Annotated[Path, typer.Argument(metavar="OUT", parser=local_path, help="directory of the new checkpoint")],
    sparse: Annotated[bool, typer.Option("--sparse", help="write a pruned model without its zeros")] = False,
    average: OfAverage = False,
    as_json: AsJson = False,
) -> None:
    """Write the newest checkpoint at or below RUN in another format.

    With `--sparse` a model with pruned heads, MLP channels or blocks becomes a smaller dense one, which you can
    evaluate, generate with, or start a stage from by `Restore(path=OUT)`. 2:4 patterns are stored as values and
    positions, in 9/16 of the bytes of bfloat16; pruned single weights as parameters with bit masks. docs/sparse.md
    describes the formats.

    With `--average` the parameters of the new checkpoint are the moving average of those of RUN (`ema` in the recipe);
    both options together write the average without its zeros.

    Examples:

    - `pathways-lite convert runs/sparse --sparse runs/smaller`

    - `pathways-lite evaluate runs/smaller`

    - `pathways-lite convert runs/averaged --average runs/average`
    """
    if not sparse and not average:
        raise UserError("no format given; write pathways-lite convert RUN --sparse OUT, or --average")
    from pathways_lite.conversion.average_export import convert_average
    from pathways_lite.conversion.sparse_export import convert_sparse
    from pathways_lite.output_lock import lock_directory
    from pathways_lite.training.load import load_model

    with lock_directory(out):
        write = convert_sparse if sparse else convert_average
        path = write(load_model(run, examined=False, average=average), out, report=print_line)
    if as_json:
        print_json({"checkpoint": path})
    else:
        typer.echo(path)
