"""The index of a study's directory, `study.json`: which arms its nodes belong to, for what lists and deletes runs."""

from __future__ import annotations

from typing import Any

from pathways_lite.run_directory import STUDY_INDEX, write_json
from pathways_lite.studies.store import StudyStore
from pathways_lite.studies.study import Study


def write_study_index(study: Study, store: StudyStore) -> None:
    """Write the names of the study and its arms, and the arms of every node that the study has now."""
    arm_of = study.arm_of
    nodes: dict[str, Any] = {
        identity: {"label": node.label, "arms": list(dict.fromkeys(arm_of[user] for user in node.users))}
        for identity, node in store.nodes.items()
    }
    store.path.mkdir(parents=True, exist_ok=True)
    write_json(store.path / STUDY_INDEX, {"study": study.name, "arms": list(study.arms), "nodes": nodes})
