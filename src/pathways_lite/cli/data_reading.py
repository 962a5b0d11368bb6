"""`pathways-lite data batch` and `data who-read`: which text a step of a run has read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pathways_lite.cli.argument_order import is_run, require_order
from pathways_lite.cli.common import AsJson, print_json
from pathways_lite.errors import UserError, counted
from pathways_lite.paths import local_path

if TYPE_CHECKING:
    from rich.text import Text

    from pathways_lite.data.batch_view import RowView
    from pathways_lite.training.replay import StageReading

RunPath = Annotated[Path, typer.Argument(parser=local_path, help="a run, stage or checkpoint directory")]
StageName = Annotated[
    str | None, typer.Option(help="stage of the run; default: the last one that has taken STEP, or had a spike")
]
CorpusOption = Annotated[str | None, typer.Option(help="where the run's corpus is now, if it has moved")]


def batch(
    path: RunPath,
    step: Annotated[
        int | None, typer.Option(min=0, help="step of a stage, from 0; its loss is in row STEP + 1 of its log")
    ] = None,
    spike: Annotated[
        bool, typer.Option("--spike", help="the step of the last loss spike, and those before it")
    ] = False,
    before: Annotated[int, typer.Option(min=0, help="with --spike: number of steps before it to show")] = 1,
    stage: StageName = None,
    rows: Annotated[int, typer.Option(min=1, help="number of rows to show, from --first-row on")] = 4,
    first_row: Annotated[int, typer.Option(min=0, help="first row to show")] = 0,
    characters: Annotated[int, typer.Option(min=0, help="characters of each row to show; 0: all")] = 400,
    corpus: CorpusOption = None,
    as_json: AsJson = False,
) -> None:
    """Show the batch that a step of a run has read: text, documents and offsets of its rows, as trained on.

    What is given to the model is shown ‹so›; all else is predicted. `--json` has all tokens, targets, loss weights,
    positions and attention spans, and the offset of each token in its domain's stream.

    Examples:

    - `pathways-lite data batch runs/demo --step 100`

    - `pathways-lite data batch runs/demo --spike --before 3 --rows 2`

    - `pathways-lite data batch runs/demo --step 100 --rows 32 --json`
    """
    from dataclasses import asdict

    from pathways_lite.console import Console
    from pathways_lite.data.batch_view import view_rows
    from pathways_lite.data.reading import batch_source
    from pathways_lite.training.read_history import last_spike, readings_with_step
    from pathways_lite.training.replay import Spike, data_stream, load_reading, require_step

    if (step is None) != spike:
        raise UserError("name a step with --step, or ask for the last loss spike with --spike")
    others: list[StageReading] = []
    if step is None:
        reading, last = last_spike(path, stage)
    else:
        last = Spike(step, "")
        reading, *others = readings_with_step(path, step) if stage is None else [load_reading(path, stage)]
    is_spike = spike and not last.is_rise
    require_step(reading.spec, last.step)
    stream = data_stream(reading, corpus, skips=last.skips)
    console, batches = Console(), []
    if spike and not as_json:  # first, as the steps before it are shown first
        what = "the last spike is" if is_spike else "the guard saw no spike; the largest rise of the loss is at"
        console.print(f"{what} step {last.step:,} of stage {reading.stage.name}: {last.reason}")
        if (first := max(0, last.step - before)) < last.step:
            steps = f"step {first:,}" if last.step - first == 1 else f"steps {first:,} to {last.step - 1:,}"
            console.print(f"shown are {steps}, and then this one; --before N shows N steps before it, --before 0 none")
    if others and not as_json:
        names = " and ".join(repr(other.stage.name) for other in others)
        console.print(f"stage {names} has a step {step:,} too: choose it by --stage")
    for number in range(max(0, last.step - before) if spike else last.step, last.step + 1):
        source = batch_source(stream, number)
        if first_row >= (n_rows := len(source.rows.domain)):
            raise UserError(
                f"the batch of step {number:,} has {counted(n_rows, 'row')}, numbered from 0; there is no {first_row}"
            )
        shown = view_rows(stream, source, range(first_row, min(n_rows, first_row + rows)))
        reason = last.reason if number == last.step else ""
        if as_json:
            facts = {
                "step": number,
                "sequences": n_rows,
                "spike": reason or None,
                "is_spike": bool(reason) and is_spike,
            }
            batches.append(facts | {"rows": [asdict(row) for row in shown]})
            continue
        mark = "" if not reason else ", the spike" if is_spike else ", the largest rise"
        size = f"{counted(n_rows, 'row')} of {source.rows.length} tokens"
        console.print(f"stage {reading.stage.name}, step {number:,}{mark}, {size}")
        for row in shown:
            console.print(_describe_row(row, characters))
        if (hidden := n_rows - first_row - rows) > 0:
            console.print(f"\n{hidden} more rows; --rows and --first-row choose others")
    if as_json:
        print_json({"checkpoint": reading.path, "stage": reading.stage.name, "batches": batches})


def who_read(
    path: RunPath,
    document: Annotated[str, typer.Argument(help="id of a training document, or DOMAIN#NUMBER, as `data batch` shows")],
    tokens: Annotated[
        str | None,
        typer.Option(help="START:STOP, a slice of the document's tokens; token 0 opens it; default: all"),
    ] = None,
    stage: Annotated[str | None, typer.Option(help="one stage of the run; default: all that have a checkpoint")] = None,
    corpus: CorpusOption = None,
    as_json: AsJson = False,
) -> None:
    """List the steps and rows that have read a document: of a run up to its newest checkpoint, and before it.

    What other runs read before is part of it, up to the checkpoint that the run starts from; `--stage` is of one stage
    alone. Steps that a rewind has undone do not count: the parameters know nothing of them.

    Examples:

    - `pathways-lite data who-read runs/demo code#12`

    - `pathways-lite data who-read runs/demo code#12 --tokens 100:120`
    """
    from dataclasses import asdict, replace

    from pathways_lite.console import Console, Table
    from pathways_lite.data.reading import find_document, reads_of
    from pathways_lite.training.read_history import ReadHistory, load_history
    from pathways_lite.training.replay import data_stream, load_reading

    require_order(path, document, "a run", is_run)
    console, results, missing = Console(), [], None
    history = load_history(path) if stage is None else ReadHistory([load_reading(path, stage)])
    for reading in history.readings:
        is_elsewhere = not reading.path.is_relative_to(path)
        try:
            stream = data_stream(reading, corpus)
        except UserError as error:
            if not is_elsewhere:
                raise
            history.missing.append(f"what {reading.path} has read is left out: {error}")
            continue
        try:
            whole = find_document(stream.store, document)
        except UserError as error:  # stages may have different corpora
            missing = error
            continue
        start, stop = _parse_slice(tokens, whole.stop)
        part = replace(whole, start=start, stop=stop)
        reads, steps = reads_of(stream, reading.steps, part), reading.steps
        facts = {"stage": reading.stage.name, "checkpoint": reading.path, "steps": steps}
        results.append({**facts, **asdict(part), "reads": reads})
        if as_json:
            results[-1]["reads"] = [asdict(read) for read in reads]
            continue
        name = f"{part.domain}#{part.document}"
        of_run = f" of {reading.path}" if is_elsewhere else ""
        title = f"stage {reading.stage.name}{of_run}: {name} ({part.id}), tokens {part.start:,} to {part.stop - 1:,}"
        if not reads:
            console.print(f"{title}: none of the {steps:,} steps has read it")
            continue
        console.print(f"{title}, read by {len({read.step for read in reads}):,} of {steps:,} steps:")
        table = Table("step", "row", "epoch", "tokens of the document")
        for read in reads:
            table.add_row(f"{read.step:,}", str(read.row), str(read.epoch), f"{read.start:,} to {read.stop - 1:,}")
        console.print(table)
        place = f"{reading.path}" if is_elsewhere else f"{path} --stage {reading.stage.name}"
        console.print(f"to see a row: pathways-lite data batch {place} --step STEP --first-row ROW", soft_wrap=True)
    if not as_json:
        for sentence in history.missing:
            console.print(sentence)
    if not results and missing is not None:
        raise missing
    if as_json:
        print_json({"document": document, "stages": results, "missing": history.missing})


def _parse_slice(text: str | None, length: int) -> tuple[int, int]:
    """Parse START:STOP. Raises UserError for anything else, and outside of the document."""
    if text is None:
        return 0, length
    match = re.fullmatch(r"(\d*):(\d*)", text)
    start, stop = (int(match[1] or 0), int(match[2] or length)) if match else (0, 0)
    if not 0 <= start < stop <= length:
        raise UserError(f"--tokens {text} is no slice of the document's {length:,} tokens; write e.g. 0:{length}")
    return start, stop


def _describe_row(row: RowView, characters: int) -> Text:
    from rich.text import Text

    from pathways_lite.console import bold, dim, escape_controls

    documents = ", ".join(f"{d.domain}#{d.document} ({d.id}) {d.start:,}-{d.stop - 1:,}" for d in row.documents[:4])
    if len(row.documents) > 4:
        documents += f" and {len(row.documents) - 4} more"
    parts: list[Any] = [
        "\n",
        bold(f"row {row.row}"),
        f"  example {row.example:,}, epoch {row.epoch}, {row.domain} window {row.window:,} "
        f"(tokens {row.start:,} to {row.stop - 1:,} of its stream)\n",
        dim(f"documents, with their tokens: {documents}\n"),
    ]
    left = characters or 1 << 60
    example = row.stretches[0].example if row.stretches else 0
    for stretch in row.stretches:
        if left <= 0:
            break
        if stretch.example != example:
            parts.append("\n")
            example = stretch.example
        text = escape_controls(stretch.text[:left]) + ("…" if len(stretch.text) > left else "")
        left -= len(stretch.text)
        parts.append(dim(f"‹{text}›") if stretch.role == "input" else text)
    return Text.assemble(*parts)
