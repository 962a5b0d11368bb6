"""`pathways-lite runs quantization`: what quantization costs the checkpoints of runs, as a table to fit a law to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from pathways_lite.cli.common import AsJson, count_progress, print_json
from pathways_lite.errors import UserError, counted, did_you_mean
from pathways_lite.intervals import plain
from pathways_lite.paths import local_path

if TYPE_CHECKING:
    from pathways_lite.methods.quantization import Quantization


def quantization(
    paths: Annotated[
        list[Path], typer.Argument(parser=local_path, help="run directories, directories of them, or of a study")
    ],
    out: Annotated[Path, typer.Option(parser=local_path, help="a .parquet or .csv file")] = Path("quantized.csv"),
    bits: Annotated[str, typer.Option(help="bits of a weight, each from 2 to 8, separated by commas")] = "2,3,4,8",
    methods: Annotated[str, typer.Option("--methods", help="nearest, gptq, or both")] = "nearest,gptq",
    group: Annotated[int, typer.Option(min=0, help="weights that share a scale; 0: all of an output's")] = 128,
    calibration_tokens: Annotated[
        int | None, typer.Option(min=1, help="training tokens to calibrate on; default: 128 windows")
    ] = None,
    corpus: Annotated[
        str | None, typer.Option(help="a token store to calibrate on; default: the one of each run")
    ] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="held-out tokens per domain; default: the recipe's")] = None,
    as_json: AsJson = False,
) -> None:
    """Quantize every kept checkpoint in memory, and write how much the loss of the same held-out tokens rises.

    One row per checkpoint, method and bits, with N, D and C as in `runs table`. Rows that the table has already are not
    measured again, so a command that was interrupted continues. All runs must share their tokenizer; the text is that
    of the first one. docs/quantization.md says what the columns are.

    Examples:

    - `pathways-lite runs quantization runs/demo --bits 3,4 --methods gptq --out demo.csv`

    - `pathways-lite fit quantization demo.csv N=N_non_embedding`
    """
    from pathways_lite.output_lock import lock_file
    from pathways_lite.scaling.runs_table import checkpoint_row, find_runs, left_out_studies, to_columns
    from pathways_lite.scaling.table import write_table
    from pathways_lite.training.evaluate_checkpoints import CheckpointEvaluator
    from pathways_lite.training.quantization_rise import Measurement, QuantizationRise, checkpoints_of

    ways = _ways(bits, methods, group)
    checkpoints = checkpoints_of([run for path in paths for run in find_runs(path)])
    evaluator = CheckpointEvaluator(checkpoints[0], tokens=tokens)
    models = sorted((evaluator.load(path) for path in checkpoints), key=lambda model: str(model.stage.model))
    measured = 0
    with lock_file(out):
        rows = _rows_so_far(out)
        known = {row["measurement"] for row in rows}
        with count_progress("quantizing checkpoints", len(models) * len(ways), "copies") as advance:
            for model in models:
                if "quantized" in model.manifest.meta:
                    raise UserError(f"{model.path} is a quantized copy; name the run that it was made of")
                wanted = [
                    Measurement(
                        model.manifest.digest, way, evaluator.text_digest, evaluator.overlap or 0,
                        calibration_tokens if way.method == "gptq" else None, corpus if way.method == "gptq" else None,
                    )
                    for way in ways
                ]  # fmt: skip
                missing = [measurement for measurement in wanted if measurement.key not in known]
                advance(len(wanted) - len(missing))
                if not missing:
                    continue
                rise = QuantizationRise(evaluator, model)
                row = checkpoint_row(model.path, model.manifest.step, model.manifest.meta, {}) | rise.facts()
                for measurement in missing:
                    asked = {"text": measurement.text, "measurement": measurement.key}
                    rows.append(row | rise.measure(measurement) | asked)
                    measured += 1
                    write_table(to_columns(rows), out)
                    advance(1)
    if as_json:
        print_json({"table": out, "measured": measured, "kept": len(rows) - measured, "rows": rows})
        return
    _print_means(rows)
    typer.echo(f"{out}: {counted(len(rows), 'row')}, {measured} measured now")
    if note := left_out_studies(paths):
        typer.echo(note)


def _ways(bits: str, methods: str, group: int) -> list[Quantization]:
    """Read the lists of methods and bits. Raises UserError for others than there are."""
    from pathways_lite.methods.quantization import Quantization

    names = [name.strip() for name in methods.split(",")]
    if wrong := [name for name in names if name not in ("nearest", "gptq")]:
        raise UserError(f"--methods: there is no {wrong[0]!r}.{did_you_mean(wrong[0], ('nearest', 'gptq'))}")
    try:
        numbers = [int(number) for number in bits.split(",")]
    except ValueError:
        raise UserError(f"--bits {bits!r} is not a list of numbers from 2 to 8, such as 2,3,4,8") from None
    return [Quantization(name, number, group or None) for number in numbers for name in names]  # type: ignore[arg-type]


def _rows_so_far(out: Path) -> list[dict[str, Any]]:
    """Return the rows of an earlier call. Raises UserError for another table."""
    from pathways_lite.scaling.runs_table import to_rows
    from pathways_lite.scaling.table import read_table

    if out.suffix not in (".csv", ".parquet"):
        raise UserError(f"{out.name} ends in neither .parquet nor .csv; use one of these suffixes to choose the format")
    if not out.exists():
        return []
    table = read_table(out)
    if "measurement" not in table:
        raise UserError(f"{out} was not written by `runs quantization`; name another --out")
    return to_rows(table)


def _print_means(rows: list[dict[str, Any]]) -> None:
    """Show the rise by method and bits, averaged over checkpoints."""
    from pathways_lite.console import Console, Table

    grid = Table(
        title="rise of the held-out loss, nats per token", caption="of all checkpoints: mean, smallest, largest"
    )
    for column in ("method", "bits", "effective", "checkpoints", "mean", "min", "max"):
        grid.add_column(column, justify="left" if column == "method" else "right")
    for method, number in sorted({(row["quantization"], row["P"]) for row in rows}):
        of_way = [row for row in rows if (row["quantization"], row["P"]) == (method, number)]
        rises = np.array([row["rise"] for row in of_way])
        effective = np.mean([row["effective_bits"] for row in of_way])
        numbers = [plain(value, "+.4f") for value in (rises.mean(), rises.min(), rises.max())]
        grid.add_row(method, f"{number:g}", f"{effective:.2f}", f"{len(rises)}", *numbers)
    Console().print(grid)
