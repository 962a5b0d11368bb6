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
    efficiency,
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
    mixing, broken, power, efficiency,
)  # fmt: skip

LAWS: dict[str, Law] = {law.name: law for module in MODULES for law in vars(module).values() if isinstance(law, Law)}

# Laws that are built from what follows the colon in their name, as in `mixing:web,code`, each with an example.
FAMILIES: dict[str, tuple[Callable[[tuple[str, ...]], Law], str]] = {
    "mixing": (mixing.mixing_law, "A,B"),
    "linear-mixing": (mixing.linear_mixing_law, "A,B"),
    "additive-mixing": (mixing.additive_mixing_law, "A,B"),
    "joint-mixing": (mixing.joint_mixing_law, "A,B"),
    "features": (chinchilla.features_law, "width,depth"),
    "efficiency": (efficiency.efficiency_law, "chinchilla,D,shared,ARM"),
}


def find_law(name: str) -> Law:
    """Return the law of that name. Raises UserError, with all names, for an unknown one."""
    family, _, columns = name.partition(":")
    if family in FAMILIES:
        return FAMILIES[family][0](tuple(filter(None, map(str.strip, columns.split(",")))))
    if name not in LAWS:
        families = ", ".join(f"{family}:{example}" for family, (_, example) in FAMILIES.items())
        raise UserError(f"there is no law {name!r}; there are {', '.join(LAWS)}, {families}")
    return LAWS[name]


def family_examples() -> list[Law]:
    """Return an example of every family."""
    return [build(tuple(example.split(","))) for build, example in FAMILIES.values()]
