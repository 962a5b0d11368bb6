"""`pathways-lite study report --law`: what the methods of a study are worth, from its finished runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from pathways_lite.intervals import plain

if TYPE_CHECKING:
    from pathways_lite.scaling.efficiency import Efficiency
    from pathways_lite.scaling.table import Table
    from pathways_lite.studies.plan import StudyPlan

LawName = Annotated[
    str | None,
    typer.Option(help="fit a law with a factor per arm: auto, chinchilla (N and D), compute (C) or tokens (D)"),
]
Methods = Annotated[
    str | None, typer.Option(help="regular expression whose group is the method in an arm's name; default: all of it")
]
Factors = Annotated[
    list[str] | None, typer.Option("--factor", help="inputs of --law that get a factor: N, D or C; default: D, or C")
]
FEWEST_SCALES = 3


def fit_study_law(plan: StudyPlan, law: str, methods: str | None, scaled: Sequence[str]) -> Efficiency:
    """Fit a law with shared exponents to the finished runs of the study's arms.

    Methods that have runs at three budgets or more are compared by the last losses, which are independent. Otherwise
    the evaluations along the runs are used, and intervals are over seeds. Raises UserError if runs or methods are
    missing.
    """
    from pathways_lite.errors import UserError, did_you_mean
    from pathways_lite.scaling.efficiency import fit_efficiency
    from pathways_lite.scaling.laws.efficiency import BASES

    if law not in ("auto", *BASES):
        raise UserError(f"there is no --law {law!r}.{did_you_mean(law, ('auto', *BASES))}")
    table = _runs_of_arms(plan, methods, final=True)
    names = table["method"]
    baseline = method_of(plan.study.baseline, methods)
    scales = {name: len(np.unique(table["C"][names == name])) for name in dict.fromkeys(names.tolist())}
    along = min(scales.values()) < FEWEST_SCALES
    if along:
        table = _runs_of_arms(plan, methods, final=False)
        names = table["method"]
    chosen = law if law != "auto" else _choose_law(table, along=along)
    base = BASES[chosen]
    inputs = tuple(scaled) or (("D",) if "D" in base.inputs else base.inputs)
    seeds = np.nan_to_num(table["seed"]) if along else None
    return fit_efficiency(table, names, baseline=baseline, law=chosen, scaled=inputs, seeds=seeds)


def method_of(arm: str, methods: str | None) -> str:
    """Return the method in an arm's name. Raises UserError for a wrong expression."""
    from pathways_lite.errors import UserError

    if methods is None:
        return arm
    try:
        match = re.match(methods, arm)
    except re.error as error:
        raise UserError(
            f"--methods {methods!r} is not a regular expression ({error}); write e.g. '(.+)_[sml]$'"
        ) from None
    if match is None:
        return arm
    if not match.groups():
        raise UserError(f"--methods {methods!r} has no group in parentheses; write e.g. '(.+)_[sml]$'")
    return match[1]


def _runs_of_arms(plan: StudyPlan, methods: str | None, *, final: bool) -> Table:
    """Return the rows of all finished runs with a loss, and the column `method`."""
    from pathways_lite.errors import UserError
    from pathways_lite.scaling.runs_table import runs_table

    nodes = {label: identity for identity, node in plan.store.nodes.items() for label in node.is_last}
    labels = iter(plan.study.recipes)
    parts: list[Table] = []
    for arm, recipes in plan.study.arms.items():
        for label in (next(labels) for _ in recipes):
            identity = nodes[label]
            if plan.nodes[identity].state != "done":
                continue
            part = runs_table([plan.store.run_directory(identity).path], final=final)
            if "unknown" in part.get("cost_elsewhere", ()):
                raise UserError(
                    f"arm {arm} starts from a model that was trained elsewhere at an unknown cost, so what it is worth "
                    "in total compute or tokens is unknown; leave out --law, or state the cost of that model "
                    "(pathways-lite convert --from hf --tokens N)"
                )
            rows = np.isfinite(part["L"]) & np.isfinite(part["C"]) & (part["C"] > 0)
            part = {name: part[name][rows] for name in ("N", "D", "C", "L", "seed")}
            parts.append({**part, "method": np.full(int(rows.sum()), method_of(arm, methods), dtype=object)})
    if not parts:
        raise UserError(f"no run of {plan.study.name} is finished, so no law can be fitted to its arms")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _choose_law(table: Table, *, along: bool) -> str:
    """Return the law that the runs can carry: of N and D if both vary in every method, else of compute."""
    if along:
        return "compute"
    for name in dict.fromkeys(table["method"].tolist()):
        rows = table["method"] == name
        points = np.unique(np.stack([table["N"][rows], table["D"][rows]]), axis=1)
        if len(np.unique(points[0])) < 2 or points.shape[1] < 4 or len(np.unique(points[1] / points[0])) < 2:
            return "compute"
    return "chinchilla"


def efficiency_section(efficiency: Efficiency) -> str:
    """Render the result as a section of the study's page."""
    from pathways_lite.tracking.page import paragraph, section, table

    rows = []
    for factor in efficiency.factors:
        value, low, high = factor.shared.texts(".4g")
        limits = f"{low} to {high}" if low else "–"
        numbers = (factor.smallest.value, factor.largest.value, factor.p_value)
        shown = [plain(number, ".3g") if np.isfinite(number) else "–" for number in numbers]
        rows.append([f"{factor.arm}, {factor.column}", value, limits, *shown])
    source = f"over {efficiency.replicates} seeds" if efficiency.replicates else f"over {efficiency.rows} finished runs"
    caption = f"{efficiency.law.formula}; 95 % intervals {source}; p of a factor that changes with scale, after Holm."
    header = ("", "factor", "interval", "smallest scale", "largest scale", "p")
    sentences = (paragraph(sentence, "verdict") for sentence in efficiency.sentences())
    return section("What each arm is worth", *sentences, table(header, rows, caption=caption))
