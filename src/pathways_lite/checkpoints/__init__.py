"""Checkpoints: any pytree of arrays and a JSON dictionary, written atomically and verified when read.

A training loop uses `CheckpointManager`; `restore` and `read_manifest` open one checkpoint; `fsck` verifies all.
The module `checkpoint` describes the layout on disk and the three layers of verification.
"""

from pathways_lite.checkpoint_names import step_of
from pathways_lite.checkpoints.checkpoint import (
    RestoredState,
    read_manifest,
    require_undamaged,
    restore,
    restore_differences,
)
from pathways_lite.checkpoints.companions import companion_sizes, read_companions
from pathways_lite.checkpoints.fsck import Finding, checkpoint_paths, fsck, verify_checkpoint
from pathways_lite.checkpoints.manager import CheckpointManager
from pathways_lite.checkpoints.manifest import ArrayInfo, DamagedError, Manifest
from pathways_lite.checkpoints.reader import CheckpointReader
from pathways_lite.checkpoints.streaming import StreamedArray, open_checkpoint, require_absent, write_streamed

__all__ = [
    "ArrayInfo",
    "CheckpointManager",
    "CheckpointReader",
    "DamagedError",
    "Finding",
    "Manifest",
    "RestoredState",
    "StreamedArray",
    "checkpoint_paths",
    "companion_sizes",
    "verify_checkpoint",
    "fsck",
    "open_checkpoint",
    "read_companions",
    "read_manifest",
    "require_absent",
    "require_undamaged",
    "restore",
    "restore_differences",
    "step_of",
    "write_streamed",
]
