"""All laws by name."""

from __future__ import annotations

from collections.abc import Callable

from pathways_lite.errors import UserError
from pathways_lite.scaling.law import Law
from pathways_lite.scaling.laws.annealing import MULTI_POWER, TISSUE
from pathways_lite.scaling.laws.broken import BROKEN
from pathways_lite.scaling.laws.chinchilla import CHINCHILLA
from pathways_lite.scaling.laws.downstream import BLEU, CONCEPTS, PASS_UNTIL, RECTIFIED, TRANSLATION
from pathways_lite.scaling.laws.hyperparameters import STEP_BATCH, STEP_LEARNING_RATE
from pathways_lite.scaling.laws.inference import COVERAGE, RETRIEVAL
from pathways_lite.scaling.laws.kaplan import CRITICAL_BATCH, KAPLAN_C, KAPLAN_D, KAPLAN_N, KAPLAN_ND, KAPLAN_NS
from pathways_lite.scaling.laws.mixing import REPEATED_POOL, mixing_law
from pathways_lite.scaling.laws.overtraining import DOWNSTREAM_ERROR, OVERTRAINING
from pathways_lite.scaling.laws.power import POWER, POWER_FLOOR
from pathways_lite.scaling.laws.repetition import DATA_CONSTRAINED
from pathways_lite.scaling.laws.sparse import AVERAGE_PARAMETERS, PARALLEL, QUANTIZATION, ROUTED
from pathways_lite.scaling.laws.vocabulary import VOCABULARY

LAWS: dict[str, Law] = {
    law.name: law
    for law in (
        CHINCHILLA, OVERTRAINING, DOWNSTREAM_ERROR, DATA_CONSTRAINED, TISSUE, MULTI_POWER, VOCABULARY,
        KAPLAN_N, KAPLAN_D, KAPLAN_C, KAPLAN_ND, KAPLAN_NS, CRITICAL_BATCH, STEP_LEARNING_RATE, STEP_BATCH,
        AVERAGE_PARAMETERS, PARALLEL, ROUTED, QUANTIZATION, BLEU, PASS_UNTIL, RECTIFIED, CONCEPTS, TRANSLATION,
        COVERAGE, RETRIEVAL, REPEATED_POOL, BROKEN, POWER, POWER_FLOOR,
    )
}  # fmt: skip


# Laws whose inputs are columns of any names: `mixing:web,code`.
FAMILIES: dict[str, Callable[[tuple[str, ...]], Law]] = {"mixing": mixing_law}


def find(name: str) -> Law:
    """The law of that name. Raises UserError, with the names there are, for any other."""
    family, _, columns = name.partition(":")
    if family in FAMILIES:
        return FAMILIES[family](tuple(filter(None, map(str.strip, columns.split(",")))))
    if name not in LAWS:
        families = ", ".join(f"{family}:COLUMN,COLUMN" for family in FAMILIES)
        raise UserError(f"there is no law {name!r}; there are {', '.join(LAWS)}, {families}")
    return LAWS[name]
