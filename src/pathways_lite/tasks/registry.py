"""All families of problems, by name."""

from __future__ import annotations

from pathways_lite.errors import UserError, did_you_mean
from pathways_lite.plugins import WithPlugins, require_instance
from pathways_lite.tasks.chain import CHAIN
from pathways_lite.tasks.code import CODE
from pathways_lite.tasks.facts import FACTS
from pathways_lite.tasks.family import Family
from pathways_lite.tasks.grammar import GRAMMAR
from pathways_lite.tasks.gsm8k import GSM8K
from pathways_lite.tasks.own_text import CLOZE, CONTINUATION
from pathways_lite.tasks.scramble import SCRAMBLE
from pathways_lite.tasks.sums import ARITHMETIC, SUM

FAMILIES = WithPlugins(
    {
        family.name: family
        for family in (SUM, CHAIN, CODE, GRAMMAR, FACTS, ARITHMETIC, SCRAMBLE, GSM8K, CLOZE, CONTINUATION)
    },
    "tasks",
    lambda plugin, family: require_instance(plugin, family, Family, getattr(family, "name", "")),
)


def find_family(name: str) -> Family:
    """Return a family. Raises UserError for an unknown name, with a similar one."""
    if name not in FAMILIES:
        raise UserError(f"there is no family {name!r}.{did_you_mean(name, FAMILIES)}")
    return FAMILIES[name]
