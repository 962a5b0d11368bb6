"""HTML elements of a report: one self-contained page that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

from pathways_lite.console import escape_controls

# Light or dark by the reader's setting; a single column that is readable on a phone without zooming.
_CSS = """
:root { color-scheme: light dark; --ink: #1d2433; --faint: #5b6472; --line: #dfe3e8; --paper: #ffffff;
  --shade: #f4f6f8; --link: #0060a8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaee; --faint: #a0a9b6; --line: #323945; --paper: #14181f;
  --shade: #1d232c; --link: #6cb8ff; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.55;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
main { max-width: 47rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 0.35rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 2.6rem 0 0.7rem; }
p { margin: 0.6rem 0; max-width: 42rem; }
.lead { color: var(--faint); margin-top: 0; }
.verdict { border-left: 3px solid var(--link); padding: 0.1rem 0 0.1rem 0.9rem; margin: 0; }
.verdict + .verdict { padding-top: 0.4rem; }
a { color: var(--link); text-underline-offset: 0.15em; }
.wide { overflow-x: auto; margin: 0.8rem 0; }
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; min-width: 60%; }
caption { text-align: left; color: var(--faint); font-size: 0.86rem; padding-bottom: 0.4rem;
  max-width: calc(100vw - 2.5rem); }
th, td { text-align: left; vertical-align: baseline; padding: 0.32rem 1.1rem 0.32rem 0; white-space: nowrap; }
td.text { white-space: normal; overflow-wrap: anywhere; }
thead th { font-weight: 600; border-bottom: 1px solid var(--ink); }
tbody th { font-weight: 400; }
tbody tr + tr > * { border-top: 1px solid var(--line); }
tbody tr.total > * { font-weight: 600; border-top: 1px solid var(--ink); }
th.number, td.number { text-align: right; padding: 0.32rem 0 0.32rem 1.1rem; }
td.number { white-space: pre; }
figure { margin: 1rem 0; }
figure .wide { margin: 0; }
figure img { display: block; width: 100%; min-width: 32rem; height: auto; }
figcaption { color: var(--faint); font-size: 0.86rem; margin-top: 0.5rem; max-width: 42rem; }
pre, code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: 0.86rem; }
pre { background: var(--shade); border-radius: 6px; padding: 0.8rem 1rem; margin: 0.4rem 0 1.2rem; line-height: 1.5;
  white-space: pre-wrap; overflow-wrap: anywhere; tab-size: 4; }
pre .prompt { color: var(--link); font-weight: 600; border-right: 2px solid; padding-right: 1px; margin-right: 1px; }
.note { color: var(--faint); font-size: 0.86rem; margin-bottom: 0; }
details summary { cursor: pointer; }
@media print { main { max-width: none; padding: 0; } pre, figure, tr { break-inside: avoid; } }
"""


def escape(text: str) -> str:
    """Return the HTML that shows a text as it is, its control characters as escapes."""
    return html.escape(escape_controls(text))


def page(title: str, body: str) -> str:
    """Render the whole document; `title` is plain text, `body` is HTML."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def section(title: str, *contents: str) -> str:
    """Render a heading and its contents, given as HTML; return nothing if all contents are empty."""
    content = "\n".join(filter(None, contents))
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>\n" if content else ""


def paragraph(text: str, kind: str = "") -> str:
    """Render plain text as a paragraph with the CSS class `kind`."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    caption: str = "",
    total: bool = False,
    text: bool = False,
) -> str:
    """Render a table of plain text: the first column names the row, the others hold numbers, or prose if `text`.

    `total`: highlight the last row.
    """
    kind = "text" if text else "number"
    header_cells = "".join(
        f"<th{'' if i == 0 else f' class={kind}'}>{escape(cell)}</th>" for i, cell in enumerate(header)
    )
    lines = []
    for index, row in enumerate(rows, 1):
        cells = "".join(f"<td class={kind}>{escape(cell)}</td>" for cell in row[1:])
        mark = " class=total" if total and index == len(rows) else ""
        lines.append(f"<tr{mark}><th scope=row>{escape(row[0])}</th>{cells}</tr>")
    caption_html = f"<caption>{escape(caption)}</caption>" if caption else ""
    head_html = f"<thead><tr>{header_cells}</tr></thead>" if any(header) else ""
    return (
        f'<div class="wide"><table>{caption_html}{head_html}<tbody>\n' + "\n".join(lines) + "\n</tbody></table></div>"
    )


def picture(light_svg: str, dark_svg: str, *, alt: str, caption: str) -> str:
    """Render a figure that follows the reader's light or dark setting."""
    light, dark = (
        "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode() for svg in (light_svg, dark_svg)
    )
    return (
        f'<figure><div class="wide"><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{escape(alt)}"></picture></div><figcaption>{escape(caption)}</figcaption></figure>'
    )
