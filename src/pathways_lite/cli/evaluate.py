"""`pathways-lite evaluate`: held-out loss of a trained model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pathways_lite.cli.common import OfAverage, print_json
from pathways_lite.errors import UserError
from pathways_lite.intervals import plain
from pathways_lite.paths import local_path

if TYPE_CHECKING:
    from pathways_lite.console import Table
    from pathways_lite.data.held_out_text import HeldOutText
    from pathways_lite.training.load import TrainedModel


def evaluate(
    path: Annotated[Path, typer.Argument(parser=local_path, help="a run, stage or checkpoint directory")],
    corpus: Annotated[
        str | None,
        typer.Option(
            help="a token store, built with the same tokenizer; default: the text that the run was evaluated on"
        ),
    ] = None,
    text: Annotated[
        list[Path], typer.Option(parser=local_path, help="a text file to evaluate instead of a corpus; may be repeated")
    ] = [],  # noqa: B006
    tokens: Annotated[int | None, typer.Option(min=1, help="held-out tokens per domain; default: the recipe's")] = None,
    seq_len: Annotated[
        int | None,
        typer.Option(
            "--seq-len", min=1, help="tokens of a window; default: the recipe's, of an imported model at most 2048"
        ),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(
            min=0, help="tokens of context that the later windows of a long document repeat; default: the recipe's"
        ),
    ] = None,
    infilling: Annotated[
        bool,
        typer.Option(
            "--infilling", help="also measure infilling, and continuations of a prefix with bidirectional attention"
        ),
    ] = False,
    infilling_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="held-out tokens per domain for --infilling; default: those of the other results"),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(parser=local_path, help="write held-out text with the loss of each token in color (HTML)"),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="instead of held-out text: tasks, separated by commas: families of `tasks list` (sum, facts:choices), "
            "problem files or directories, and tasks of lm-evaluation-harness (extra lm-eval)"
        ),
    ] = None,
    shots: Annotated[int, typer.Option(min=0, help="with --tasks: solved problems before each item")] = 0,
    limit: Annotated[
        int | None, typer.Option(min=1, help="with --tasks: items of each; default: 256 of a family, all of a file")
    ] = None,
    mode: Annotated[
        Literal["s2s", "nlu", "nlg"] | None, typer.Option(help="with --tasks: the mode token of a UL2R model")
    ] = None,
    include: Annotated[
        Path | None,
        typer.Option(parser=local_path, help="with --tasks: a directory with tasks of lm-evaluation-harness (YAML)"),
    ] = None,
    apply_chat_template: Annotated[
        bool,
        typer.Option("--apply-chat-template", help="with --tasks: ask an instruct model by its chat template"),
    ] = False,
    fewshot_as_multiturn: Annotated[
        bool,
        typer.Option(help="with --apply-chat-template: shots are earlier turns, or else part of the user's message"),
    ] = True,
    average: OfAverage = False,
    along: Annotated[
        bool, typer.Option("--along", help="evaluate every checkpoint that the run keeps, and write a table of them")
    ] = False,
    every: Annotated[int, typer.Option(min=1, help="with --along: each that many-th checkpoint of a stage")] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=local_path,
            help="with --along: the table, .csv or .parquet; default: RUN/along.csv, or RUN/tasks.csv",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object instead of a table")] = False,
) -> None:
    """Measure loss, perplexity and bits per byte on held-out documents, per domain, and compare with compressors.

    Bits per byte cover the whole text, document ends included, and are comparable between tokenizers.

    Documents longer than the sequence length L are cut into windows. With --overlap N each scored token after the first
    L sees at least N tokens of its document, and the evaluation takes L / (L - N) times as long.

    --along evaluates all kept checkpoints of a run on the same text, one row each with N, D, C and losses as in
    `runs table`, and a picture. Rows that the table has already are not measured again.

    --tasks evaluates tasks instead; with --along every checkpoint of a run, a study or a directory of runs, a row for
    each task, and a page of curves and statistics (docs/downstream.md).

    Examples:

    - `pathways-lite evaluate runs/demo`

    - `pathways-lite evaluate runs/demo/base/checkpoints/step_00000500 --tokens 1000000 --json`

    - `pathways-lite evaluate runs/demo --overlap 128`

    - `pathways-lite evaluate runs/llama --text book.txt --seq-len 4096`

    - `pathways-lite evaluate runs/ul2r_demo --infilling`

    - `pathways-lite evaluate runs/demo --page tokens.html`

    - `pathways-lite evaluate runs/averaged --average`

    - `pathways-lite evaluate runs/demo --along --every 2`

    - `pathways-lite evaluate runs/sums --tasks sum,sum:choices --shots 5`

    - `pathways-lite evaluate runs --tasks sum:choices --along --out tasks.csv`

    - `pathways-lite evaluate runs/smollm2 --tasks sum --shots 2 --apply-chat-template`
    """
    from pathways_lite.console import Console, Table
    from pathways_lite.evaluation.as_trained import AS_TRAINED
    from pathways_lite.evaluation.compressors import held_out_compression
    from pathways_lite.evaluation.infilling import TASKS
    from pathways_lite.tracking.formatting import bits_per_byte, held_out_note
    from pathways_lite.training.final_evaluation import infilling_json
    from pathways_lite.training.load import load_model
    from pathways_lite.training.token_losses import score_samples, write_samples_page

    if tasks is None and (shots or limit is not None or mode is not None or include is not None or apply_chat_template):
        raise UserError(
            "--shots, --limit, --mode and --include are for --tasks, as is --apply-chat-template; name some, e.g. "
            "--tasks sum"
        )
    if not fewshot_as_multiturn and not apply_chat_template:
        raise UserError("--no-fewshot-as-multiturn is about chats; add --apply-chat-template, or leave it out")
    if mode is not None and apply_chat_template:
        raise UserError("--mode asks a UL2R model, and --apply-chat-template an instruct model; leave one of them out")
    other = {"--text": text, "--corpus": corpus, "--tokens": tokens, "--overlap": overlap, "--seq-len": seq_len,
             "--infilling": infilling, "--page": page}  # fmt: skip
    if tasks is not None and (named := [name for name, value in other.items() if value not in (None, False, [])]):
        raise UserError(f"--tasks is evaluated instead of held-out text; leave out {', '.join(named)}")
    if tasks is not None:
        from pathways_lite.cli.evaluate_tasks import TaskChoice

        choice = TaskChoice(tasks, shots, limit, mode, include, apply_chat_template, fewshot_as_multiturn)
    if along:
        from pathways_lite.cli.evaluate_losses_along import evaluate_losses_along
        from pathways_lite.cli.evaluate_tasks_along import evaluate_tasks_along

        if page is not None or infilling:
            raise UserError("--along writes a table of losses; give --page and --infilling for one checkpoint")
        if tasks is not None:
            evaluate_tasks_along(path, out, choice, every=every, average=average, as_json=as_json)
            return
        evaluate_losses_along(
            path, out, every=every, corpus=corpus, tokens=tokens, overlap=overlap, average=average, as_json=as_json
        )
        return
    if tasks is not None:
        from pathways_lite.cli.evaluate_tasks import evaluate_tasks

        evaluate_tasks(path, choice, average=average, as_json=as_json)
        return
    if every != 1 or out is not None:
        raise UserError("--every and --out are for --along, which writes a table; results of one checkpoint: --json")
    if page is not None and not page.parent.is_dir():
        raise UserError(f"--page {page}: there is no directory {page.parent}")
    if text and corpus is not None:
        raise UserError("--text is evaluated instead of a corpus; leave out --corpus, or --text")
    model = load_model(path, average=average)
    documents = _read_texts(text, model) if text else None
    tokens = documents.tokens if documents is not None and tokens is None else tokens
    evaluator = model.evaluator(corpus, tokens, overlap, seq_len=seq_len, documents=documents)
    params = model.params()
    results = {name: result.to_json() for name, result in evaluator.evaluate(params).items()}
    if not results:
        raise UserError(f"{evaluator.store.address} has no held-out documents; name another corpus with --corpus")
    if page is not None:
        samples = score_samples(evaluator, params)
        write_samples_page(page, model.spec.recipe.name, model.stage.name, model.manifest.step, samples)
    compressors = held_out_compression(evaluator.store, evaluator.documents, evaluator.stage.evaluation.tokens)
    infilled: dict[str, Any] | None = None
    if infilling:
        own = evaluator
        if infilling_tokens is not None:
            own = model.evaluator(corpus, infilling_tokens, seq_len=seq_len, documents=documents)
        infilled = infilling_json(own, params)
    if as_json:
        values: dict[str, Any] = {"checkpoint": str(model.path), "overlap": evaluator.stage.evaluation.overlap or 0}
        values |= {"seq_len": evaluator.stage.data.seq_len}
        values |= {"domains": results, "compressors": compressors} | ({"average": True} if average else {})
        print_json(values | (infilled or {}) | ({"page": page} if page is not None else {}))
        return
    title = f"{model.path}, average of parameters" if average else f"{model.path}"
    table = Table(title=title, caption=held_out_note(results.values()))
    for column in ("domain", "documents", "tokens", "bytes", "loss", "perplexity", "bits/byte", "xz -9"):
        table.add_column(column, justify="left" if column == "domain" else "right")
    for name, result in results.items():
        counts = [f"{result[key]:,}" for key in ("documents", "tokens", "bytes")]
        quotients = [f"{result['loss']:.4f}", f"{result['perplexity']:.2f}", bits_per_byte(result)]
        table.add_row(name, *counts, *quotients, f"{compressors[name]['xz -9']:.4f}")
    console = Console()
    console.print(table)
    if seq_len is None and evaluator.stage.data.seq_len != model.stage.data.seq_len:
        console.print(
            f"Windows have {evaluator.stage.data.seq_len:,} tokens; the model's positions go to "
            f"{model.stage.data.seq_len:,}, and --seq-len takes any number up to that."
        )
    if page is not None:
        console.print(f"losses of tokens: {page}")
    if infilled is not None:
        console.print(_infilling_table(infilled))
        console.print(_openers_table(infilled))
        if left_out := [name for name in (AS_TRAINED, *TASKS) if name not in infilled["infilling"]]:
            why = "the model cannot fill such gaps, or no held-out document is long enough"
            console.print(f"left out: {', '.join(left_out)} ({why})")


def _read_texts(paths: list[Path], model: TrainedModel) -> HeldOutText:
    """Read text files as held-out documents, one domain each. Raises UserError for one that cannot be read."""
    from pathways_lite.cli.generate import decode_text
    from pathways_lite.data.held_out_text import HeldOutText

    texts: dict[str, str] = {}
    for path in paths:
        name = path.name if path.name not in texts else str(path)
        try:
            texts[name] = decode_text(path.read_bytes(), str(path))
        except OSError as error:
            raise UserError(f"--text {path} cannot be read: {error.strerror}") from error
        if not texts[name]:
            raise UserError(f"--text {path} is empty; name a file with text")
    return HeldOutText.of_texts(texts, model.tokenizer(), model.frame())


def _infilling_table(results: Mapping[str, Any]) -> Table:
    """Show each task: losses of the gaps' tokens, and their difference from those read from left to right."""
    from pathways_lite.console import Table
    from pathways_lite.evaluation.as_trained import AS_TRAINED
    from pathways_lite.evaluation.infilling import LEFT_TO_RIGHT
    from pathways_lite.evaluation.openers import BEST

    caption = f"{LEFT_TO_RIGHT} It opens with {results['openers'][BEST]['opener']}. ±: standard error over documents."
    if trained := results["infilling"].get(AS_TRAINED):
        parts = [f"{part} {trained[f'{part}_loss']:.4f}" for part in ("content", "format") if f"{part}_loss" in trained]
        caption += f" {AS_TRAINED}: nats per predicted token, last span included: {', '.join(parts)}."
    table = Table(title="infilling and continuation of held-out documents", caption=caption)
    for column in ("task", "documents", "tokens", "exact", "loss per token", "left to right", "difference"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for name, result in results["infilling"].items():
        exact = f"{result['exact']:.2%}" if "exact" in result else "-"
        counts = [f"{result[key]:,}" for key in ("documents", "tokens")]
        losses = [f"{result[key]:.4f}" for key in ("loss", "loss_left_to_right")]
        table.add_row(name, *counts, exact, *losses, _format_difference(result))
    return table


def _openers_table(results: Mapping[str, Any]) -> Table:
    """Show the causal loss by what opens a document, of its first tokens and of the rest."""
    from pathways_lite.console import Table
    from pathways_lite.evaluation.openers import BEST, FIRST_TOKENS

    table = Table(title="causal loss by opener, nats per token")
    first = f"first_{FIRST_TOKENS}_loss"
    headers = ("opens with", "documents", "loss", f"first {FIRST_TOKENS} of a document", "rest", "difference")
    for column in headers:
        table.add_column(column, justify="left" if column == "opens with" else "right")
    for name, result in results["openers"].items():
        if name != BEST:
            losses = [f"{result[key]:.4f}" if key in result else "-" for key in ("loss", first, "rest_loss")]
            difference = _format_difference(result) if "difference" in result else ""
            table.add_row(name, f"{result['documents']:,}", *losses, difference)
    return table


def _format_difference(result: Mapping[str, Any]) -> str:
    error = f" ± {result['standard_error']:.4f}" if "standard_error" in result else ""
    return f"{plain(result['difference'], '+.4f')}{error}"
