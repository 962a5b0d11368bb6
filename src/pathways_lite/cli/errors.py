"""How a user's mistake is shown."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from pathways_lite.errors import UserError


def show(error: UserError) -> None:
    """One message on standard error, without markup or wrapping."""
    Console(stderr=True).print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
