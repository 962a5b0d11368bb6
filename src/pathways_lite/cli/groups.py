"""Groups of verbs of which one need not be named."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


def group_with_default(verb: str, *, bare: bool) -> type[TyperGroup]:
    """A group in which arguments that begin with no verb are `verb`'s; `bare` if also no arguments at all are."""

    class Group(TyperGroup):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            named = args and args[0] in (*self.commands, *ctx.help_option_names)
            if not named and (args or bare):
                args = [verb, *args]
            return super().parse_args(ctx, args)

    return Group
