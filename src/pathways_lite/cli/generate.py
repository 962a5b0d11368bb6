"""`pathways-lite generate`: sample text from a trained model."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pathways_lite.cli.common import AsJson, OfAverage, print_json
from pathways_lite.cli.sampling_common import (
    Chat,
    MinP,
    System,
    Temperature,
    TopK,
    TopP,
    messages_of,
    require_chat,
)
from pathways_lite.console import escape_controls, print_line
from pathways_lite.errors import UserError
from pathways_lite.paths import local_path
from pathways_lite.training.writers import asker_of, writer_of

if TYPE_CHECKING:
    import numpy as np

    from pathways_lite.data.chat_template import Messages
    from pathways_lite.data.tokenizers import Tokenizer
    from pathways_lite.evaluation.generation import Generated, Question, Stops, Writer
    from pathways_lite.sampling import Sampling


def generate(
    path: Annotated[Path, typer.Argument(parser=local_path, help="a run, stage or checkpoint directory")],
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="start of a document to continue, several times for several; '-' reads standard input"),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            parser=local_path, help="a file of prompts: a line each, or JSON lines with the key `prompt` or `messages`"
        ),
    ] = None,
    mode: Annotated[
        Literal["nlg", "nlu", "s2s"] | None,
        typer.Option(help="use the prompt format of this UL2R denoiser, with bidirectional attention in the prompt"),
    ] = None,
    chat: Chat = False,
    system: System = None,
    infill: Annotated[str | None, typer.Option(help="a text in which to fill every `<mask>`")] = None,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="maximum number of tokens; 256 are cut to the sequence length of the training")
    ] = 256,
    temperature: Temperature = 0.8,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    stop: Annotated[list[str] | None, typer.Option(help="end a text before this string; may be repeated")] = None,
    samples: Annotated[int, typer.Option(min=1, help="number of samples of each prompt")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="texts that are written at the same time, at most")] = 16,
    seed: Annotated[int, typer.Option(help="random seed; the same seed gives the same text, whatever the batch")] = 0,
    logprobs: Annotated[
        bool, typer.Option("--logprobs", help="show the log probability of every token, in nats")
    ] = False,
    stream: Annotated[bool, typer.Option("--stream", help="print the text while it is written; of one sample")] = False,
    corpus: Annotated[
        str | None, typer.Option(help="token store whose tokenizer to use; default: the checkpoint's own")
    ] = None,
    average: OfAverage = False,
    as_json: AsJson = False,
) -> None:
    """Continue prompts with the newest valid checkpoint at or below PATH; prints to standard output.

    A sample depends on the prompt, the seed and its number alone: `--samples 64` begins with those of `--samples 16`.
    Control characters are shown as escapes; `--json` gives the text as it is, why it ended (`end` of the document,
    `stop` string, `length`), and with `--logprobs` its tokens, with their log probabilities under the model and under
    what they were drawn from.

    Examples:

    - `pathways-lite generate runs/demo --prompt "def main("`

    - `pathways-lite generate runs/demo --prompt "The string " --temperature 0 --max-tokens 40`

    - `pathways-lite generate runs/demo --prompt "import " --samples 8 --min-p 0.05 --stop $'\\n' --json`

    - `pathways-lite generate runs/ul2r_demo --mode s2s --prompt "The string "`

    - `pathways-lite generate runs/ul2r_demo --infill $'import <mask>\\n\\ndef main('`

    - `pathways-lite generate runs/smollm2 --chat --prompt "Name three rivers." --system "Answer briefly."`
    """
    from pathways_lite.evaluation.context import DEFAULT_TOKENS, default_tokens, length_warning
    from pathways_lite.evaluation.generation import stops_of
    from pathways_lite.sampling import Sampling
    from pathways_lite.training.load import load_model, print_warning

    if infill is not None and (prompt or prompts):
        raise UserError("--infill takes a whole text; leave out --prompt")
    if infill is not None and stop:
        raise UserError("--stop is for continuations; what --infill fills ends where the text goes on")
    require_chat(chat, system)
    if chat and (mode is not None or infill is not None or not (prompt or prompts)):
        raise UserError("--chat answers messages: it needs --prompt or --prompts, and takes no --mode and no --infill")
    texts = _read_prompts(prompt or [], prompts, chat=chat) if infill is None else []
    if any(not isinstance(text, str) for text in texts) and (system is not None or not chat):
        raise UserError(f"{prompts} has messages; ask an instruct model with --chat, and without --system")
    if chat:
        texts = [messages_of(text, system) if isinstance(text, str) else text for text in texts]
    if stream and (samples > 1 or len(texts) != 1 or as_json):
        raise UserError("--stream shows one text while it is written: one prompt, one sample, no --infill, no --json")
    infill = None if infill is None else decode_text(os.fsencode(infill), "--infill")
    sampling = Sampling(temperature, top_k, top_p, min_p)
    model = load_model(path, average=average)
    tokenizer = model.tokenizer(corpus)
    asker = asker_of(model, tokenizer, corpus=corpus, mode=mode, chat=chat)
    questions, stops = [asker.ask(text) for text in texts], stops_of(tokenizer)(stop or ())
    asked = [asker.infill(infill)[0]] if infill is not None else [question.prompt for question in questions]
    lengths, context = [len(each.tokens) for each in asked], model.stage.data.seq_len
    if max_tokens == DEFAULT_TOKENS:
        max_tokens = default_tokens(lengths, context)
    if warning := length_warning(lengths, max_tokens, context):
        print_warning(warning)
    writer = writer_of(model, tokenizer, asker, seed, rows=batch, chunk=8 if stream else 32)
    if infill is not None:
        results = writer.filled(infill, sampling, max_tokens=max_tokens, samples=samples)
        beginnings = [""]
    else:
        # An answer is shown without its chat.
        beginnings = [text if isinstance(text, str) else "" for text in texts]
        if stream:
            show = functools.partial(_stream, logprobs=logprobs, tokenizer=tokenizer)
            show(writer, questions[0], beginnings[0], sampling, max_tokens, stops)
            return
        results = writer.continuations(questions, sampling, max_tokens=max_tokens, samples=samples, stops=stops)
    done = []
    for result in _in_order(results, samples):
        done.append(result)
        if not as_json:
            if samples > 1 or len(beginnings) > 1:
                of_prompt = f"prompt {result.prompt + 1} of {len(beginnings)}, " if len(beginnings) > 1 else ""
                typer.echo(f"--- {of_prompt}sample {result.number + 1} of {samples} ---")
            typer.echo(escape_controls(beginnings[result.prompt] + result.text))
            if logprobs:
                _print_log_probs(result, tokenizer)
    if as_json:
        prompts_of = beginnings if infill is not None else texts
        rows = [_row(result, prompts_of[result.prompt], logprobs=logprobs) for result in done]
        whole = [beginnings[result.prompt] + result.text for result in done]
        print_json({"checkpoint": model.path, "samples": whole, "results": rows})


def _read_prompts(given: list[str], file: Path | None, *, chat: bool) -> list[str | Messages]:
    """Return the prompts of --prompt and of the file of --prompts; one empty one where there is neither.

    Raises UserError for a file that cannot be read, has none, or has a line of JSON without `prompt` or `messages`.
    """
    texts: list[str | Messages] = []
    for text in given:
        is_input = text == "-"
        content = sys.stdin.buffer.read() if is_input else os.fsencode(text)
        texts.append(decode_text(content, "standard input" if is_input else "--prompt"))
    if file is None:
        return texts or [""]
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"--prompts {file}: {error.strerror}") from error
    lines = [line for line in decode_text(content, str(file)).splitlines() if line.strip()]
    if not lines:
        raise UserError(f"--prompts {file} has no prompt; write one on a line")
    return texts + [_prompt_of(line, f"line {number} of {file}", chat=chat) for number, line in enumerate(lines, 1)]


def _prompt_of(line: str, where: str, *, chat: bool) -> str | Messages:
    if not line.startswith("{"):
        return line
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} begins as JSON, but is none: {error.msg}") from error
    messages = row.get("messages")
    if isinstance(row.get("prompt"), str) and not (chat and messages):
        return str(row["prompt"])
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        keys = ", ".join(row) or "no keys"
        raise UserError(f"{where} has no text under `prompt` and no list under `messages`; it has {keys}")
    from pathways_lite.data.chat_template import check_messages

    check_messages(messages, where)
    return messages


def _in_order(results: Iterable[Generated], samples: int) -> Iterator[Generated]:
    """Yield results by prompt and number, each as soon as those before it are there."""
    waiting: dict[int, Generated] = {}
    following = 0
    for result in results:
        waiting[result.prompt * samples + result.number] = result
        while following in waiting:
            yield waiting.pop(following)
            following += 1


def _stream(
    writer: Writer,
    question: Question,
    beginning: str,
    sampling: Sampling,
    max_tokens: int,
    stops: Stops,
    *,
    logprobs: bool,
    tokenizer: Tokenizer,
) -> None:
    """Print one continuation while it is written. What may be the beginning of a stop string is held back."""
    shown = 0
    held = max((len(text) for text in stops.strings), default=1) - 1

    def show(text: str, upto: int) -> None:
        nonlocal shown
        if upto > shown:
            typer.echo(escape_controls(text[shown:upto]), nl=False)
            sys.stdout.flush()
            shown = upto

    def watch(unfinished: list[Generated]) -> None:
        for result in unfinished:
            # A character may not be whole yet.
            show(result.text, len(result.text.rstrip("\ufffd")) - held)

    typer.echo(escape_controls(beginning), nl=False)
    for result in writer.continuations([question], sampling, max_tokens=max_tokens, stops=stops, watch=watch):
        show(result.text, len(result.text))
        typer.echo()
        if logprobs:
            _print_log_probs(result, tokenizer)


def _row(result: Generated, prompt: str | Messages, *, logprobs: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"prompt": prompt, "sample": result.number, "text": result.text, "finish": result.finish}
    if logprobs:
        sample = result.sample
        row["tokens"] = sample.tokens.tolist()
        row |= {"logp_model": _nats(sample.logp_model), "logp_drawn": _nats(sample.logp_drawn)}
    return row


def _nats(values: np.ndarray) -> list[float]:
    return [round(float(value), 6) for value in values]


def _print_log_probs(result: Generated, tokenizer: Tokenizer) -> None:
    from pathways_lite.data.token_texts import token_texts

    sample = result.sample
    print_line("nats under the model, nats as drawn, token")
    rows = zip(token_texts(tokenizer, sample.tokens.tolist()), sample.logp_model, sample.logp_drawn, strict=True)
    for text, model, drawn in rows:
        typer.echo(f"{model:9.4f} {drawn:9.4f}  {json.dumps(text, ensure_ascii=False)}")


def decode_text(content: bytes, name: str) -> str:
    """Decode UTF-8. Raises UserError, with the place of the first byte that is not, if `content` is something else."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} is not UTF-8: byte {content[error.start]:#04x} after {error.start} bytes; convert it, "
            "e.g. with iconv -f latin1 -t utf-8"
        ) from error
