"""Companion files: what a checkpoint carries beside its arrays, so that it can be used where only it is.

They are listed in the manifest like the arrays' files, and are the same in all checkpoints of a stage: a new checkpoint
links to the files of the one before it (hard links), so that many checkpoints hold one copy. A copied checkpoint has
its own. Damage to a companion is told when it is read and by `fsck`, and does not keep the arrays from being restored:
all checkpoints of the stage share the file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pathways_lite.checkpoints.manifest import DamagedError, FileInfo, Manifest, open_regular

ARRAYS = "arrays"  # the directory of the arrays' files


def is_companion(name: str) -> bool:
    """Return whether a file of a manifest is not part of an array."""
    return not name.startswith(f"{ARRAYS}/")


def write_companions(checkpoint: Path, files: Mapping[str, bytes], earlier: Path | None) -> None:
    """Write files, by their paths below `checkpoint`; link to those of `earlier` that have the same content.

    Raises OSError where the disk refuses them.
    """
    for name, content in files.items():
        path = checkpoint / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if earlier is None or not _link(earlier / name, path, content):
            path.write_bytes(content)


def companion_sizes(manifest: Manifest) -> dict[str, int]:
    """Return the bytes of each companion file."""
    return {name: info.nbytes for name, info in manifest.files.items() if is_companion(name)}


def read_companions(checkpoint: Path, manifest: Manifest) -> dict[str, bytes]:
    """Read all companion files, by name. Raises DamagedError for one that is not what was written."""
    files = {}
    for name, expected in manifest.files.items():
        if not is_companion(name):
            continue
        try:
            with open_regular(checkpoint / name) as file:
                content = file.read(expected.nbytes + 1)
        except OSError as error:
            raise DamagedError(checkpoint, [f"{name} cannot be read: {error.strerror}"]) from error
        if FileInfo.of_bytes(content) != expected:
            raise DamagedError(checkpoint, [f"{name}: its content is not what was written"])
        files[name] = content
    return files


def _link(source: Path, path: Path, content: bytes) -> bool:
    """Link `path` to `source` if that is a file with this content, and the file system has hard links."""
    try:
        with open_regular(source) as file:
            if file.read(len(content) + 1) != content:
                return False
        os.link(source, path)
    except OSError:
        return False
    return True
