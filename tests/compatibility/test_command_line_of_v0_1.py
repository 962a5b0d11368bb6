"""Commands, options and laws of v0.1 are still there; further ones may be."""

import subprocess
import sys

import pytest
from command_line import Help, help_text, parse_help, run, succeed
from frozen import V0_1, load

PAGES = sorted((V0_1 / "help").glob("*.txt"), key=lambda path: path.stem)

OTHER_DEFAULTS = {
    "fit.law": {"--bootstraps": "1000 up to 50,000 rows, then fewer"},
    "study.export": {"--template": "the package's own, where the directory has no tools/launch/jobset.yaml"},
}
"""Options whose default is another one on purpose: what it is now."""


def words_of(stem: str) -> tuple[str, ...]:
    """The command whose help is frozen in a file of that name."""
    return () if stem == "pathways-lite" else tuple(stem.split("."))


def positions(page: Help) -> list[str]:
    """How many arguments a command takes, and which of them may be several; their names are for people."""
    return ["several" if name.endswith("...") else "one" for name in page.arguments]


@pytest.mark.parametrize("stem", [path.stem for path in PAGES])
def test_nothing_is_gone_from_the_help(stem: str) -> None:
    frozen = parse_help((V0_1 / "help" / f"{stem}.txt").read_text())
    page = parse_help(help_text(words_of(stem)))
    assert frozen.commands - page.commands == set()
    assert frozen.options.keys() - page.options.keys() == set()
    same = frozen.options.keys() - OTHER_DEFAULTS.get(stem, {}).keys()
    assert {flag: page.options[flag] for flag in same} == {flag: frozen.options[flag] for flag in same}, "defaults"
    assert positions(page)[: len(frozen.arguments)] == positions(frozen)


def test_every_page_of_help_was_understood() -> None:
    pages = {path.stem: parse_help(path.read_text()) for path in PAGES}
    for stem, page in pages.items():
        assert {"--help", "-h"} <= page.options.keys(), stem
        for command in page.commands:
            assert ".".join((*words_of(stem), command)) in pages
    assert len(pages) >= 36
    assert pages["data.select.rds"].options.keys() >= {"--model", "--target", "--keep"}
    assert pages["fit.law"].options["--starts"] == "20"


def test_laws_are_known() -> None:
    """Laws are looked up before the table, which is missing."""
    options = [word for law in load("names.json")["laws"] for word in ("--law", law)]
    outcome = run("fit", "compare", "no-such-table.csv", *options)
    assert outcome.status == 2
    assert "no-such-table.csv" in outcome.stderr, outcome.stderr
    assert "chinchilla" in succeed("fit", "laws")


def test_module_is_the_command() -> None:
    command = [sys.executable, "-m", "pathways_lite", "train", "--help"]
    assert "--dry-run" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
