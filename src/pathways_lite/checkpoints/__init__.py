"""Checkpoints: any pytree of arrays and a JSON dictionary, whole or not at all, verified when read.

`Checkpoints` is what a training loop uses; `restore` and `read_manifest` open one checkpoint; `fsck` examines all.
"""

from pathways_lite.checkpoints.fsck import Finding, checkpoint_paths, examine, fsck
from pathways_lite.checkpoints.manifest import ArrayInfo, Manifest
from pathways_lite.checkpoints.series import Checkpoints
from pathways_lite.checkpoints.store import DamagedError, Restored, read_manifest, restore, step_of

__all__ = [
    "ArrayInfo",
    "Checkpoints",
    "DamagedError",
    "Finding",
    "Manifest",
    "Restored",
    "checkpoint_paths",
    "examine",
    "fsck",
    "read_manifest",
    "restore",
    "step_of",
]
