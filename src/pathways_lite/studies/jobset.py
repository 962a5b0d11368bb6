"""Export nodes as Kubernetes JobSets, from a template for one recipe on this cluster (jobset.yaml).

A JobSet has all nodes with the same root; each is a replicated job that depends on its parent's completion
(`dependsOn`, JobSet 0.8 or later). Nodes that share no stage are in separate JobSets, so that they neither wait for
each other nor fail together. A restarted JobSet does not train finished nodes again.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from pathways_lite.errors import UserError
from pathways_lite.studies.executor import train_arguments
from pathways_lite.studies.store import StudyStore
from pathways_lite.studies.study import node_chain

TEMPLATE = Path(__file__).with_name("jobset.yaml")
"""The template that comes with the package, to be copied and filled in for a cluster."""

_MAX_NAME_LENGTH = 40  # characters; with a job's name and index a pod's name must stay below 63


def make_jobsets(store: StudyStore, name: str, template: Path) -> list[dict[str, Any]]:
    """Build a manifest per tree of nodes that are not done. Raises UserError for an invalid template."""
    pattern = _read_template(template)
    nodes_by_root: dict[str, list[str]] = {}
    for identity, state in store.states().items():
        if state != "done":
            nodes_by_root.setdefault(node_chain(store.nodes, identity)[0].identity, []).append(identity)
    return [
        _make_jobset(store, f"{name[:_MAX_NAME_LENGTH]}-{root[:8]}", nodes, pattern)
        for root, nodes in nodes_by_root.items()
    ]


def to_yaml(manifests: list[dict[str, Any]]) -> str:
    """Return YAML documents for `kubectl apply -f`."""
    return yaml.safe_dump_all(manifests, sort_keys=False)


def _make_jobset(store: StudyStore, name: str, nodes: list[str], template: dict[str, Any]) -> dict[str, Any]:
    manifest = copy.deepcopy(template)
    manifest["metadata"]["name"] = name.lower().replace("_", "-").replace(".", "-")
    (job,) = manifest["spec"]["replicatedJobs"]
    manifest["spec"]["replicatedJobs"] = [_make_job(store, identity, nodes, job) for identity in nodes]
    return manifest


def _make_job(store: StudyStore, identity: str, nodes: list[str], template: dict[str, Any]) -> dict[str, Any]:
    job = {"name": _job_name(identity), **{key: value for key, value in template.items() if key != "name"}}
    job = copy.deepcopy(job)
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    container["command"] = ["pathways-lite", *train_arguments(store.prepare(identity))]
    parent = store.nodes[identity].parent
    if parent in nodes:
        job["dependsOn"] = [{"name": _job_name(str(parent)), "status": "Complete"}]
    return job


def _job_name(identity: str) -> str:
    return f"n{identity[:12]}"


def _read_template(template: Path) -> dict[str, Any]:
    try:
        pattern = yaml.safe_load(template.read_text(encoding="utf-8"))
        (job,) = pattern["spec"]["replicatedJobs"]
        (_,) = job["template"]["spec"]["template"]["spec"]["containers"]
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{template} is not a JobSet with one replicated job with one container ({error!r}); start from a copy of "
            f"{TEMPLATE} and give its path with --template"
        ) from error
    return dict(pattern)
