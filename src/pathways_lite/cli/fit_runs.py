"""The finished runs that `fit` reads from a study or a directory, and what to know before one law is fitted to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathways_lite.scaling.table import Table

_SHOWN = 6  # names in a sentence
_SCALES = 3  # different sizes or budgets that a law of one input needs
_APART = ("arm", "optimizer", "schedule", "lr", "B", "start")  # columns that may tell methods apart


def is_study_or_runs(path: Path) -> bool:
    """Return whether runs are meant, not a table: a study's file, or a directory."""
    return path.suffix == ".py" or path.is_dir()


def study_directory(path: Path) -> Path:
    """Return the directory with the runs that `path` means."""
    if path.is_dir():
        return path
    from pathways_lite.studies.study import load_study

    return Path("runs") / load_study(path).name


def finished_runs(path: Path) -> Table:
    """Return a row for every finished run of a study, given by its file or directory, or of a directory of runs.

    Runs of a study have their arm in the column `arm`.
    """
    from pathways_lite.scaling.runs_table import runs_table

    if path.is_dir():
        return _with_arms(runs_table([path], final=True))
    from pathways_lite.errors import UserError
    from pathways_lite.studies.plan import resolve_study, study_store
    from pathways_lite.studies.study import load_study

    store = study_store(resolve_study(load_study(path)), study_directory(path))
    if not (runs := store.finished_runs()):
        raise UserError(
            f"no run of {path} is finished in {store.path}; train them with `pathways-lite study run {path}`"
        )
    return _with_arms(runs_table(runs, final=True))


def _with_arms(table: Table) -> Table:
    """Add the column `arm`, of the studies whose nodes the runs are, as their study.json says; nothing without one."""
    from pathways_lite.run_directory import study_node

    of_nodes = [study_node(Path(run)).get("arms") for run in table["run"]]
    arms = [str(names[0]) if isinstance(names, list) and names else "" for names in of_nodes]
    return {**table, "arm": np.array(arms, dtype=object)} if any(arms) else table


def arms_note(table: Table, path: Path) -> list[str]:
    """Say that the rows are of several arms of a study, which one fit does not tell apart."""
    arms = list(dict.fromkeys(map(str, table.get("arm", ()))))
    if len(arms) < 2 or not is_study_or_runs(path):
        return []
    apart = next((name for name in _APART if _has_scales(table, name)), None)
    each = f"fit them apart with --each {apart}, " if apart else ""
    return [
        f"The runs are of {len(arms)} arms ({_list(arms)}), which this fit pools, so that its intervals hold what "
        f"arms differ by as well: {each}choose some with --where, or fit a factor per arm with `pathways-lite study "
        "report STUDY --law auto` (--methods joins arms that differ in budget alone)."
    ]


def settings_note(table: Table, inputs: Sequence[str]) -> list[str]:
    """Say that rows with equal inputs differ in more than a seed, which one fit does not tell apart."""
    from pathways_lite.scaling.pooling import differing_settings

    if not (names := differing_settings(table, inputs)):
        return []
    counts = {name: len(np.unique(table[name].astype(str))) for name in names}
    apart = next((name for name in names if _has_scales(table, name)), None)
    each = f"fit them apart with --each {apart}, or " if apart else ""
    value = table[names[0]][0]
    shown = f'"{value}"' if isinstance(value, str) else f"{value:g}"
    return [
        f"Rows with equal {' and '.join(inputs)} differ in {', '.join(f'{n} ({counts[n]} values)' for n in names)}: "
        "this fit pools them, so that its intervals hold what they differ by as well, and takes none for a repeat: "
        f"{each}choose some with --where '{names[0]} == {shown}'."
    ]


def _has_scales(table: Table, column: str) -> bool:
    """Return whether the column has several values, each with runs of enough amounts of compute, tokens or sizes."""
    if column not in table:
        return False
    labels = np.asarray(table[column]).astype(str)
    sizes = [np.asarray(table[name], dtype=float) for name in ("N", "D", "C") if name in table]
    if not sizes:
        return False
    scales = np.stack(sizes, axis=1)
    values = np.unique(labels)
    return len(values) > 1 and all(len(np.unique(scales[labels == value], axis=0)) >= _SCALES for value in values)


def left_out_notes(path: Path, used: Sequence[str]) -> list[str]:
    """Say which runs of a directory are not among the rows `used`, and why."""
    from pathways_lite.errors import counted
    from pathways_lite.scaling.runs_table import find_runs, left_out_studies
    from pathways_lite.tracking.run_data import read_run

    if not path.is_dir():
        return []
    rows, notes = set(map(str, used)), []
    others = [run for run in find_runs(path) if str(run) not in rows]
    unfinished = [run.name for run in others if not read_run(run).is_finished]
    if unfinished:
        notes.append(f"{counted(len(unfinished), 'run')} left out, not finished: {_list(unfinished)}.")
    if repeated := [run.name for run in others if run.name not in unfinished]:
        notes.append(
            f"{counted(len(repeated), 'run')} left out, without a held-out evaluation or with the same last stage as "
            f"another run: {_list(repeated)}."
        )
    if note := left_out_studies([path], "fit a study by itself, as in"):
        notes.append(f"{note}.")
    return notes


def corpora_notes(table: Table) -> list[str]:
    """Say that the runs read different corpora, so that their losses are of different texts, and of what tokens."""
    if "corpus" not in table or "lineage" not in table:
        return []
    counts = Counter(map(str, table["corpus"]))
    if len(counts) < 2:
        return []
    sizes = np.unique(np.nan_to_num(np.asarray(table.get("vocab_size", [0.0]), dtype=float)))
    tokens = (
        f" in tokens of different tokenizers ({' and '.join(f'{size:.0f}' for size in sizes)} ids)"
        if len(sizes) > 1
        else ""
    )
    shown = ", ".join(f"{name} in {count}" for name, count in counts.most_common(_SHOWN))
    return [
        f"The runs read {len(counts)} corpora ({shown}), so that L is the loss on different texts{tokens}, which no "
        f"law describes together: fit them apart with --each corpus, or choose one with --where 'corpus == "
        f'"{counts.most_common(1)[0][0]}"\'.'
    ]


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
