"""Checkpoints: any pytree of arrays and a JSON dictionary, whole or not at all, verified when read.

`Checkpoints` is what a training loop uses; `restore` and `read_manifest` open one checkpoint; `fsck` examines all.
"""

from pathways_lite.checkpoints.checkpoint import (
    DamagedError,
    Restored,
    read_manifest,
    require_whole,
    restore,
    step_of,
)
from pathways_lite.checkpoints.fsck import Finding, checkpoint_paths, examine, fsck
from pathways_lite.checkpoints.manager import Checkpoints
from pathways_lite.checkpoints.manifest import ArrayInfo, Manifest
from pathways_lite.checkpoints.reader import Reader
from pathways_lite.checkpoints.streaming import Streamed, open_checkpoint, write_streamed

__all__ = [
    "ArrayInfo",
    "Checkpoints",
    "DamagedError",
    "Finding",
    "Manifest",
    "Reader",
    "Restored",
    "Streamed",
    "checkpoint_paths",
    "examine",
    "fsck",
    "open_checkpoint",
    "read_manifest",
    "require_whole",
    "restore",
    "step_of",
    "write_streamed",
]
