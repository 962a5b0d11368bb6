"""`pathways-lite data`: build a token store from text, and inspect one. Imports no JAX, to start quickly."""

from __future__ import annotations

import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pathways_lite.cli.argument_order import require_order
from pathways_lite.cli.common import AsJson, print_json
from pathways_lite.data.compressed import MAX_DOCUMENT_BYTES
from pathways_lite.paths import local_path

if TYPE_CHECKING:
    from pathways_lite.console import Console
    from pathways_lite.data.shards import HeldOutShares
    from pathways_lite.data.store import Store

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Build, inspect and select corpora.\n\n"
    "Example: `pathways-lite data build corpora/mine notes/`, then `pathways-lite data inspect corpora/mine`.",
)


@app.command()
def build(
    out: Annotated[str, typer.Argument(help="the new token store: a directory, or a gs:// or s3:// prefix")],
    sources: Annotated[
        list[str],
        typer.Argument(
            help="files or directories of text, JSON lines or other JSON, CSV, TSV, Parquet or Arrow, recognized by "
            "content, compressed or not, also in tar and zip archives; or python: for the text that comes with Python; "
            "NAME=SOURCE puts all of it into the domain NAME; seqio:TASK or seqio:TASK@SPLIT reads a SeqIO Task or "
            "Mixture"
        ),
    ],
    tokenizer: Annotated[
        str,
        typer.Option(
            help="bytes; sentencepiece:SIZE (trained here); a .model, a tokenizer.json, another store; or seqio:TASK"
        ),
    ] = "sentencepiece:8192",
    eod: Annotated[
        str | None,
        typer.Option(help="token of a .model or tokenizer.json that ends a document; default: the usual names"),
    ] = None,
    bos: Annotated[
        str | None,
        typer.Option(help="token that opens a document; auto: BOS, as tokenizer_config.json beside the tokenizer says"),
    ] = None,
    eos: Annotated[
        str | None, typer.Option(help="token that closes a document, with --bos; auto: the tokenizer's EOD")
    ] = None,
    held_out: Annotated[
        list[str],
        typer.Option(
            help="fraction of documents (0.01 or 1%) held out for evaluation, by a hash of their id; "
            "DOMAIN=FRACTION beside it for single domains, e.g. --held-out 1% --held-out code=0.05; or sources of them"
        ),
    ] = ["0.01"],  # noqa: B006  typer copies it
    text_field: Annotated[str, typer.Option(help="field or column of records that has the text")] = "text",
    domain_field: Annotated[str, typer.Option(help="field that has the domain")] = "domain",
    id_field: Annotated[str, typer.Option(help="field that has the document's id")] = "id",
    format_: Annotated[
        Literal["text", "json", "csv", "tsv"] | None,
        typer.Option("--format", help="what all files are, whatever their content looks like"),
    ] = None,
    max_document_mib: Annotated[
        int, typer.Option(min=1, help="the most MiB of text of one document; longer ones are skipped")
    ] = MAX_DOCUMENT_BYTES >> 20,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what each source is taken for, with three documents; build nothing")
    ] = False,
    import_: Annotated[str | None, typer.Option("--import", help="module or file that registers SeqIO Tasks")] = None,
    examples: Annotated[
        int | None, typer.Option(min=1, help="read at most this many examples of each seqio: source")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="number of processes; default: one per core; 0: none but this one")
    ] = None,
    workspace: Annotated[
        Path | None, typer.Option(parser=local_path, help="directory for unfinished work; default: OUT.building")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="build even if OUT holds a corpus, and put the new one in its place")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Tokenize text into a token store. After an interruption the same command continues.

    By default one token, the tokenizer's EOD, opens a document and so closes the one before it. With --bos and --eos
    documents are framed as Llama 3 and Gemma saw theirs: the loss is on EOS, not on BOS.

    Documents that cannot be read are skipped, counted, and listed with file and line in OUT/skipped.txt.

    Examples:

    - `pathways-lite data build corpora/python python: --tokenizer sentencepiece:4096`

    - `pathways-lite data build corpora/mine books/ wiki=wiki.jsonl.gz --tokenizer corpora/python`

    - `pathways-lite data build corpora/mine train.jsonl.gz --held-out test.jsonl.gz`

    - `pathways-lite data build corpora/mine books/ --held-out 0.01 --held-out wiki=0.05 --replace`

    - `pathways-lite data build corpora/mine downloads/ --dry-run`

    - `pathways-lite data build corpora/mine books/ --tokenizer Llama-3.2-1B --bos auto --eos auto`

    - `pathways-lite data build corpora/tasks seqio:my_mixture --import my_tasks.py --tokenizer seqio:my_mixture`
    """
    from pathways_lite.cli.data_build_display import check_sources, preview_sources, print_previews, show_progress
    from pathways_lite.console import Console
    from pathways_lite.data.build import build as build_store
    from pathways_lite.data.inspect import describe
    from pathways_lite.data.listing import is_token_store
    from pathways_lite.data.records import Fields
    from pathways_lite.data.seqio_tasks import SEQIO, SeqioSource
    from pathways_lite.data.sources import Source
    from pathways_lite.data.tokenizer_files import load_tokenizer
    from pathways_lite.data.tokenizers import Tokenizer
    from pathways_lite.data.train_tokenizer import vocabulary_note
    from pathways_lite.data.zarr_io import is_remote
    from pathways_lite.errors import UserError, similar_path

    def is_place(path: Path) -> bool:
        if path.exists():
            return path.is_dir() and (is_token_store(path) or not any(path.iterdir()))
        return not (re.search("[:=]", str(path)) or similar_path(path))  # else a source, perhaps misspelled

    if not is_remote(out) and local_path(out).is_dir():
        require_order(out, sources[-1], "the place of a corpus", is_place)

    def parse(text: str) -> Source:
        source = Source.parse(text, fields)
        is_seqio = source.address.startswith(SEQIO)
        return SeqioSource(source.address, source.fields, import_, examples) if is_seqio else source

    fields = Fields(
        text_field=text_field,
        domain_field=domain_field,
        id_field=id_field,
        format=format_,
        max_document_bytes=max_document_mib << 20,
    )
    parsed = [parse(source) for source in sources]
    shares = _parse_shares(held_out)
    held_out_documents = shares if shares is not None else [parse(source) for source in held_out]
    everything = [*parsed, *(held_out_documents if isinstance(held_out_documents, list) else [])]
    console = Console()
    if dry_run:
        try:
            check_sources(parsed, held_out_documents, out)
        except UserError:
            if not as_json:  # as the check has read them: without documents that lack a field which was named
                print_previews(console, [source.strictly() for source in everything], out)
            raise
        if as_json:
            print_json({"sources": [asdict(item) for item in preview_sources(everything, out)]})
        else:
            print_previews(console, everything, out)
        return
    is_seqio = tokenizer.startswith(SEQIO)
    tokenizer_or_name: str | Tokenizer = tokenizer
    if is_seqio:
        tokenizer_or_name = SeqioSource(tokenizer, fields, import_).tokenizer()
    elif eod is not None and tokenizer.partition(":")[0] in ("bytes", "sentencepiece"):
        raise UserError(f"--tokenizer {tokenizer} has an end-of-document token of its own; leave out --eod {eod}")
    elif eod is not None:
        tokenizer_or_name = load_tokenizer(tokenizer, eod)
    if eod is not None and (bos or eos):
        raise UserError("--eod is the one token between documents; give it, or --bos and --eos, not both")
    start = time.perf_counter()
    is_built = not replace and not is_remote(out) and is_token_store(local_path(out))
    with show_progress() as report:
        store = build_store(
            parsed,
            out,
            tokenizer=tokenizer_or_name,
            bos=bos,
            eos=eos,
            held_out=held_out_documents,
            workers=workers,
            workspace=workspace,
            report=report,
            replace_store=replace,
        )
    seconds = time.perf_counter() - start
    if as_json:
        print_json({**asdict(describe(store, samples=0)), "seconds": seconds})
        return
    print_previews(console, everything, out)
    description = describe(store, samples=0)
    console.print(description)
    if eod is None and bos is None and eos is None:
        _suggest_frame(console, store)
    if note := vocabulary_note(tokenizer, sum(row.counts.text_bytes for row in description.rows)):
        console.print(note)
    console.print(f"{out}: already built" if is_built else f"{out}: ready after {seconds:.1f} s")


def _suggest_frame(console: Console, store: Store) -> None:
    """Say that models of the corpus's tokenizer saw BOS and EOS around documents, where its files name both.

    Where no EOS ends documents, EOS and BOS are the marks of a chat's turns, and documents had neither.
    """
    from pathways_lite.data.frame_tokens import published_frame

    tokenizer = store.tokenizer()
    bos, eos = published_frame(tokenizer)
    ends_documents = tokenizer.eod in tokenizer.control.eos
    if store.frame.closes is None and ends_documents and bos is not None and eos is not None and bos != eos:
        console.print(
            f"The tokenizer names {bos} and {eos}: a model trained with them around documents should read a corpus "
            "built with --bos auto --eos auto; this one has only EOD between documents."
        )


def _parse_shares(texts: list[str]) -> HeldOutShares | None:
    """Return the shares in `--held-out`, where all are FRACTION or DOMAIN=FRACTION; None where all are sources."""
    from pathways_lite.data.shards import HeldOutShares
    from pathways_lite.errors import UserError

    parsed = [(text, *_parse_share(text)) for text in texts]
    sources = [text for text, _, share in parsed if share is None]
    if len(sources) == len(parsed):
        return None
    if sources:
        raise UserError(
            f"--held-out takes fractions or sources, not both: {sources[0]} is a source; a fraction of a domain is "
            "DOMAIN=FRACTION, e.g. code=0.05"
        )
    names = [domain for _, domain, _ in parsed]
    if len(set(names)) < len(names):
        raise UserError(f"--held-out {' --held-out '.join(texts)}: give one fraction, and one for each domain at most")
    by_domain = {domain: share for _, domain, share in parsed if share is not None}
    for text, _, share in parsed:
        if share is not None and not 0 <= share < 1:
            raise UserError(f"--held-out {text} must be a fraction, at least 0 and below 1, e.g. 0.01 for 1 %")
    return HeldOutShares(by_domain.pop("", 0.01), by_domain)


def _parse_share(text: str) -> tuple[str, float | None]:
    """Return the domain ("" for all) and the fraction of FRACTION or DOMAIN=FRACTION, also in %; None for others."""
    domain, _, number = text.rpartition("=")
    percent = number.rstrip().endswith("%")
    try:
        return domain, float(number.rstrip(" %")) / 100 if percent else float(number)
    except ValueError:
        return "", None


@app.command()
def inspect(
    corpus: Annotated[str, typer.Argument(help="a token store")],
    samples: Annotated[int, typer.Option(min=0, help="number of documents to show per domain")] = 2,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="show the documents' tokens, as the tokenizer cut them")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show sizes, domains, bytes per token, and the start of some documents.

    With `--tokens`, tokens end with a bar; where several make up one character, all but the last are dots.

    Examples:

    - `pathways-lite data inspect corpora/python`

    - `pathways-lite data inspect corpora/python --samples 1 --tokens`
    """
    from pathways_lite.console import Console
    from pathways_lite.data.inspect import describe
    from pathways_lite.data.store import open_store

    description = describe(open_store(corpus), samples=samples, tokens=tokens)
    if as_json:
        print_json(asdict(description))
    else:
        Console().print(description)


@app.command("fsck")
def verify(
    corpus: Annotated[str, typer.Argument(help="a token store: a directory, or a gs:// or s3:// prefix")],
    as_json: AsJson = False,
) -> None:
    """Read a whole corpus, and compare every file with its digest and the content with the fingerprint.

    The exit status is 0 if it is intact and 1 if it is damaged; each damaged file is named. Reading, in training too,
    notices missing, truncated and foreign files by itself, when it comes to them.

    Example: `pathways-lite data fsck corpora/python`
    """
    from pathways_lite.cli.fsck import fsck_corpus

    fsck_corpus(corpus, as_json=as_json)
