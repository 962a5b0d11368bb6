"""`pathways-lite evaluate`: held-out loss of a trained model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    path: Annotated[Path, typer.Argument(help="a run, stage or checkpoint directory")],
    corpus: Annotated[str | None, typer.Option(help="another token store, made by the same tokenizer")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="held-out tokens per domain; default: the recipe's")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object instead of a table")] = False,
) -> None:
    """Loss, perplexity and bits per byte on held-out documents, per domain, beside what compressors reach.

    Bits per byte count the whole text, document ends included, and are comparable between tokenizers.

    Examples:

    - `pathways-lite evaluate runs/demo`

    - `pathways-lite evaluate runs/demo/base/checkpoints/step_00000500 --tokens 1000000 --json`
    """
    from rich.console import Console
    from rich.table import Table

    from pathways_lite.data.store import open_store
    from pathways_lite.errors import UserError
    from pathways_lite.training.load import load_model
    from pathways_lite.training.summary import compare_with_compressors

    model = load_model(path)
    setup = model.setup.on_corpus(corpus or model.stage.data.corpus, tokens)
    trained_with, store = open_store(model.stage.data.corpus), setup.store
    if store.manifest.tokenizer != trained_with.manifest.tokenizer:
        raise UserError(
            f"{corpus} was tokenised by {store.manifest.tokenizer[:12]}, the model was trained with "
            f"{trained_with.manifest.tokenizer[:12]}; build the corpus with --tokenizer {model.stage.data.corpus}"
        )
    results = {name: result.to_json() for name, result in setup.evaluate(model.params()).items()}
    compressors = compare_with_compressors(setup)
    if as_json:
        typer.echo(json.dumps({"checkpoint": str(model.path), "domains": results, "compressors": compressors}))
        return
    table = Table(title=f"{model.path}", title_justify="left")
    for column in ("domain", "documents", "tokens", "bytes", "loss", "perplexity", "bits/byte", "xz -9"):
        table.add_column(column, justify="left" if column == "domain" else "right")
    for name, result in results.items():
        counts = [f"{result[key]:,}" for key in ("documents", "tokens", "bytes")]
        quotients = [f"{result['loss']:.4f}", f"{result['perplexity']:.2f}", f"{result['bits_per_byte']:.4f}"]
        table.add_row(name, *counts, *quotients, f"{compressors[name]['xz -9']:.4f}")
    Console().print(table)
