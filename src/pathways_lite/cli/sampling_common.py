"""Shared parts of `generate` and `sample`: options of the rule by which tokens are drawn, chats, the writer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pathways_lite.errors import UserError

if TYPE_CHECKING:
    from datetime import datetime

    from pathways_lite.data.chat_template import Messages
    from pathways_lite.data.tokenizers import Tokenizer
    from pathways_lite.evaluation.generation import Asker, Writer
    from pathways_lite.recipe import Mode
    from pathways_lite.training.load import TrainedModel

Temperature = Annotated[float, typer.Option(min=0.0, help="0 always picks the most likely token")]
TopK = Annotated[int | None, typer.Option(min=1, help="sample from the k most likely tokens only")]
TopP = Annotated[float | None, typer.Option(help="sample from the most likely tokens that have this total probability")]
Chat = Annotated[
    bool, typer.Option("--chat", help="ask an instruct model by its chat template: prompts are the user's messages")
]
System = Annotated[str | None, typer.Option(help="with --chat: the system's message, before those of the user")]
MinP = Annotated[
    float | None, typer.Option(help="sample from tokens with at least this share of the likeliest one's probability")
]


def asker_of(
    model: TrainedModel, tokenizer: Tokenizer, *, corpus: str | None = None, mode: Mode | None = None,
    chat: bool = False, today: datetime | None = None,
) -> Asker:  # fmt: skip
    """Return what asks a model as it was trained; its parameters are not read for that.

    With `chat` it asks by messages, `today` or now; UserError where the model has no chat template.
    """
    from pathways_lite.data.chat_template import ChatTemplate
    from pathways_lite.evaluation.generation import Asker
    from pathways_lite.objectives.prompts import PromptFormat

    prompt_format = PromptFormat.from_objective(model.stage.objective, model.frame(corpus))
    opener, _ = model.prompt_tokens(tokenizer)
    template = ChatTemplate(tokenizer, str(model.path), today) if chat else None
    return Asker(tokenizer, prompt_format, mode, None, opener, template)


def writer_of(model: TrainedModel, tokenizer: Tokenizer, asker: Asker, seed: int, **options: Any) -> Writer:
    """Return a writer of the texts that `asker` asks for; reads the parameters. `options`: those of `Sampler`."""
    import jax

    from pathways_lite.evaluation.generation import Writer

    _, ends = model.prompt_tokens(tokenizer)
    return Writer(
        model.stage.model, model.params(), tokenizer, asker.prompt_format, asker.mode, asker.frame, asker.opener, ends,
        asker.chat, key=jax.random.key(seed), layout=model.components.layout, **options,
    )  # fmt: skip


def require_chat(chat: bool, system: str | None) -> None:
    """Raise UserError for a system's message without a chat."""
    if system is not None and not chat:
        raise UserError("--system is a message of a chat; add --chat, or write its text in the prompt")


def messages_of(prompt: str, system: str | None) -> Messages:
    """Return a prompt as the user's message, after the system's."""
    asked = [{"role": "user", "content": prompt}]
    return asked if system is None else [{"role": "system", "content": system}, *asked]
