"""Shared parts of `generate` and `sample`: options of the rule by which tokens are drawn, the writer, stop strings."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pathways_lite.data.tokenizers import Tokenizer
    from pathways_lite.evaluation.generation import Stops, Writer
    from pathways_lite.recipe import Mode
    from pathways_lite.training.load import TrainedModel

Temperature = Annotated[float, typer.Option(min=0.0, help="0 always picks the most likely token")]
TopK = Annotated[int | None, typer.Option(min=1, help="sample from the k most likely tokens only")]
TopP = Annotated[float | None, typer.Option(help="sample from the most likely tokens that have this total probability")]
MinP = Annotated[
    float | None, typer.Option(help="sample from tokens with at least this share of the likeliest one's probability")
]


def writer_of(
    model: TrainedModel, tokenizer: Tokenizer, seed: int, *, corpus: str | None = None, mode: Mode | None = None,
    **options: Any,
) -> Writer:  # fmt: skip
    """Return a writer of texts that asks the model as it was trained. `options`: those of `Sampler`."""
    import jax

    from pathways_lite.evaluation.generation import Writer
    from pathways_lite.objectives.prompts import PromptFormat

    prompt_format = PromptFormat.from_objective(model.stage.objective, model.frame(corpus))
    opener, ends = model.prompt_tokens(tokenizer)
    return Writer(
        model.stage.model, model.params(), tokenizer, prompt_format, mode, None, opener, ends,
        key=jax.random.key(seed), **options,
    )  # fmt: skip


def stops_of(tokenizer: Tokenizer) -> Callable[[Sequence[str]], Stops]:
    """Return a function from strings to what ends a text before any of them, besides its end.

    It raises UserError for an empty string. The tokenizer's bytes are looked up once, and not without a string.
    """
    from pathways_lite.data.token_bytes import token_bytes
    from pathways_lite.evaluation.generation import Stops
    from pathways_lite.sampling import stop_strings

    known = functools.cache(lambda: token_bytes(tokenizer))

    @functools.cache
    def stops(strings: tuple[str, ...]) -> Stops:
        return Stops(strings, stop_strings(strings, known())) if strings else Stops()

    return lambda strings: stops(tuple(strings))
