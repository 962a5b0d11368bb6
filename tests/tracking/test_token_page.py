"""The page of losses per token: self-contained, readable, and its numbers are the losses."""

import html
import math
import re

import pytest

from pathways_lite.tracking.token_page import (
    EDGES,
    ScoredText,
    TokenLoss,
    describe_loss,
    render_token_page,
)

SPAN = re.compile(r'<span class="l(\d)" title="([^"]*)">(.*?)</span>', re.DOTALL)


def test_every_token_is_there_in_order_with_its_loss_in_nats_and_bits():
    tokens = [TokenLoss("<b>", 0.05), TokenLoss("", 0.7), TokenLoss("é", 2.5), TokenLoss("\n", 99.0)]
    tokens += [TokenLoss("⟨eod⟩", math.inf)]
    page = render_token_page("run", "lead & more", [ScoredText("code", "a<b.py", tokens)])
    spans = SPAN.findall(page)
    assert [html.unescape(text) for _, _, text in spans] == ["<b>", "·", "é", "⏎\n", "⟨eod⟩"]
    assert [int(level) for level, _, _ in spans] == [0, 2, 4, 9, 9]
    assert spans[2][1] == "2.50 nats = 3.61 bits, probability 8.2%"
    assert "code: a&lt;b.py" in page
    assert "lead &amp; more" in page


@pytest.mark.parametrize("nats", [0.0, 0.1, 1.0, 6.8, 6.95, 20.0, 2000.0])
def test_a_loss_is_described_by_equal_numbers(nats: float):
    text = describe_loss(nats)
    number, bits = re.findall(r"[\d.]+", text)[:2]
    assert float(number) == pytest.approx(nats, abs=0.005)
    assert float(bits) == pytest.approx(nats / math.log(2), abs=0.005)


def test_the_legend_has_every_color_in_nats_and_bits():
    page = render_token_page("run", "lead", [])
    for level in range(len(EDGES) + 1):
        assert page.count(f'<td class="l{level}">') == 1
    for edge in EDGES:
        assert f"{edge:g}" in page
        assert f"{edge / math.log(2):.2g}" in page


def contrast(a: str, b: str) -> float:
    """WCAG 2.1's contrast ratio."""

    def luminance(color: str) -> float:
        full = color if len(color) == 7 else "#" + "".join(2 * digit for digit in color[1:])
        channels = [int(full[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_is_readable_on_every_color_in_light_and_dark():
    page = render_token_page("run", "lead", [])
    rules = re.findall(r"\.l\d \{ background: (#\w+); color: (#\w+); \}", page)
    assert len(rules) == 2 * (len(EDGES) + 1)
    for background, ink in rules:
        assert contrast(background, ink) >= 4.5, (background, ink)
    for theme in (rules[:10], rules[10:]):
        assert len({background for background, _ in theme}) == 10


def test_the_page_loads_nothing():
    page = render_token_page("run", "lead", [ScoredText("d", "i", [TokenLoss("x", 1.0)])])
    assert not re.search(r"(src|href)=|url\(|@import", page)
