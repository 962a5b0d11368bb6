"""A page of texts whose tokens are colored by the model's own losses: one HTML file that loads nothing else."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathways_lite.atomic_file import write_text_atomically
from pathways_lite.tracking.page import escape, page, paragraph

PAGE_NAME = "tokens.html"
"""The page's name in a stage's directory."""

EDGES = (0.1, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0)
"""Losses, in nats, between which tokens have the same color."""

# One hue from the page's color to its strongest; the ink on the strong ones is that of the other theme.
_LIGHT = ("#fff", "#fdf3ea", "#fbe5d2", "#f8d3b3", "#f3bb8b", "#eb9f61", "#dc7f38", "#b3560f", "#8f430b", "#5f2a05")
_DARK = ("#14181f", "#211b17", "#30211a", "#44291a", "#5c341a", "#7a431a", "#9d561b", "#c56d22", "#ec8d3c", "#ffb674")
_STRONG = 7  # from this class on the ink is reversed


@dataclass(frozen=True)
class TokenLoss:
    """A token's text and what it cost the model to predict it."""

    text: str  # empty where another token of the same character has it
    nats: float


@dataclass(frozen=True)
class ScoredText:
    """A document, or its beginning, with its tokens' losses."""

    domain: str
    id: str
    tokens: list[TokenLoss]

    @property
    def nats(self) -> float:
        return math.fsum(token.nats for token in self.tokens)


def write_token_page(path: Path, title: str, lead: str, texts: Sequence[ScoredText]) -> Path:
    """Write the page of `texts` to `path`, and return the path. `lead` is a sentence about what it shows."""
    write_text_atomically(path, render_token_page(title, lead, texts), shared=True)
    return path


def render_token_page(title: str, lead: str, texts: Sequence[ScoredText]) -> str:
    """Render the page as HTML. All text is escaped."""
    body = [
        f"<style>{_css()}</style>",
        f"<header>\n<h1>{escape(title)}</h1>\n{paragraph(lead, 'lead')}\n</header>",
        _legend(),
        paragraph(
            "A token's color is its loss: what it takes to encode it, given the text before it. The more surprising, "
            "the stronger. Point at a token for its number. ⟨eod⟩ or ⟨eos⟩ is the end of a document, which is "
            "predicted too. Of tokens that make up one character the last has it, and the others are dots.",
            "note",
        ),
        *(_document(text) for text in texts),
    ]
    return page(title, "\n".join(body))


def _document(text: ScoredText) -> str:
    count = max(1, len(text.tokens))
    mean = text.nats / count
    facts = f"{len(text.tokens):,} tokens, {mean:.3f} nats = {mean / math.log(2):.3f} bits per token"
    tokens = "".join(_tokens(text.tokens))
    return (
        f"<section>\n<h2>{escape(text.domain)}: {escape(text.id)}</h2>\n{paragraph(facts, 'note')}\n"
        f'<pre class="tokens">\n{tokens}</pre>\n</section>'
    )


def _tokens(tokens: Sequence[TokenLoss]) -> Iterator[str]:
    for token in tokens:
        level = bisect.bisect_right(EDGES, token.nats) if math.isfinite(token.nats) else len(EDGES)
        shown = escape(token.text).replace("\n", "⏎\n") or "·"
        yield f'<span class="l{level}" title="{describe_loss(token.nats)}">{shown}</span>'


def describe_loss(nats: float) -> str:
    """Return a loss in nats and in bits, and the probability that the model gave the token."""
    if not math.isfinite(nats):
        return f"{nats} nats"
    probability = f"{math.exp(-nats):.1%}" if nats < 6.9 else f"1 in {math.exp(min(nats, 700)):,.0f}"
    return f"{nats:.2f} nats = {nats / math.log(2):.2f} bits, probability {probability}"


def _legend() -> str:
    """Render the classes with their ranges in nats and in bits."""
    bounds = [f"{edge:g}" for edge in EDGES]
    bits = [f"{edge / math.log(2):.2g}" for edge in EDGES]
    cells = [_ranges(bounds), _ranges(bits)]
    swatches = "".join(f'<td class="l{level}">text</td>' for level in range(len(EDGES) + 1))
    rows = "".join(
        f"<tr><th scope=row>{unit}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
        for unit, row in zip(("nats", "bits"), cells, strict=True)
    )
    caption = "<caption>Loss per token</caption>"
    return (
        f'<div class="wide"><table class="legend">{caption}<tbody>'
        f"<tr><th scope=row>color</th>{swatches}</tr>{rows}</tbody></table></div>"
    )


def _ranges(bounds: Sequence[str]) -> list[str]:
    between = [f"{low}–{high}" for low, high in itertools.pairwise(bounds)]
    return [f"< {bounds[0]}", *between, f"> {bounds[-1]}"]


def _css() -> str:
    """Return the classes l0 .. l9, for light and dark."""
    rules = [
        ".tokens { background: var(--paper); border: 1px solid var(--line); line-height: 1.9; }",
        ".tokens span { border-radius: 3px; padding: 0.12em 0; }",
        ".tokens span:hover { outline: 2px solid var(--link); }",
        ".legend { font-size: 0.78rem; min-width: 0; } .legend th, .legend td { padding: 0.25rem 0.5rem 0.25rem 0; }",
        ".legend td { text-align: center; padding: 0.25rem 0.45rem; }",
        *_theme(_LIGHT, _STRONG, "#1d2433", "#ffffff"),
        "@media (prefers-color-scheme: dark) {",
        *_theme(_DARK, _STRONG, "#e8eaee", "#14181f"),
        "}",
    ]
    return "\n".join(rules)


def _theme(colors: Sequence[str], strong: int, ink: str, reversed_ink: str) -> Iterator[str]:
    for level, color in enumerate(colors):
        yield f".l{level} {{ background: {color}; color: {reversed_ink if level >= strong else ink}; }}"
