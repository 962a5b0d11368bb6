"""`pathways-lite generate`: sample text from a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pathways_lite.cli.common import AsJson, OfAverage, print_json
from pathways_lite.console import escape_controls
from pathways_lite.errors import UserError
from pathways_lite.paths import local_path


def generate(
    path: Annotated[Path, typer.Argument(parser=local_path, help="a run, stage or checkpoint directory")],
    prompt: Annotated[str, typer.Option(help="start of a document to continue; '-' reads standard input")] = "",
    mode: Annotated[
        Literal["nlg", "nlu", "s2s"] | None,
        typer.Option(help="use the prompt format of this UL2R denoiser, with bidirectional attention in the prompt"),
    ] = None,
    infill: Annotated[str | None, typer.Option(help="a text in which to fill every `<mask>`")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="maximum number of tokens")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 always picks the most likely token")] = 0.8,
    top_k: Annotated[int | None, typer.Option(min=1, help="sample from the k most likely tokens only")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="sample from the most likely tokens that have this total probability")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="number of samples")] = 1,
    seed: Annotated[int, typer.Option(help="random seed; the same seed gives the same text")] = 0,
    corpus: Annotated[
        str | None, typer.Option(help="token store whose tokenizer to use; default: the checkpoint's own")
    ] = None,
    average: OfAverage = False,
    as_json: AsJson = False,
) -> None:
    """Continue a prompt with the newest valid checkpoint at or below PATH; prints to standard output.

    Control characters are shown as escapes; `--json` gives the text as it is.

    Examples:

    - `pathways-lite generate runs/demo --prompt "def main("`

    - `pathways-lite generate runs/demo --prompt "The string " --temperature 0 --max-tokens 40`

    - `pathways-lite generate runs/ul2r_demo --mode s2s --prompt "The string "`

    - `pathways-lite generate runs/ul2r_demo --infill $'import <mask>\\n\\ndef main('`
    """
    import os
    import sys

    import jax

    from pathways_lite.evaluation.generation import Sampling, infill_text
    from pathways_lite.evaluation.generation import generate as continue_text
    from pathways_lite.objectives.prompts import PromptFormat
    from pathways_lite.training.load import load_model

    if infill is not None and prompt:
        raise UserError("--infill takes a whole text; leave out --prompt")
    prompt = decode_text(os.fsencode(prompt), "--prompt")
    infill = None if infill is None else decode_text(os.fsencode(infill), "--infill")
    model = load_model(path, average=average)
    tokenizer = model.tokenizer(corpus)
    prompt_format = PromptFormat.from_objective(model.stage.objective, model.frame(corpus))
    opener, ends = model.prompt_tokens(tokenizer)
    config, params = model.stage.model, model.params()
    text = decode_text(sys.stdin.buffer.read(), "standard input") if prompt == "-" else prompt
    outputs = []
    for index in range(samples):
        key = jax.random.fold_in(jax.random.key(seed), index)
        if infill is None:
            output = text + continue_text(
                config,
                params,
                tokenizer,
                text,
                max_tokens=max_tokens,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                key=key,
                prompt_format=prompt_format,
                mode=mode,
                opener=opener,
                ends=ends,
            )
        else:
            sampling = Sampling(temperature, top_k, top_p)
            output = infill_text(
                config, params, tokenizer, prompt_format, infill, sampling, mode=mode, max_tokens=max_tokens, key=key
            )
        outputs.append(output)
        if not as_json:
            if samples > 1:
                typer.echo(f"--- sample {index + 1} of {samples} ---")
            typer.echo(escape_controls(output))
    if as_json:
        print_json({"checkpoint": model.path, "samples": outputs})


def decode_text(content: bytes, name: str) -> str:
    """Decode UTF-8. Raises UserError, with the place of the first byte that is not, if `content` is something else."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} is not UTF-8: byte {content[error.start]:#04x} after {error.start} bytes; convert it, "
            "e.g. with iconv -f latin1 -t utf-8"
        ) from error
