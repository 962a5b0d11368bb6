"""The index of a study's directory, `study.json`: which arms its nodes belong to, for what lists and deletes runs.

It also says of which file the study is, with which overrides, so that the directory can be named in the place of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pathways_lite.run_directory import STUDY_INDEX, study_facts, write_json
from pathways_lite.studies.store import StudyStore
from pathways_lite.studies.study import Study


def write_study_index(study: Study, store: StudyStore, file: Path | None = None, overrides: Sequence[str] = ()) -> None:
    """Write the names of the study and its arms, and the arms of every node that the study has now.

    `file`, `overrides`: what the study was loaded from, which is left as it was where it is not known.
    """
    arm_of = study.arm_of
    nodes: dict[str, Any] = {
        identity: {"label": node.label, "arms": list(dict.fromkeys(arm_of[user] for user in node.users))}
        for identity, node in store.nodes.items()
    }
    source = read_study_source(store.path)
    if file is not None:
        source = str(file.absolute()), list(overrides)
    store.path.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {"study": study.name, "arms": list(study.arms), "nodes": nodes}
    if source is not None:
        facts |= {"file": source[0], "overrides": source[1]}
    write_json(store.path / STUDY_INDEX, facts)


def read_study_source(directory: Path) -> tuple[str, list[str]] | None:
    """Return the file that a study's directory was made from, and the overrides; None where it does not say."""
    facts = study_facts(directory)
    file, overrides = facts.get("file"), facts.get("overrides", [])
    if not isinstance(file, str) or not isinstance(overrides, list):
        return None
    return file, [str(override) for override in overrides]
