"""Shared parts of `generate` and `sample`: options of the rule by which tokens are drawn, and the writer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pathways_lite.data.tokenizers import Tokenizer
    from pathways_lite.evaluation.generation import Writer
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
