"""`pathways-lite data`: text into a token store, and a look at one. Imports no JAX: it has to start at once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Build and inspect corpora.", rich_markup_mode="markdown")


@app.command()
def build(
    out: Annotated[str, typer.Argument(help="where the token store goes: a directory, or gs:// or s3:// prefix")],
    sources: Annotated[
        list[str],
        typer.Argument(
            help="files or directories of text, .jsonl or .parquet (also .gz, .zst), or python: for the text that "
            "comes with Python; NAME=SOURCE puts all of it into the domain NAME; seqio:TASK or seqio:TASK@SPLIT "
            "reads a Task or Mixture of SeqIO's"
        ),
    ],
    tokenizer: Annotated[
        str,
        typer.Option(
            help="bytes; sentencepiece:SIZE (trained here); a .model, a tokenizer.json, another store; or seqio:TASK"
        ),
    ] = "sentencepiece:8192",
    held_out: Annotated[
        list[str],
        typer.Option(
            help="share of documents kept for evaluation, by hash of their id; or a source of them, then no others are"
        ),
    ] = ["0.01"],  # noqa: B006  typer copies it
    text_field: Annotated[str, typer.Option(help="of JSONL and Parquet records")] = "text",
    domain_field: Annotated[str, typer.Option(help="of JSONL and Parquet records")] = "domain",
    id_field: Annotated[str, typer.Option(help="of JSONL and Parquet records")] = "id",
    import_: Annotated[str | None, typer.Option("--import", help="module or file that registers SeqIO's Tasks")] = None,
    examples: Annotated[int | None, typer.Option(min=1, help="at most so many of each seqio: source")] = None,
    workers: Annotated[int | None, typer.Option(help="processes; default: one per core")] = None,
    workspace: Annotated[Path | None, typer.Option(help="for unfinished work; default: OUT.building")] = None,
) -> None:
    """Tokenise text into a store with random access. Interrupted? The same command goes on.

    Documents that cannot be read are skipped, counted, and listed with file and line in OUT/skipped.txt.

    Examples:

    - `pathways-lite data build corpora/python python: --tokenizer sentencepiece:4096`

    - `pathways-lite data build corpora/mine books/ wiki=wiki.jsonl.gz --tokenizer corpora/python`

    - `pathways-lite data build corpora/mine train.jsonl.gz --held-out test.jsonl.gz`

    - `pathways-lite data build corpora/tasks seqio:my_mixture --import my_tasks.py --examples 100000 \
        --tokenizer seqio:my_mixture`
    """
    from rich.console import Console

    from pathways_lite.cli.data_build_display import show_progress
    from pathways_lite.data.build import build as build_store
    from pathways_lite.data.files import Fields
    from pathways_lite.data.inspect import describe
    from pathways_lite.data.seqio_tasks import SEQIO, SeqioSource
    from pathways_lite.data.sources import Source

    def parse(text: str) -> Source:
        source = Source.parse(text, fields)
        of_seqio = source.address.startswith(SEQIO)
        return SeqioSource(source.address, source.fields, import_, examples) if of_seqio else source

    fields = Fields(text_field=text_field, domain_field=domain_field, id_field=id_field)
    parsed = [parse(source) for source in sources]
    share = _number(held_out[0]) if len(held_out) == 1 else None
    apart = share if share is not None else [parse(source) for source in held_out]
    theirs = tokenizer.startswith(SEQIO)
    chosen = SeqioSource(tokenizer, fields, import_).tokenizer() if theirs else tokenizer
    start = time.perf_counter()
    with show_progress() as report:
        store = build_store(
            parsed, out, tokenizer=chosen, held_out=apart, workers=workers, workspace=workspace, report=report
        )
    console = Console()
    console.print(describe(store, samples=0))
    console.print(f"{out}: ready after {time.perf_counter() - start:.1f} s", highlight=False)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


@app.command()
def inspect(
    corpus: Annotated[str, typer.Argument(help="a token store")],
    samples: Annotated[int, typer.Option(min=0, help="documents shown per domain")] = 2,
) -> None:
    """Sizes, domains, tokens per byte, and the beginning of some documents.

    Example: `pathways-lite data inspect corpora/python`
    """
    from rich.console import Console

    from pathways_lite.data.inspect import describe
    from pathways_lite.data.store import open_store

    Console().print(describe(open_store(corpus), samples=samples))
