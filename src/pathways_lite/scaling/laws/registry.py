"""All laws by name.

A law is a `Law` constant of one of the `MODULES`. To add one, write it into the module of its family, or into a new
module that is then listed here; or offer it from another package (`plugins`).
"""

from __future__ import annotations

from collections.abc import Callable

from pathways_lite.errors import UserError, did_you_mean
from pathways_lite.plugins import WithPlugins, require_instance
from pathways_lite.scaling.law import Law
from pathways_lite.scaling.laws import (
    annealing,
    beta_coverage,
    broken,
    chinchilla,
    distillation,
    downstream,
    efficiency,
    experts,
    farseer,
    hyperparameters,
    inference,
    kaplan,
    mixing,
    overtraining,
    power,
    precision,
    repetition,
    sparse,
    tasks,
    vocabulary,
)

# In the order in which `fit laws` lists their laws.
MODULES = (
    chinchilla, farseer, overtraining, repetition, annealing, vocabulary, kaplan, hyperparameters, sparse, experts,
    precision, distillation, downstream, tasks, inference, beta_coverage, mixing, broken, power, efficiency,
)  # fmt: skip

LAWS = WithPlugins(
    {law.name: law for module in MODULES for law in vars(module).values() if isinstance(law, Law)},
    "laws",
    lambda plugin, law: require_instance(plugin, law, Law, getattr(law, "name", "")),
)

# Laws that are built from what follows the colon in their name, as in `mixing:web,code`, each with an example.
FAMILIES: dict[str, tuple[Callable[[tuple[str, ...]], Law], str]] = {
    "mixing": (mixing.mixing_law, "A,B"),
    "linear-mixing": (mixing.linear_mixing_law, "A,B"),
    "additive-mixing": (mixing.additive_mixing_law, "A,B"),
    "joint-mixing": (mixing.joint_mixing_law, "A,B"),
    "features": (chinchilla.features_law, "width,depth"),
    "broken": (broken.several_breaks, "2"),
    "efficiency": (efficiency.efficiency_law, "chinchilla,D,shared,ARM"),
}


def find_law(name: str) -> Law:
    """Return the law of that name. Raises UserError, with a similar name, for an unknown one."""
    name = _OTHER_SPELLINGS.get(name, name)
    family, colon, columns = name.partition(":")
    if family in FAMILIES and (colon or name not in LAWS):
        return FAMILIES[family][0](tuple(filter(None, map(str.strip, columns.split(",")))))
    if name not in LAWS:
        hint = did_you_mean(family, [*LAWS, *FAMILIES], listed=False)
        raise UserError(f"there is no law {name!r}.{hint} `pathways-lite fit laws` lists all")
    return LAWS[name]


def find_fitted_law(name: str, parameters: tuple[str, ...]) -> Law:
    """Return the law of a fit's file, whose name may have meant another law when the file was written."""
    return find_law(_EARLIER_NAMES.get((name, parameters), name))


_OTHER_SPELLINGS = {"quantisation": "quantization"}

# By name and parameters of files of earlier versions.
_EARLIER_NAMES: dict[tuple[str, tuple[str, ...]], str] = {("data-constrained", ("RD", "RN")): "data-constrained-c4"}


def family_examples() -> list[Law]:
    """Return an example of every family."""
    return [build(tuple(example.split(","))) for build, example in FAMILIES.values()]
