"""Tables that are whole, and text from data that stays text."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from pathways_lite.console import Console, Table, escape_controls

HOSTILE = [
    "[/b]x",
    "[red]x[/red]",
    "<mask>",
    ":smile:",
    "\x1b[2Jx",
    "\x1b]0;title\x07",
    "\x1b]8;;http://x\x1b\\y",
    "a\rb",
]
NUMBERS = ["3.9876", "1,234,567", "12.3 GFLOPs", "0.0001", "45.1%"]


def printed(renderable: object, width: int | None = None) -> str:
    file = io.StringIO()
    terminal = {"force_terminal": True, "width": width, "color_system": None} if width else {}
    Console(file=file, **terminal).print(renderable)
    return file.getvalue()


def table_of(names: list[str]) -> Table:
    table = Table("run", "loss", "tokens", title="results")
    for index, name in enumerate(names):
        table.add_row(name, NUMBERS[index % len(NUMBERS)], NUMBERS[(index + 1) % len(NUMBERS)])
    return table


NAMES = st.lists(st.text("abc_/-. 漢字é0123456789[]:<>", min_size=1, max_size=120), min_size=1, max_size=4)


@given(NAMES)
def test_without_a_terminal_every_name_is_on_one_line(names: list[str]) -> None:
    lines = printed(table_of(names)).splitlines()
    for name in names:
        assert any(name.strip() in line for line in lines)


@given(NAMES, st.integers(8, 200))
def test_on_any_terminal_nothing_is_lost_and_no_number_is_broken(names: list[str], width: int) -> None:
    lines = printed(table_of(names), width).splitlines()
    assert all(cell_len(line) <= width for line in lines)
    assert "…" not in "".join(lines)
    squeeze = lambda text: re.sub(r"[\s│┃]", "", text)  # noqa: E731
    characters = squeeze("".join(lines))
    for index, name in enumerate(names):
        assert all(character in characters for character in squeeze(name))
        if width >= 30:
            assert any(NUMBERS[index % len(NUMBERS)] in line for line in lines)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("width", [None, 12, 80])
def test_text_of_data_is_neither_markup_nor_control(text: str, width: int | None) -> None:
    table = Table("name", "value", title=text, caption=text)
    table.add_row(text, Text(text))
    for renderable in (text, Text(text), table):
        shown = printed(renderable, width)
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", shown)
        if isinstance(renderable, str) or (width is None and isinstance(renderable, Table)):
            assert escape_controls(text)[:11] in shown


@given(st.text())
def test_escaped_text_can_be_encoded_and_escaping_it_again_changes_nothing(text: str) -> None:
    escaped = escape_controls(text)
    escaped.encode()
    assert escape_controls(escaped) == escaped
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", escaped)
    assert len(escape_controls(text, one_line=True).splitlines()) <= 1


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), max_size=50))
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert escape_controls(f"{text}\n\t{text}\r\n") == f"{text}\n\t{text}\r\n"
