"""`pathways-lite generate`: let a trained model continue a text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def generate(
    path: Annotated[Path, typer.Argument(help="a run, stage or checkpoint directory")],
    prompt: Annotated[str, typer.Option(help="the beginning of a document; '-' reads standard input")] = "",
    mode: Annotated[
        Literal["nlg", "nlu", "s2s"] | None,
        typer.Option(help="ask as this denoiser of UL2R was trained; the prompt is read as a whole"),
    ] = None,
    infill: Annotated[str | None, typer.Option(help="a text in which every <mask> is to be filled")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="at most so many tokens")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 always takes the likeliest token")] = 0.8,
    top_k: Annotated[int | None, typer.Option(min=1, help="choose among the k likeliest tokens only")] = None,
    top_p: Annotated[float | None, typer.Option(help="... among the likeliest that make up this probability")] = None,
    samples: Annotated[int, typer.Option(min=1, help="how many continuations")] = 1,
    seed: Annotated[int, typer.Option(help="the same seed gives the same text")] = 0,
) -> None:
    """Continue PROMPT with the newest valid checkpoint at or below PATH; text goes to standard output.

    Examples:

    - `pathways-lite generate runs/demo --prompt "def main("`

    - `pathways-lite generate runs/demo --prompt "The string " --temperature 0 --max-tokens 40`

    - `pathways-lite generate runs/ul2r_demo --mode s2s --prompt "The string "`

    - `pathways-lite generate runs/ul2r_demo --infill "import <mask>\\n\\ndef main("`
    """
    import sys

    import jax

    from pathways_lite.data.store import open_store
    from pathways_lite.errors import UserError
    from pathways_lite.evaluation.generation import Sampling, infill_text
    from pathways_lite.evaluation.generation import generate as continue_text
    from pathways_lite.objectives.prompts import PromptFormat
    from pathways_lite.training.load import load_model

    if infill is not None and prompt:
        raise UserError("--infill is a whole text; leave out --prompt")
    model = load_model(path)
    store = open_store(model.stage.data.corpus)
    tokenizer, prompt_format = store.tokenizer(), PromptFormat.from_objective(model.stage.objective, store.eod)
    config, params = model.stage.model, model.params()
    text = sys.stdin.read() if prompt == "-" else prompt
    for index in range(samples):
        key = jax.random.fold_in(jax.random.key(seed), index)
        if infill is None:
            written = text + continue_text(
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
            )
        else:
            sampling = Sampling(temperature, top_k, top_p)
            written = infill_text(
                config, params, tokenizer, prompt_format, infill, sampling, mode=mode, max_tokens=max_tokens, key=key
            )
        if samples > 1:
            typer.echo(f"--- sample {index + 1} of {samples} ---")
        typer.echo(written)
