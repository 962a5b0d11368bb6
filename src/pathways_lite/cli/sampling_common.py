"""Shared parts of `generate` and `sample`: options of the rule by which tokens are drawn, chats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pathways_lite.errors import UserError

if TYPE_CHECKING:
    from pathways_lite.data.chat_template import Messages

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


def require_chat(chat: bool, system: str | None) -> None:
    """Raise UserError for a system's message without a chat."""
    if system is not None and not chat:
        raise UserError("--system is a message of a chat; add --chat, or write its text in the prompt")


def messages_of(prompt: str, system: str | None) -> Messages:
    """Return a prompt as the user's message, after the system's."""
    asked = [{"role": "user", "content": prompt}]
    return asked if system is None else [{"role": "system", "content": system}, *asked]
