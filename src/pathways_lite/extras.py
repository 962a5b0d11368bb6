"""Extras: packages that not everybody needs (pyproject.toml), and how a sentence says to install one."""

from __future__ import annotations

from pathlib import Path

_MAKEFILE = Path(__file__).parents[2] / "Makefile"


def install_command(extra: str) -> str:
    """Return what to type to install an extra: `make install EXTRA=gguf` in the repository, elsewhere by pip."""
    return f"make install EXTRA={extra}" if _MAKEFILE.is_file() else f'pip install "pathways-lite[{extra}]"'
