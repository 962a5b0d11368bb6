"""All laws by name.

A law is a `Law` constant of one of the `MODULES`. To add one, write it into the module of its family, or into a new
module that is then listed here.
"""

from __future__ import annotations

from collections.abc import Callable

from pathways_lite.errors import UserError
from pathways_lite.scaling.law import Law
from pathways_lite.scaling.laws import (
    annealing,
    broken,
    chinchilla,
    downstream,
    hyperparameters,
    inference,
    kaplan,
    mixing,
    overtraining,
    power,
    repetition,
    sparse,
    vocabulary,
)

# In the order in which `fit laws` lists their laws.
MODULES = (
    chinchilla, overtraining, repetition, annealing, vocabulary, kaplan, hyperparameters, sparse, downstream, inference,
    mixing, broken, power,
)  # fmt: skip

LAWS: dict[str, Law] = {law.name: law for module in MODULES for law in vars(module).values() if isinstance(law, Law)}

# Laws whose inputs are columns with arbitrary names, as in `mixing:web,code`.
FAMILIES: dict[str, Callable[[tuple[str, ...]], Law]] = {"mixing": mixing.mixing_law}


def find_law(name: str) -> Law:
    """Return the law of that name. Raises UserError, with all names, for an unknown one."""
    family, _, columns = name.partition(":")
    if family in FAMILIES:
        return FAMILIES[family](tuple(filter(None, map(str.strip, columns.split(",")))))
    if name not in LAWS:
        families = ", ".join(f"{family}:COLUMN,COLUMN" for family in FAMILIES)
        raise UserError(f"there is no law {name!r}; there are {', '.join(LAWS)}, {families}")
    return LAWS[name]
